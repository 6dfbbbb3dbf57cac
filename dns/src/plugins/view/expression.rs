//! Expressions about a query, in the syntax of CoreDNS's (expr-lang): parsed and checked once, evaluated per query.
//!
//! Types are checked when an expression is read, so that an evaluation can fail only for an address or a network that
//! the query itself provides. There are no loops: the work is bounded by the length of the expression.

use std::{cmp::Ordering, net::IpAddr};

use hickory_server::proto::rr::{DNSClass, RecordType};
use ipnetwork::IpNetwork;
use regex::Regex;

use super::syntax::{Token, tokens};
use crate::{cluster::name::QueryName, observe::metrics::Transport};

/// A query, as far as expressions see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub name: &'a QueryName,
    pub qtype: RecordType,
    pub class: DNSClass,
    pub transport: Transport,
    pub client: IpAddr,
    pub port: u16,
    /// The address that the query came to.
    pub server: IpAddr,
    pub server_port: u16,
    pub id: u16,
    /// In octets.
    pub size: usize,
    pub dnssec_ok: bool,
    /// The UDP payload size of the OPT.
    pub payload: Option<u16>,
}

/// An expression that is true or false.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    text: String,
    node: Node,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Number(i64),
    Truth(bool),
    List(Vec<Node>),
    Call(Function),
    InNetwork(Box<Node>, Box<Node>),
    Lower(Box<Node>),
    Upper(Box<Node>),
    Length(Box<Node>),
    Not(Box<Node>),
    Negative(Box<Node>),
    Matches(Box<Node>, Regex),
    Binary(Box<Node>, Operator, Box<Node>),
    Choice(Box<[Node; 3]>),
}

/// Functions without arguments, and those whose arguments mean nothing here.
#[derive(Debug, Clone, Copy)]
enum Function {
    Name,
    Type,
    Class,
    ClientIp,
    Port,
    ServerIp,
    ServerPort,
    Proto,
    Id,
    Opcode,
    Do,
    Size,
    Bufsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    Greater,
    AtMost,
    AtLeast,
    In,
    Contains,
    StartsWith,
    EndsWith,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Truth,
    Texts,
    Numbers,
    /// A list without elements.
    Nothing,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(i64),
    Truth(bool),
    List(Vec<Value>),
}

/// Limit of nested parentheses and operators.
const MAX_DEPTH: usize = 64;
/// The UDP payload of a query without EDNS (RFC 1035, section 4.2.1).
const MIN_PAYLOAD: u16 = 512;

impl Expression {
    /// Errors: what is wrong, and the remedy.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens, depth: 0 };
        let (node, kind) = parser.choice()?;
        if let Some(token) = parser.tokens.first() {
            return Err(format!("{token:?} is one word too many in `{text}`"));
        }
        match kind {
            Kind::Truth => Ok(Self { text: text.to_owned(), node }),
            Kind::Text | Kind::Number | Kind::Texts | Kind::Numbers | Kind::Nothing => {
                Err(format!("`{text}` is neither true nor false; compare it with something"))
            }
        }
    }

    pub(super) fn is_true(&self, asked: &Asked<'_>) -> bool {
        self.node.value(asked) == Some(Value::Truth(true))
    }
}

struct Parser<'t> {
    tokens: &'t [Token],
    depth: usize,
}

type Parsed = Result<(Node, Kind), String>;

