//! Helm's templates, as far as the chart uses them: Go's `text/template` with a few functions of sprig and Helm. What is not
//! known here fails, so that a template cannot use it by accident. Once compared with Helm 3.11's own engine.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The files of a chart, and the values of a release.
pub struct Chart {
    /// By path within the chart.
    pub files: BTreeMap<String, String>,
    named: BTreeMap<String, Vec<Node>>,
}

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Output(Vec<Command>),
    /// `if`, `with` or `range`; the branches with their conditions, the last one without.
    Block(Keyword, Vec<(Option<Vec<Command>>, Vec<Node>)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyword {
    If,
    With,
    Range,
}

/// The words between two `|`.
type Command = Vec<Term>;

#[derive(Clone, Debug, PartialEq)]
enum Term {
    /// The path from the dot, or from `$`.
    Path(bool, Vec<String>),
    Literal(Value),
    Function(String),
    Parentheses(Vec<Vec<Term>>),
}

/// The reason of a refusal by `fail`.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Chart {
    pub fn new(files: BTreeMap<String, String>) -> Self {
        let mut named = BTreeMap::new();
        for (path, text) in &files {
            if path.ends_with(".tpl") {
                let mut tokens = tokens(text);
                tokens.reverse();
                while let Some(token) = tokens.pop() {
                    let Token::Action(action) = token else { continue };
                    let name = action.strip_prefix("define ").unwrap_or_else(|| panic!("{action} in {path}"));
                    let (body, end) = nodes(&mut tokens);
                    assert_eq!(end.as_deref(), Some("end"), "{name}");
                    named.insert(name.trim().trim_matches('"').to_owned(), body);
                }
            }
        }
        Self { files, named }
    }

    /// The templates that are not empty, by path, with these values over the defaults.
    pub fn render(&self, values: &Value) -> Result<BTreeMap<String, String>, Refusal> {
        let mut all: Value = serde_saphyr::from_str(&self.files["values.yaml"]).expect("values are YAML");
        merge(&mut all, values);
        let meta: Value = serde_saphyr::from_str(&self.files["Chart.yaml"]).expect("Chart.yaml is YAML");
        let root = json!({
            "Values": all,
            "Release": {"Name": "portreeve", "Namespace": "kube-system"},
            "Chart": {"Name": meta["name"], "Version": meta["version"], "AppVersion": meta["appVersion"]},
        });
        let mut rendered = BTreeMap::new();
        for (path, text) in self.files.iter().filter(|(path, _)| path.starts_with("templates/")) {
            if path.ends_with(".tpl") {
                continue;
            }
            let mut tokens = tokens(text);
            tokens.reverse();
            let (nodes, end) = nodes(&mut tokens);
            assert_eq!(end, None, "{path}");
            let text = Scope { chart: self, root: &root }.text(&nodes, &root)?;
            if !text.trim().is_empty() {
                rendered.insert(path.clone(), text);
            }
        }
        Ok(rendered)
    }
}

