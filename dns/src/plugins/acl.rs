//! `acl [ZONES...]`, with `ACTION [type QTYPE...] [net SOURCE...]` in its body: the clients that are answered.

use std::net::IpAddr;

use hickory_server::proto::{
    op::ResponseCode,
    rr::{LowerName, RecordType},
};
use ipnetwork::IpNetwork;

use super::directive::Repeated;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word, zones_or},
    observe::metrics::Plugin,
    resolve::reply::{ExtendedError, Reply},
};

/// The rules of one occurrence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    zones: Zones,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    action: Action,
    /// `None`: all.
    qtypes: Option<Vec<RecordType>>,
    /// `None`: all.
    networks: Option<Vec<IpNetwork>>,
}

named_enum! {
    pub enum Action {
        Allow = "allow",
        /// REFUSED.
        Block = "block",
        /// NOERROR without records.
        Filter = "filter",
        /// No reply.
        Drop = "drop",
    }
}

/// The action of the first rule that matches, of all occurrences. Without one, the query is allowed.
pub(crate) fn action(acls: &[Acl], name: &LowerName, qtype: RecordType, client: IpAddr) -> Action {
    let rules = acls.iter().filter(|acl| acl.zones.contains(name)).flat_map(|acl| &acl.rules);
    let matches = |rule: &&Rule| {
        rule.qtypes.as_ref().is_none_or(|qtypes| qtypes.contains(&qtype))
            && rule.networks.as_ref().is_none_or(|networks| networks.iter().any(|net| net.contains(client)))
    };
    rules.clone().find(matches).map_or(Action::Allow, |rule| rule.action)
}

impl Action {
    /// The reply to a query that is blocked or filtered.
    pub(crate) fn reply(self) -> Option<Reply> {
        let (rcode, error) = match self {
            Self::Block => (ResponseCode::Refused, ExtendedError::Blocked),
            Self::Filter => (ResponseCode::NoError, ExtendedError::Filtered),
            Self::Allow | Self::Drop => return None,
        };
        let reply = Reply::from_plugin(rcode, Plugin::Acl).with_error(error);
        Some(Reply { authoritative: false, ..reply })
    }
}

impl Repeated for Acl {
    const NAME: &'static str = "acl";
    const SUMMARY: &'static str = "clients and types that are answered, refused, filtered or dropped";
    const OPTIONS: &'static [&'static str] = &["allow", "block", "filter", "drop"];

    fn read(statement: &Statement, zones: &Zones) -> Result<Self, CorefileError> {
        let zones = zones_or(&statement.words, zones.clone())?;
        let rules = statement.body.iter().map(|option| rule(statement, option));
        Ok(Self { zones, rules: rules.collect::<Result<_, _>>()? })
    }
}

fn rule(statement: &Statement, option: &Statement) -> Result<Rule, CorefileError> {
    option.no_body()?;
    let name = option.name.text.to_lowercase();
    let Some(action) = Action::ALL.into_iter().find(|action| action.name() == name) else {
        return Err(statement.unknown_option(option));
    };
    let mut rule = Rule { action, qtypes: None, networks: None };
    let is_section = |word: &Word| ["type", "net"].iter().any(|name| word.text.eq_ignore_ascii_case(name));
    let mut words = option.words.as_slice();
    while let Some((section, rest)) = words.split_first() {
        if !is_section(section) {
            return Err(section.refuse("a rule is written `ACTION [type QTYPE...] [net SOURCE...]`"));
        }
        let end = rest.iter().position(is_section).unwrap_or(rest.len());
        let (values, next) = rest.split_at(end);
        if values.is_empty() {
            return Err(section.refuse(format!("`{}` lists nothing; write `*` for all", section.text)));
        }
        let is_all = values.iter().any(|word| word.is("*"));
        match section.text.to_lowercase().as_str() {
            "type" => rule.qtypes = if is_all { None } else { Some(all(values, Word::record_type)?) },
            _ => rule.networks = if is_all { None } else { Some(all(values, network)?) },
        }
        words = next;
    }
    Ok(rule)
}

fn all<T>(
    words: &[Word],
    value: impl Fn(&Word) -> Result<T, CorefileError>,
) -> Result<Vec<T>, CorefileError> {
    words.iter().map(value).collect()
}

fn network(word: &Word) -> Result<IpNetwork, CorefileError> {
    word.text.parse().map_err(|_| {
        word.refuse(format!(
            "`{}` is neither an address nor a network; write one such as `10.0.0.0/8`, or `*`",
            word.text
        ))
    })
}