impl Parser<'_> {
    fn next(&mut self) -> Option<&Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn takes(&mut self, symbol: &str) -> bool {
        let is_it = matches!(self.tokens.first(), Some(Token::Symbol(found)) if *found == symbol);
        if is_it {
            self.tokens = &self.tokens[1..];
        }
        is_it
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.tokens.first(), Some(Token::Word(found)) if found == word);
        if is_it {
            self.tokens = &self.tokens[1..];
        }
        is_it
    }

    fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.takes(symbol) { Ok(()) } else { Err(format!("a {symbol} is missing")) }
    }

    /// `CONDITION ? ONE : OTHER`
    fn choice(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("the expression is nested too deeply".to_owned());
        }
        let condition = self.binary(0)?;
        let chosen = if self.takes("?") {
            let one = self.choice()?;
            self.expect(":")?;
            let other = self.choice()?;
            if condition.1 != Kind::Truth || one.1 != other.1 {
                return Err("`CONDITION ? ONE : OTHER` takes a condition and two of one kind".to_owned());
            }
            (Node::Choice(Box::new([condition.0, one.0, other.0])), one.1)
        } else {
            condition
        };
        self.depth -= 1;
        Ok(chosen)
    }

    fn binary(&mut self, least: u8) -> Parsed {
        let mut left = self.unary()?;
        let mut count = 0;
        while let Some((operator, binding, is_negated, words)) =
            self.operator().filter(|found| found.1 >= least)
        {
            count += 1;
            if count > MAX_DEPTH {
                return Err("the expression has too many operators in a row".to_owned());
            }
            self.tokens = &self.tokens[words..];
            left = match operator {
                None => self.matches(left)?,
                Some(operator) => {
                    let right = self.binary(binding + 1)?;
                    let kind = kind_of(left.1, operator, right.1)?;
                    (Node::Binary(Box::new(left.0), operator, Box::new(right.0)), kind)
                }
            };
            if is_negated {
                left = (Node::Not(Box::new(left.0)), Kind::Truth);
            }
        }
        Ok(left)
    }

    /// The next operator (`None`: `matches`), how strongly it binds, whether `not` precedes it, and its words.
    fn operator(&self) -> Option<(Option<Operator>, u8, bool, usize)> {
        let is_negated = matches!(self.tokens.first(), Some(Token::Word(word)) if word == "not");
        let token = self.tokens.get(usize::from(is_negated))?;
        let (operator, binding) = match token {
            Token::Symbol(symbol) => match *symbol {
                "||" => (Some(Operator::Or), 1),
                "&&" => (Some(Operator::And), 2),
                "==" => (Some(Operator::Equal), 3),
                "!=" => (Some(Operator::NotEqual), 3),
                "<" => (Some(Operator::Less), 3),
                ">" => (Some(Operator::Greater), 3),
                "<=" => (Some(Operator::AtMost), 3),
                ">=" => (Some(Operator::AtLeast), 3),
                "+" => (Some(Operator::Add), 4),
                "-" => (Some(Operator::Subtract), 4),
                "*" => (Some(Operator::Multiply), 5),
                "/" => (Some(Operator::Divide), 5),
                "%" => (Some(Operator::Remainder), 5),
                _ => return None,
            },
            Token::Word(word) => match word.as_str() {
                "or" => (Some(Operator::Or), 1),
                "and" => (Some(Operator::And), 2),
                "in" => (Some(Operator::In), 3),
                "contains" => (Some(Operator::Contains), 3),
                "startsWith" => (Some(Operator::StartsWith), 3),
                "endsWith" => (Some(Operator::EndsWith), 3),
                "matches" => (None, 3),
                _ => return None,
            },
            Token::Text(_) | Token::Number(_) => return None,
        };
        let may_be_negated = matches!(
            operator,
            None | Some(Operator::In | Operator::Contains | Operator::StartsWith | Operator::EndsWith)
        );
        (!is_negated || may_be_negated).then_some((
            operator,
            binding,
            is_negated,
            1 + usize::from(is_negated),
        ))
    }

    fn matches(&mut self, (left, kind): (Node, Kind)) -> Parsed {
        let Some(Token::Text(pattern)) = self.next() else {
            return Err("`matches` takes a regular expression in quotes".to_owned());
        };
        let pattern =
            Regex::new(pattern).map_err(|error| format!("`{pattern}` is no regular expression: {error}"))?;
        expect_kind(kind, Kind::Text, "matches")?;
        Ok((Node::Matches(Box::new(left), pattern), Kind::Truth))
    }

    fn unary(&mut self) -> Parsed {
        if self.takes("!") || self.takes_word("not") {
            let (node, kind) = self.nested(Self::unary)?;
            expect_kind(kind, Kind::Truth, "not")?;
            return Ok((Node::Not(Box::new(node)), Kind::Truth));
        }
        if self.takes("-") {
            let (node, kind) = self.nested(Self::unary)?;
            expect_kind(kind, Kind::Number, "-")?;
            return Ok((Node::Negative(Box::new(node)), Kind::Number));
        }
        self.operand()
    }

    fn nested(&mut self, parse: impl Fn(&mut Self) -> Parsed) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("the expression is nested too deeply".to_owned());
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn operand(&mut self) -> Parsed {
        if self.takes("(") {
            let inside = self.choice()?;
            self.expect(")")?;
            return Ok(inside);
        }
        if self.takes("[") {
            return self.list();
        }
        match self.next().cloned() {
            Some(Token::Text(text)) => Ok((Node::Text(text), Kind::Text)),
            Some(Token::Number(number)) => Ok((Node::Number(number), Kind::Number)),
            Some(Token::Word(word)) if word == "true" || word == "false" => {
                Ok((Node::Truth(word == "true"), Kind::Truth))
            }
            Some(Token::Word(word)) => self.call(&word),
            Some(Token::Symbol(symbol)) => Err(format!("there is nothing before `{symbol}`")),
            None => Err("the expression ends too early".to_owned()),
        }
    }

    fn list(&mut self) -> Parsed {
        let (mut nodes, mut list_kind) = (Vec::new(), Kind::Nothing);
        while !self.takes("]") {
            if !nodes.is_empty() {
                self.expect(",")?;
            }
            let (node, kind) = self.choice()?;
            let kind = match kind {
                Kind::Text => Kind::Texts,
                Kind::Number => Kind::Numbers,
                Kind::Truth | Kind::Texts | Kind::Numbers | Kind::Nothing => {
                    return Err("a list is of texts or of numbers".to_owned());
                }
            };
            if list_kind != Kind::Nothing && list_kind != kind {
                return Err("a list is of texts or of numbers".to_owned());
            }
            list_kind = kind;
            nodes.push(node);
        }
        Ok((Node::List(nodes), list_kind))
    }

    fn call(&mut self, name: &str) -> Parsed {
        if !self.takes("(") {
            return Err(format!("`{name}` is no function with its parentheses; write for example `name()`"));
        }
        let mut arguments = Vec::new();
        while !self.takes(")") {
            if !arguments.is_empty() {
                self.expect(",")?;
            }
            arguments.push(self.choice()?);
        }
        match (name, arguments.as_slice()) {
            ("incidr", [(address, Kind::Text), (network, Kind::Text)]) => {
                if let Node::Text(text) = network
                    && text.parse::<IpNetwork>().is_err()
                {
                    return Err(format!("`{text}` is no network; write one such as `10.0.0.0/8`"));
                }
                Ok((Node::InNetwork(Box::new(address.clone()), Box::new(network.clone())), Kind::Truth))
            }
            // There is no metadata here, and CoreDNS's of an unknown label is empty.
            ("metadata", [(_, Kind::Text)]) => Ok((Node::Text(String::new()), Kind::Text)),
            ("lower", [(text, Kind::Text)]) => Ok((Node::Lower(Box::new(text.clone())), Kind::Text)),
            ("upper", [(text, Kind::Text)]) => Ok((Node::Upper(Box::new(text.clone())), Kind::Text)),
            ("len", [(value, Kind::Text | Kind::Texts | Kind::Numbers | Kind::Nothing)]) => {
                Ok((Node::Length(Box::new(value.clone())), Kind::Number))
            }
            ("incidr" | "metadata" | "lower" | "upper" | "len", _) => Err(wrong_arguments(name)),
            _ => {
                let (function, kind) = function(name)?;
                if arguments.is_empty() {
                    Ok((Node::Call(function), kind))
                } else {
                    Err(wrong_arguments(name))
                }
            }
        }
    }
}

