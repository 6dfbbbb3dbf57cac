//! `rewrite [continue|stop] FIELD ...`: queries are resolved under another name, type or class, and responses get other
//! names, TTLs and response codes.

mod cname;
mod edns;
mod name;
mod pattern;
mod response;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

pub use cname::CnameRule;
use cname::retarget;
use edns::EdnsRule;
pub(crate) use edns::Sender;
use hickory_server::proto::{
    op::{Message, Query, ResponseCode},
    rr::{DNSClass, Name, Record, RecordType},
};
pub use name::NameRule;
use name::{Restoration, restore};
pub use pattern::Pattern;
use pattern::text;
use response::{RcodeRule, TtlRule};

use super::directive::Repeated;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
    resolve::reply::EdnsOptions,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Rewrite {
    pub rule: Rule,
    /// If the rule matches, the ones below it are applied, too, to the rewritten query.
    pub continues: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    Name(NameRule),
    Type {
        from: RecordType,
        to: RecordType,
    },
    Class {
        from: DNSClass,
        to: DNSClass,
    },
    Ttl(TtlRule),
    Rcode(RcodeRule),
    /// Matches each query.
    Cname(CnameRule),
    Edns(EdnsRule),
}

impl Rule {
    /// Whether it changes the name, the type or the class.
    pub(super) fn changes_question(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Type { .. } | Self::Class { .. })
    }
}

impl Repeated for Rewrite {
    const NAME: &'static str = "rewrite";
    const SUMMARY: &'static str = "names, types and classes of queries; names, TTLs and response codes of responses; targets of CNAMEs; EDNS options of queries to upstreams";
    const OPTIONS: &'static [&'static str] =
        &["name", "answer", "type", "class", "ttl", "rcode", "cname", "edns0"];

    fn read(statement: &Statement, _zones: &Zones) -> Result<Self, CorefileError> {
        parse(statement)
    }
}

const USAGE: &str = "rewrite [continue|stop] name|type|class|ttl|rcode|cname|edns0 ...";

/// Reads a rule on one line, or with its options on lines of their own.
fn parse(statement: &Statement) -> Result<Rewrite, CorefileError> {
    let mut words = statement.words.as_slice();
    let continues = match words.first() {
        Some(word) if word.is("continue") || word.is("stop") => {
            words = &words[1..];
            word.is("continue")
        }
        _ => false,
    };
    if words.is_empty() {
        return Ok(Rewrite { rule: over_lines(statement)?, continues });
    }
    statement.no_body()?;
    Ok(Rewrite { rule: one(statement, words)?, continues })
}

fn over_lines(statement: &Statement) -> Result<Rule, CorefileError> {
    let (first, options) = statement.body.split_first().ok_or_else(|| statement.misused(USAGE))?;
    let mut words: Vec<Word> = line(first);
    for option in options {
        if !option.name.is("answer") {
            return Err(option.refuse("one rule stands in a block; write another `rewrite` for more"));
        }
        words.extend(line(option));
    }
    one(statement, &words)
}

fn line(statement: &Statement) -> Vec<Word> {
    std::iter::once(&statement.name).chain(&statement.words).cloned().collect()
}

fn one(statement: &Statement, words: &[Word]) -> Result<Rule, CorefileError> {
    let (field, rest) = words.split_first().ok_or_else(|| statement.misused(USAGE))?;
    match field.text.to_lowercase().as_str() {
        "name" => NameRule::parse(statement, rest).map(Rule::Name),
        "type" => match rest {
            [from, to] => Ok(Rule::Type { from: from.record_type()?, to: to.record_type()? }),
            _ => Err(field.refuse("a rule for types is written `rewrite type FROM TO`")),
        },
        "class" => match rest {
            [from, to] => Ok(Rule::Class { from: class(from)?, to: class(to)? }),
            _ => Err(field.refuse("a rule for classes is written `rewrite class FROM TO`")),
        },
        "ttl" => TtlRule::parse(statement, rest).map(Rule::Ttl),
        "rcode" => RcodeRule::parse(statement, rest).map(Rule::Rcode),
        "cname" => CnameRule::parse(statement, rest).map(Rule::Cname),
        "edns0" => EdnsRule::parse(statement, rest).map(Rule::Edns),
        "answer" => {
            Err(field.refuse("`answer` follows the names of a rule; write `name FROM TO answer ...`"))
        }
        other => Err(field.refuse(format!("`{other}` cannot be rewritten; remove the rule"))),
    }
}

