//! `header`, with `query|response set|clear FLAGS...` in its body: flags of the header that are changed.

use hickory_server::proto::op::Metadata;

use super::directive::{Directive, IneffectiveOption};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
};

/// The changes, in order: the last one of a flag counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    query: Vec<Change>,
    response: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    flag: Flag,
    value: bool,
}

named_enum! {
    enum Flag {
        Authoritative = "aa",
        RecursionAvailable = "ra",
        RecursionDesired = "rd",
    }
}

const USAGE: &str = "a change is written `query|response set|clear aa|ra|rd`";

impl Header {
    pub(crate) fn is_empty(&self) -> bool {
        self.query.is_empty() && self.response.is_empty()
    }

    /// RD of the query, for upstreams and for the reply. `None` if it is not changed.
    pub(crate) fn recursion_desired(&self) -> Option<bool> {
        let of_rd = self.query.iter().rev().find(|change| change.flag == Flag::RecursionDesired);
        of_rd.map(|change| change.value)
    }

    pub(crate) fn change_response(&self, metadata: &mut Metadata) {
        for Change { flag, value } in &self.response {
            match flag {
                Flag::Authoritative => metadata.authoritative = *value,
                Flag::RecursionAvailable => metadata.recursion_available = *value,
                Flag::RecursionDesired => metadata.recursion_desired = *value,
            }
        }
    }
}

impl Directive for Header {
    const NAME: &'static str = "header";
    const SUMMARY: &'static str =
        "AA, RA and RD of replies, and RD of queries; AA and RA of queries have no effect";
    const OPTIONS: &'static [&'static str] = &["query", "response"];
    type Setting = Self;

    fn read(setting: &mut Self, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        statement.no_words()?;
        if statement.body.is_empty() {
            return Err(statement.refuse(format!("`header` changes nothing; {USAGE}")));
        }
        let mut header = Self::default();
        for option in &statement.body {
            option.no_body()?;
            let changes = match option.name.text.to_lowercase().as_str() {
                "query" => &mut header.query,
                "response" => &mut header.response,
                "set" | "clear" => {
                    return Err(
                        option.refuse(format!("write `response {}` instead; {USAGE}", option.name.text))
                    );
                }
                _ => return Err(statement.unknown_option(option)),
            };
            let [action, flags @ ..] = option.words.as_slice() else { return Err(option.refuse(USAGE)) };
            let value = match action.text.to_lowercase().as_str() {
                "set" => true,
                "clear" => false,
                _ => return Err(action.refuse(USAGE)),
            };
            if flags.is_empty() {
                return Err(action.refuse(USAGE));
            }
            for flag in flags {
                changes.push(Change { flag: parse(flag)?, value });
            }
        }
        *setting = header;
        Ok(())
    }

    fn is_enabled(setting: &Self) -> bool {
        !setting.is_empty()
    }

    fn ineffective(statement: &Statement) -> Vec<IneffectiveOption> {
        let of_query = statement.body.iter().filter(|option| option.name.text.eq_ignore_ascii_case("query"));
        let is_ineffective = |word: &&Word| parse(word).is_ok_and(|flag| flag != Flag::RecursionDesired);
        let flags = of_query.flat_map(|option| option.words.iter().skip(1)).filter(is_ineffective);
        let reason = "AA and RA of a query mean nothing to an upstream";
        flags.map(|flag| IneffectiveOption::new(flag, reason)).collect()
    }
}

fn parse(word: &Word) -> Result<Flag, CorefileError> {
    let text = word.text.to_lowercase();
    let flag = Flag::ALL.into_iter().find(|flag| flag.name() == text);
    flag.ok_or_else(|| word.refuse(format!("`{}` cannot be changed; {USAGE}", word.text)))
}