fn wrong_arguments(name: &str) -> String {
    format!("`{name}` is no function of these arguments")
}

fn function(name: &str) -> Result<(Function, Kind), String> {
    Ok(match name {
        "name" => (Function::Name, Kind::Text),
        "type" => (Function::Type, Kind::Text),
        "class" => (Function::Class, Kind::Text),
        "client_ip" => (Function::ClientIp, Kind::Text),
        "port" => (Function::Port, Kind::Text),
        "server_ip" => (Function::ServerIp, Kind::Text),
        "server_port" => (Function::ServerPort, Kind::Text),
        "proto" => (Function::Proto, Kind::Text),
        "id" => (Function::Id, Kind::Number),
        "opcode" => (Function::Opcode, Kind::Number),
        "do" => (Function::Do, Kind::Truth),
        "size" => (Function::Size, Kind::Number),
        "bufsize" => (Function::Bufsize, Kind::Number),
        _ => {
            return Err(format!(
                "there is no function `{name}`; there are name, type, class, client_ip, port, server_ip, server_port, \
                 proto, id, opcode, do, size, bufsize, incidr, metadata, lower, upper and len"
            ));
        }
    })
}

fn expect_kind(found: Kind, wanted: Kind, operator: &str) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("`{operator}` does not apply to a value of this kind")) }
}