fn class(word: &Word) -> Result<DNSClass, CorefileError> {
    word.text
        .to_uppercase()
        .parse()
        .map_err(|_| word.refuse(format!("`{}` is no class; write one of IN, CH and HS", word.text)))
}

/// A rewritten query, and the changes of its response.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    pub question: Query,
    original: Query,
    /// The reverse rewrites of all rules that matched, in the order of the rules.
    restorations: Vec<Restoration>,
    ttls: Vec<RangeInclusive<u32>>,
    rcodes: Vec<(ResponseCode, ResponseCode)>,
    cnames: Vec<CnameRule>,
    /// Those of queries to upstreams.
    pub(crate) options: EdnsOptions,
}

/// A rule makes something of a name that is no name.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidName;

/// Applies the rules. Returns `None` if no rule matches.
pub(crate) fn rewritten(
    rules: &[Rewrite],
    question: &Query,
    sender: &Sender<'_>,
) -> Option<Result<Rewritten, InvalidName>> {
    let mut rewritten = Rewritten {
        question: question.clone(),
        original: question.clone(),
        restorations: Vec::new(),
        ttls: Vec::new(),
        rcodes: Vec::new(),
        cnames: Vec::new(),
        options: EdnsOptions::default(),
    };
    let mut matches = false;
    for Rewrite { rule, continues } in rules {
        match rewritten.apply(rule, sender) {
            Ok(false) => continue,
            Ok(true) => matches = true,
            Err(invalid) => return Some(Err(invalid)),
        }
        if !continues {
            break;
        }
    }
    matches.then_some(Ok(rewritten))
}

impl Rewritten {
    /// Returns whether the rule matches.
    fn apply(&mut self, rule: &Rule, sender: &Sender<'_>) -> Result<bool, InvalidName> {
        if let Rule::Edns(rule) = rule {
            return Ok(rule.apply(&mut self.options, &self.question, sender));
        }
        let Query { name, query_type, query_class, .. } = &mut self.question;
        let matches = match rule {
            Rule::Name(rule) => {
                let Some(other) = rule.apply(name) else { return Ok(false) };
                let other = other.map_err(|()| InvalidName)?;
                self.restorations.extend(rule.restorations(name, &other));
                *name = other;
                true
            }
            Rule::Type { from, to } => replace(query_type, *from, *to),
            Rule::Class { from, to } => replace(query_class, *from, *to),
            Rule::Ttl(TtlRule { from, range }) => {
                let matches = from.matches(&text(name));
                self.ttls.extend(matches.then(|| range.clone()));
                matches
            }
            Rule::Rcode(RcodeRule { from, old, new }) => {
                let matches = from.matches(&text(name));
                self.rcodes.extend(matches.then_some((*old, *new)));
                matches
            }
            Rule::Edns(_) => false,
            Rule::Cname(rule) => {
                self.cnames.push(rule.clone());
                true
            }
        };
        Ok(matches)
    }

    /// Whether targets in the response may be replaced.
    pub(crate) fn has_cnames(&self) -> bool {
        !self.cnames.is_empty()
    }

    /// Replaces the target of a CNAME, and leaves out the records behind it. Returns the target, whose records follow.
    pub(crate) fn retarget(&self, answers: &mut Vec<Record>) -> Option<Name> {
        retarget(&self.cnames, answers)
    }

    /// Applies the changes of the response; as in CoreDNS, those of the last rule first.
    pub fn restore(&self, response: &mut Message) {
        let names = (&self.question.name, &self.original.name);
        let Message { answers, authorities, additionals, .. } = response;
        for record in answers.iter_mut().chain(authorities).chain(additionals) {
            restore(record, &self.restorations, names);
            record.ttl =
                self.ttls.iter().rev().fold(record.ttl, |ttl, range| ttl.clamp(*range.start(), *range.end()));
        }
        let rcode = &mut response.metadata.response_code;
        for (old, new) in self.rcodes.iter().rev() {
            replace(rcode, *old, *new);
        }
    }
}

fn replace<T: PartialEq>(value: &mut T, old: T, new: T) -> bool {
    let matches = *value == old;
    if matches {
        *value = new;
    }
    matches
}
