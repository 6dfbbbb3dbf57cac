//! `rewrite cname`: the target of a CNAME in the response is replaced, and the records behind it are those of the new
//! target.

use hickory_server::proto::rr::{Name, RData, Record, rdata::CNAME};

use super::pattern::{Pattern, PatternKind, kind_of, parsed, refuse_missing_groups, text};
use crate::corefile::{CorefileError, Statement, Word};

const USAGE: &str = "rewrite [continue|stop] cname [exact|prefix|suffix|substring|regex] FROM TO";

#[derive(Debug, Clone, PartialEq)]
pub struct CnameRule {
    from: Pattern,
    to: String,
}

impl CnameRule {
    pub(super) fn parse(statement: &Statement, words: &[Word]) -> Result<Self, CorefileError> {
        let (kind, [from, to]) = kind_of(words, 2) else { return Err(statement.misused(USAGE)) };
        let from = Pattern::parse_part(kind, from)?;
        if let Pattern::Regex(regex) = &from {
            refuse_missing_groups(regex, to)?;
        }
        let to = if kind == PatternKind::Exact { to.name()?.to_string() } else { to.text.to_lowercase() };
        Ok(Self { from, to })
    }

    fn replaced(&self, target: &Name) -> Option<Name> {
        parsed(&self.from.replaced(&text(target), &self.to)?)
    }
}

/// Replaces the first target that a rule matches, of the rules the last first, and leaves out the records behind it.
/// Returns the new target.
#[expect(clippy::wildcard_enum_match_arm, reason = "types are an open list")]
pub(super) fn retarget(rules: &[CnameRule], answers: &mut Vec<Record>) -> Option<Name> {
    let (at, target) = answers.iter().enumerate().find_map(|(at, record)| match &record.data {
        RData::CNAME(CNAME(target)) => Some((at, rules.iter().rev().find_map(|rule| rule.replaced(target))?)),
        _ => None,
    })?;
    answers.truncate(at + 1);
    answers[at].data = RData::CNAME(CNAME(target.clone()));
    Some(target)
}