fn kind_of(left: Kind, operator: Operator, right: Kind) -> Result<Kind, String> {
    let (fits, result) = match operator {
        Operator::Or | Operator::And => (left == Kind::Truth && right == Kind::Truth, Kind::Truth),
        Operator::Equal | Operator::NotEqual => (left == right, Kind::Truth),
        Operator::Less | Operator::Greater | Operator::AtMost | Operator::AtLeast => {
            (left == right && matches!(left, Kind::Text | Kind::Number), Kind::Truth)
        }
        Operator::In => {
            let is_element = matches!(
                (left, right),
                (Kind::Text, Kind::Texts)
                    | (Kind::Number, Kind::Numbers)
                    | (Kind::Text | Kind::Number, Kind::Nothing)
            );
            (is_element, Kind::Truth)
        }
        Operator::Contains | Operator::StartsWith | Operator::EndsWith => {
            (left == Kind::Text && right == Kind::Text, Kind::Truth)
        }
        Operator::Add => (left == right && matches!(left, Kind::Text | Kind::Number), left),
        Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder => {
            (left == Kind::Number && right == Kind::Number, Kind::Number)
        }
    };
    if fits { Ok(result) } else { Err(format!("{operator:?} does not apply to values of these kinds")) }
}

impl Node {
    /// `None`: the evaluation fails.
    fn value(&self, asked: &Asked<'_>) -> Option<Value> {
        Some(match self {
            Self::Text(text) => Value::Text(text.clone()),
            Self::Number(number) => Value::Number(*number),
            Self::Truth(truth) => Value::Truth(*truth),
            Self::List(nodes) => {
                Value::List(nodes.iter().map(|node| node.value(asked)).collect::<Option<_>>()?)
            }
            Self::Call(function) => function.value(asked),
            Self::InNetwork(address, network) => {
                let (address, network) = (address.text(asked)?, network.text(asked)?);
                let (address, network) =
                    (address.parse::<IpAddr>().ok()?, network.parse::<IpNetwork>().ok()?);
                Value::Truth(network.contains(address))
            }
            Self::Lower(node) => Value::Text(node.text(asked)?.to_lowercase()),
            Self::Upper(node) => Value::Text(node.text(asked)?.to_uppercase()),
            Self::Length(node) => Value::Number(match node.value(asked)? {
                Value::Text(text) => i64::try_from(text.chars().count()).ok()?,
                Value::List(list) => i64::try_from(list.len()).ok()?,
                Value::Number(_) | Value::Truth(_) => return None,
            }),
            Self::Not(node) => Value::Truth(!node.truth(asked)?),
            Self::Negative(node) => Value::Number(node.number(asked)?.checked_neg()?),
            Self::Matches(node, pattern) => Value::Truth(pattern.is_match(&node.text(asked)?)),
            Self::Binary(left, operator, right) => return binary(left, *operator, right, asked),
            Self::Choice(nodes) => {
                let [condition, one, other] = &**nodes;
                return if condition.truth(asked)? { one.value(asked) } else { other.value(asked) };
            }
        })
    }

    fn text(&self, asked: &Asked<'_>) -> Option<String> {
        match self.value(asked)? {
            Value::Text(text) => Some(text),
            Value::Number(_) | Value::Truth(_) | Value::List(_) => None,
        }
    }

    fn number(&self, asked: &Asked<'_>) -> Option<i64> {
        match self.value(asked)? {
            Value::Number(number) => Some(number),
            Value::Text(_) | Value::Truth(_) | Value::List(_) => None,
        }
    }