/// Maps are merged, other values replaced; null removes a default.
pub fn merge(into: &mut Value, values: &Value) {
    match (into, values) {
        (Value::Object(into), Value::Object(values)) => {
            for (name, value) in values {
                if value.is_null() {
                    into.remove(name);
                } else {
                    merge(into.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, values) => *into = values.clone(),
    }
}

enum Token {
    Text(String),
    Action(String),
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trims = false;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (inner, after) = behind.split_once("}}").expect("an action ends");
        let before = if trims { before.trim_start() } else { before };
        let before = if inner.starts_with('-') { before.trim_end() } else { before };
        tokens.push(Token::Text(before.to_owned()));
        let action = inner.trim_start_matches('-').trim_end_matches('-').trim();
        if !action.starts_with("/*") {
            tokens.push(Token::Action(action.to_owned()));
        }
        trims = inner.ends_with('-');
        rest = after;
    }
    tokens.push(Token::Text(if trims { rest.trim_start() } else { rest }.to_owned()));
    tokens
}

/// Up to an `else` or `end` of an outer block, which is returned. The tokens are in reverse order.
fn nodes(tokens: &mut Vec<Token>) -> (Vec<Node>, Option<String>) {
    let mut nodes = Vec::new();
    while let Some(token) = tokens.pop() {
        let action = match token {
            Token::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        let keywords = [("if ", Keyword::If), ("with ", Keyword::With), ("range ", Keyword::Range)];
        if let Some((word, keyword)) = keywords.into_iter().find(|(word, _)| action.starts_with(word)) {
            let mut branches = Vec::new();
            let mut condition = Some(pipeline(&action[word.len()..]));
            loop {
                let (body, end) = self::nodes(tokens);
                branches.push((condition, body));
                match end.as_deref().expect("a block ends") {
                    "end" => break,
                    "else" => condition = None,
                    other => condition = Some(pipeline(other.strip_prefix("else if ").expect("else if"))),
                }
            }
            nodes.push(Node::Block(keyword, branches));
        } else if action == "end" || action.starts_with("else") {
            return (nodes, Some(action));
        } else {
            nodes.push(Node::Output(pipeline(&action)));
        }
    }
    (nodes, None)
}

fn pipeline(text: &str) -> Vec<Command> {
    let mut rest = text;
    let pipeline = commands(&mut rest);
    assert!(rest.trim().is_empty(), "{text}");
    pipeline
}

/// Up to the end or a closing parenthesis.
fn commands(rest: &mut &str) -> Vec<Command> {
    let mut commands = vec![Vec::new()];
    loop {
        *rest = rest.trim_start();
        match rest.chars().next() {
            None | Some(')') => return commands,
            Some('|') => {
                commands.push(Vec::new());
                *rest = &rest[1..];
            }
            Some(_) => commands.last_mut().expect("there is one").push(term(rest)),
        }
    }
}

fn term(rest: &mut &str) -> Term {
    if let Some(inner) = rest.strip_prefix('(') {
        *rest = inner;
        let pipeline = commands(rest);
        *rest = rest.strip_prefix(')').expect("a parenthesis is closed");
        return Term::Parentheses(pipeline);
    }
    if let Some(inner) = rest.strip_prefix('"') {
        let end = inner.find('"').expect("a string ends");
        let text = &inner[..end];
        assert!(!text.contains('\\'), "escapes are not known here: {text}");
        *rest = &inner[end + 1..];
        return Term::Literal(text.into());
    }
    let end = rest.find(|character: char| character.is_whitespace() || ")|".contains(character));
    let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
    *rest = after;
    let steps = |path: &str| path.split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect();
    if let Some(path) = word.strip_prefix('$') {
        Term::Path(true, steps(path))
    } else if word.starts_with('.') {
        Term::Path(false, steps(word))
    } else if let Ok(literal) = serde_json::from_str(word) {
        Term::Literal(literal)
    } else {
        Term::Function(word.to_owned())
    }
}

struct Scope<'a> {
    chart: &'a Chart,
    root: &'a Value,
}

impl Scope<'_> {
    fn text(&self, nodes: &[Node], dot: &Value) -> Result<String, Refusal> {
        let mut text = String::new();
        for node in nodes {
            match node {
                Node::Text(part) => text += part,
                Node::Output(pipeline) => text += &plain(&self.value(pipeline, dot)?),
                Node::Block(keyword, branches) => text += &self.block(*keyword, branches, dot)?,
            }
        }
        Ok(text)
    }

    fn block(
        &self,
        keyword: Keyword,
        branches: &[(Option<Vec<Command>>, Vec<Node>)],
        dot: &Value,
    ) -> Result<String, Refusal> {
        for (condition, body) in branches {
            let Some(condition) = condition else { return self.text(body, dot) };
            let value = self.value(condition, dot)?;
            if !is_true(&value) {
                continue;
            }
            return match keyword {
                Keyword::If => self.text(body, dot),
                Keyword::With => self.text(body, &value),
                Keyword::Range => {
                    let elements = value.as_array().expect("only lists are ranged over");
                    elements.iter().map(|element| self.text(body, element)).collect()
                }
            };
        }
        Ok(String::new())
    }

    fn value(&self, pipeline: &[Command], dot: &Value) -> Result<Value, Refusal> {
        let mut last: Option<Value> = None;
        for command in pipeline {
            let (first, rest) = command.split_first().expect("a command has words");
            let mut arguments = Vec::new();
            for term in rest {
                arguments.push(self.term(term, dot)?);
            }
            arguments.extend(last.take());
            last = Some(match first {
                Term::Function(name) => self.call(name, &arguments)?,
                Term::Path(false, path) if *path == ["Files", "Get"] => {
                    let name = arguments[0].as_str().expect("a file has a name");
                    self.chart.files.get(name).unwrap_or_else(|| panic!("no file {name}")).as_str().into()
                }
                Term::Path(..) | Term::Literal(_) | Term::Parentheses(_) => {
                    assert!(arguments.is_empty(), "{first:?} is no function");
                    self.term(first, dot)?
                }
            });
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn term(&self, term: &Term, dot: &Value) -> Result<Value, Refusal> {
        Ok(match term {
            Term::Path(is_root, path) => {
                let start = if *is_root { self.root } else { dot };
                let known = |value: &Value, step: &String| -> Value {
                    // A misspelt value of the chart would be empty in Go.
                    value.get(step).cloned().unwrap_or_else(|| panic!("no {step} of {path:?}"))
                };
                path.iter().fold(start.clone(), |value, step| known(&value, step))
            }
            Term::Literal(value) => value.clone(),
            Term::Parentheses(pipeline) => self.value(pipeline, dot)?,
            Term::Function(name) => self.call(name, &[])?,
        })
    }

    fn call(&self, name: &str, arguments: &[Value]) -> Result<Value, Refusal> {
        let text = |n: usize| plain(&arguments[n]);
        let width =
            |n: usize| arguments[n].as_u64().and_then(|width| usize::try_from(width).ok()).expect("a width");
        Ok(match name {
            "and" => {
                arguments.iter().find(|one| !is_true(one)).unwrap_or(&arguments[arguments.len() - 1]).clone()
            }
            "or" => {
                arguments.iter().find(|one| is_true(one)).unwrap_or(&arguments[arguments.len() - 1]).clone()
            }
            "not" => (!is_true(&arguments[0])).into(),
            "eq" => arguments[1..].contains(&arguments[0]).into(),
            "ne" => (arguments[0] != arguments[1]).into(),
            "hasPrefix" => text(1).starts_with(&text(0)).into(),
            "hasSuffix" => text(1).ends_with(&text(0)).into(),
            "default" if is_true(&arguments[1]) => arguments[1].clone(),
            "default" => arguments[0].clone(),
            "quote" => serde_json::to_string(&text(0)).expect("it is text").into(),
            "toYaml" => to_yaml(&arguments[0]).into(),
            "indent" => indented(&text(1), width(0)).into(),
            "nindent" => format!("\n{}", indented(&text(1), width(0))).into(),
            "trim" => text(0).trim().into(),
            "include" => {
                let body =
                    self.chart.named.get(&text(0)).unwrap_or_else(|| panic!("no template {}", text(0)));
                self.text(body, &arguments[1])?.into()
            }
            "fail" => return Err(Refusal(text(0))),
            other => panic!("{other} is not known here"),
        })
    }
}

/// Block style as in Helm, so that it may continue a block; below the first level flow style.
fn to_yaml(value: &Value) -> String {
    let lines: Vec<String> = match value {
        Value::Object(map) => map.iter().map(|(name, value)| format!("{}: {value}", json!(name))).collect(),
        Value::Array(list) => list.iter().map(|element| format!("- {element}")).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![value.to_string()],
    };
    lines.join("\n")
}

/// sprig indents empty lines, too.
fn indented(text: &str, width: usize) -> String {
    let space = " ".repeat(width);
    text.split('\n').map(|line| format!("{space}{line}")).collect::<Vec<_>>().join("\n")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(value) => value.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => *map != Map::new(),
    }
}
