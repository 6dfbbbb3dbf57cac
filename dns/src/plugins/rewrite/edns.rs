//! `rewrite edns0`: options of queries to upstreams. Of a client's own options only those that a rule names reach them.

use std::net::IpAddr;

use hickory_server::proto::op::Query;

use crate::{
    corefile::{CorefileError, Statement, Word},
    observe::metrics::Transport,
    resolve::reply::EdnsOptions,
};

const USAGE: &str =
    "rewrite [continue|stop] edns0 local|nsid|subnet set|append|replace|unset [CODE DATA | V4 V6] [revert]";
/// Option codes (RFC 5001, RFC 7871).
const NSID: u16 = 3;
const SUBNET: u16 = 8;
/// Limit of the data of an option, in octets: queries stay small.
const MAX_DATA: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdnsRule {
    code: u16,
    action: Action,
    data: Data,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The option is added or replaced.
    Set,
    /// It is added unless it is there.
    Append,
    /// It is replaced if it is there.
    Replace,
    /// It is removed.
    Unset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    Octets(Vec<u8>),
    Variable(Variable),
    /// The client's network: the lengths of prefixes of IPv4 and IPv6.
    Subnet(u8, u8),
}

named_enum! {
    /// A property of the query.
    enum Variable {
        Qname = "{qname}",
        Qtype = "{qtype}",
        ClientIp = "{client_ip}",
        ClientPort = "{client_port}",
        Protocol = "{protocol}",
        ServerIp = "{server_ip}",
        ServerPort = "{server_port}",
    }
}

/// The sender of a query, and the place where it arrived.
#[derive(Clone, Copy)]
pub(crate) struct Sender<'q> {
    pub client: (IpAddr, u16),
    pub server: (IpAddr, u16),
    pub transport: Transport,
    /// The options in the query.
    pub options: &'q dyn Fn(u16) -> Option<Vec<u8>>,
}

impl EdnsRule {
    pub(super) fn parse(statement: &Statement, words: &[Word]) -> Result<Self, CorefileError> {
        // The options that `revert` takes out of a reply, or restores there, no reply to a client has anyway.
        let words = match words {
            [before @ .., last] if last.is("revert") => before,
            words => words,
        };
        let [kind, action, rest @ ..] = words else { return Err(statement.misused(USAGE)) };
        let action = match action.text.to_lowercase().as_str() {
            "set" => Action::Set,
            "append" => Action::Append,
            "replace" => Action::Replace,
            "unset" => Action::Unset,
            _ => return Err(action.refuse("write `set`, `append`, `replace` or `unset`")),
        };
        let nothing = || Data::Octets(Vec::new());
        let (code, data) = match (kind.text.to_lowercase().as_str(), action, rest) {
            ("local", Action::Unset, [code]) => (self::code(code)?, nothing()),
            ("local", Action::Set | Action::Append | Action::Replace, [code, data]) => {
                (self::code(code)?, self::data(data)?)
            }
            ("nsid", _, []) => (NSID, nothing()),
            ("subnet", Action::Unset, []) => (SUBNET, nothing()),
            ("subnet", Action::Set | Action::Append | Action::Replace, [v4, v6]) => {
                (SUBNET, Data::Subnet(prefix(v4, 32)?, prefix(v6, 128)?))
            }
            ("local" | "nsid" | "subnet", ..) => return Err(statement.misused(USAGE)),
            _ => return Err(kind.refuse("write `local`, `nsid` or `subnet`")),
        };
        Ok(Self { code, action, data })
    }

    /// Changes the options of a query. Returns whether the rule matches.
    pub(super) fn apply(&self, options: &mut EdnsOptions, question: &Query, sender: &Sender<'_>) -> bool {
        let own = (sender.options)(self.code).filter(|own| own.len() <= MAX_DATA);
        if let Some(own) = own.filter(|_| !options.was_decided(self.code)) {
            options.set(self.code, Some(own));
        }
        let is_there = options.has(self.code);
        let applies = match self.action {
            Action::Set => true,
            Action::Append => !is_there,
            Action::Replace | Action::Unset => is_there,
        };
        if applies {
            let data = (self.action != Action::Unset).then(|| self.data.octets(question, sender));
            options.set(self.code, data);
        }
        applies
    }
}

impl Data {
    fn octets(&self, question: &Query, sender: &Sender<'_>) -> Vec<u8> {
        let address = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        match self {
            Self::Octets(octets) => octets.clone(),
            Self::Subnet(v4, v6) => {
                let client = sender.client.0;
                let (family, prefix) = if client.is_ipv4() { (1, *v4) } else { (2, *v6) };
                [&[0, family, prefix, 0], network(address(client), prefix).as_slice()].concat()
            }
            Self::Variable(variable) => match variable {
                Variable::Qname => question.name.to_ascii().into_bytes(),
                Variable::Qtype => u16::from(question.query_type).to_be_bytes().to_vec(),
                Variable::ClientIp => address(sender.client.0),
                Variable::ClientPort => sender.client.1.to_be_bytes().to_vec(),
                Variable::Protocol => sender.transport.name().as_bytes().to_vec(),
                Variable::ServerIp => address(sender.server.0),
                Variable::ServerPort => sender.server.1.to_be_bytes().to_vec(),
            },
        }
    }
}

/// The octets that a prefix of so many bits covers, without the bits behind it (RFC 7871, section 6).
fn network(mut address: Vec<u8>, prefix: u8) -> Vec<u8> {
    address.truncate(usize::from(prefix.div_ceil(8)));
    if let Some(last) = address.last_mut().filter(|_| !prefix.is_multiple_of(8)) {
        *last &= u8::MAX << (8 - prefix % 8);
    }
    address
}

fn code(word: &Word) -> Result<u16, CorefileError> {
    let text = word.text.to_ascii_lowercase();
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        // A number with leading zeros is octal in CoreDNS.
        None => text.parse().ok().filter(|_| text == "0" || !text.starts_with('0')),
    };
    parsed.ok_or_else(|| word.refuse(format!("`{}` is no code; write one such as `0xffee`", word.text)))
}

fn data(word: &Word) -> Result<Data, CorefileError> {
    let text = word.text.as_str();
    if text.starts_with('{') && text.ends_with('}') {
        let variable = Variable::ALL.into_iter().find(|variable| variable.name() == text);
        return variable.map(Data::Variable).ok_or_else(|| {
            let known: Vec<&str> = Variable::ALL.into_iter().map(Variable::name).collect();
            word.refuse(format!("`{text}` is not known here; write one of {}", known.join(", ")))
        });
    }
    let octets = match text.strip_prefix("0x") {
        Some(digits) => hexadecimal(digits).ok_or_else(|| {
            word.refuse(format!("`{text}` is not hexadecimal; write pairs of digits such as `0x61ff`"))
        })?,
        None => text.as_bytes().to_vec(),
    };
    if octets.len() > MAX_DATA {
        return Err(word.refuse(format!("an option has at most {MAX_DATA} octets")));
    }
    Ok(Data::Octets(octets))
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

fn prefix(word: &Word, longest: u8) -> Result<u8, CorefileError> {
    let parsed = word.text.parse().ok().filter(|prefix| *prefix <= longest);
    parsed.ok_or_else(|| word.refuse(format!("write the length of a prefix, from 0 to {longest}")))
}