    fn truth(&self, asked: &Asked<'_>) -> Option<bool> {
        match self.value(asked)? {
            Value::Truth(truth) => Some(truth),
            Value::Text(_) | Value::Number(_) | Value::List(_) => None,
        }
    }
}

fn binary(left: &Node, operator: Operator, right: &Node, asked: &Asked<'_>) -> Option<Value> {
    let truth = match operator {
        // The right side of these may fail without effect.
        Operator::Or => left.truth(asked)? || right.truth(asked)?,
        Operator::And => left.truth(asked)? && right.truth(asked)?,
        Operator::Equal => left.value(asked)? == right.value(asked)?,
        Operator::NotEqual => left.value(asked)? != right.value(asked)?,
        Operator::Less => order(left, right, asked)? == Ordering::Less,
        Operator::Greater => order(left, right, asked)? == Ordering::Greater,
        Operator::AtMost => order(left, right, asked)? != Ordering::Greater,
        Operator::AtLeast => order(left, right, asked)? != Ordering::Less,
        Operator::In => match right.value(asked)? {
            Value::List(list) => list.contains(&left.value(asked)?),
            Value::Text(_) | Value::Number(_) | Value::Truth(_) => return None,
        },
        Operator::Contains => left.text(asked)?.contains(&right.text(asked)?),
        Operator::StartsWith => left.text(asked)?.starts_with(&right.text(asked)?),
        Operator::EndsWith => left.text(asked)?.ends_with(&right.text(asked)?),
        Operator::Add => {
            return match (left.value(asked)?, right.value(asked)?) {
                (Value::Text(one), Value::Text(other)) => Some(Value::Text(one + &other)),
                (Value::Number(one), Value::Number(other)) => one.checked_add(other).map(Value::Number),
                _ => None,
            };
        }
        Operator::Subtract => {
            return left.number(asked)?.checked_sub(right.number(asked)?).map(Value::Number);
        }
        Operator::Multiply => {
            return left.number(asked)?.checked_mul(right.number(asked)?).map(Value::Number);
        }
        Operator::Divide => return left.number(asked)?.checked_div(right.number(asked)?).map(Value::Number),
        Operator::Remainder => {
            return left.number(asked)?.checked_rem(right.number(asked)?).map(Value::Number);
        }
    };
    Some(Value::Truth(truth))
}

fn order(left: &Node, right: &Node, asked: &Asked<'_>) -> Option<Ordering> {
    match (left.value(asked)?, right.value(asked)?) {
        (Value::Text(one), Value::Text(other)) => Some(one.cmp(&other)),
        (Value::Number(one), Value::Number(other)) => Some(one.cmp(&other)),
        _ => None,
    }
}

impl Function {
    fn value(self, asked: &Asked<'_>) -> Value {
        match self {
            Self::Name => Value::Text(text(asked.name)),
            Self::Type => Value::Text(asked.qtype.to_string()),
            Self::Class => Value::Text(asked.class.to_string()),
            Self::ClientIp => Value::Text(asked.client.to_string()),
            Self::Port => Value::Text(asked.port.to_string()),
            Self::ServerIp => Value::Text(asked.server.to_string()),
            Self::ServerPort => Value::Text(asked.server_port.to_string()),
            Self::Proto => Value::Text(asked.transport.name().to_owned()),
            Self::Id => Value::Number(asked.id.into()),
            // Queries with another one are refused before.
            Self::Opcode => Value::Number(0),
            Self::Do => Value::Truth(asked.dnssec_ok),
            Self::Size => Value::Number(i64::try_from(asked.size).unwrap_or(i64::MAX)),
            Self::Bufsize => Value::Number(match asked.transport {
                Transport::Udp => asked.payload.unwrap_or(MIN_PAYLOAD).max(MIN_PAYLOAD).into(),
                Transport::Tcp => u16::MAX.into(),
            }),
        }
    }
}

/// The name in lower case with the final dot.
fn text(name: &QueryName) -> String {
    let labels = (0..name.label_count()).map(|n| String::from_utf8_lossy(name.label(n)) + ".");
    let text: String = labels.collect();
    if text.is_empty() { ".".to_owned() } else { text }
}
