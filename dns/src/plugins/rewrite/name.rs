//! `rewrite name`: a query is resolved under another name, and the answer returns under the name of the query.

use hickory_server::proto::rr::{
    Name, RData, Record,
    rdata::{CNAME, MX, NAPTR, NS, PTR, SOA, SRV},
};
use regex::Regex;

use super::pattern::{
    Pattern, PatternKind, absolute, kind_of, parsed, refuse_missing_groups, substituted, text,
};
use crate::corefile::{CorefileError, Statement, Word};

const USAGE: &str =
    "rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer auto]";

/// A rule: a matching name is replaced for resolution, and restored in the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct NameRule {
    pub from: Pattern,
    /// The replacement. For a regex, `{0}` is the whole match and `{1}` the first group; for a prefix, suffix
    /// or substring, it replaces that part.
    pub to: String,
    /// `answer auto`: names in the answer are rewritten in reverse, in owners and in data. Owners equal to the
    /// replacement are restored in any case.
    pub restores: bool,
    /// Further rewrites of names in the answer, applied from the last to the first.
    pub answers: Vec<AnswerName>,
}

/// `answer name` and `answer value`: a rewrite of names in the answer.
#[derive(Debug, Clone)]
pub struct AnswerName {
    pub from: Regex,
    pub to: String,
    /// Applies to the data of a record instead of its owner.
    pub in_value: bool,
}

impl PartialEq for AnswerName {
    fn eq(&self, other: &Self) -> bool {
        self.from.as_str() == other.from.as_str() && self.to == other.to && self.in_value == other.in_value
    }
}

impl NameRule {
    pub(super) fn parse(statement: &Statement, words: &[Word]) -> Result<Self, CorefileError> {
        let (kind, rest) = kind_of(words, 2);
        let [from, to, options @ ..] = rest else { return Err(statement.misused(USAGE)) };
        let (is_auto, answers) = answer_options(options)?;
        if let Some(word) = options.iter().find(|word| word.is("auto"))
            && answers.iter().any(|answer| !answer.in_value)
        {
            return Err(word.refuse("`answer auto` and `answer name` exclude each other; remove one of them"));
        }
        let pattern = Pattern::parse(kind, from)?;
        if let Pattern::Regex(from) = &pattern {
            refuse_missing_groups(from, to)?;
        }
        let to = if kind == PatternKind::Exact { to.name()?.to_string() } else { absolute(&to.text) };
        Ok(Self { from: pattern, to, restores: is_auto || kind == PatternKind::Exact, answers })
    }

    /// The name to resolve. `None` if the rule does not match. Errors: the result is no name.
    pub(super) fn apply(&self, name: &Name) -> Option<Result<Name, ()>> {
        let replaced = self.from.replaced(&text(name), &self.to)?;
        Some(parsed(&replaced).ok_or(()))
    }

    /// The reverse rewrites, after a match that led from `before` to `after`.
    pub(super) fn restorations(&self, before: &Name, after: &Name) -> impl Iterator<Item = Restoration> {
        let own = self.restores.then(|| match &self.from {
            Pattern::Suffix(suffix) => Restoration::Suffix { from: self.to.clone(), to: suffix.clone() },
            Pattern::Exact(_) | Pattern::Prefix(_) | Pattern::Substring(_) | Pattern::Regex(_) => {
                Restoration::Whole { from: text(after), to: text(before) }
            }
        });
        own.into_iter().chain(self.answers.iter().cloned().map(Restoration::Pattern))
    }
}

/// Reads the answer options: whether `answer auto` is among them, and the others. After the first, the word
/// `answer` may be omitted.
fn answer_options(mut words: &[Word]) -> Result<(bool, Vec<AnswerName>), CorefileError> {
    let (mut is_auto, mut answers) = (false, Vec::new());
    if let Some(first) = words.first().filter(|word| !word.is("answer")) {
        return Err(misplaced(first));
    }
    while let Some((first, behind)) = words.split_first() {
        match if first.is("answer") { behind } else { words } {
            [auto, rest @ ..] if auto.is("auto") => (is_auto, words) = (true, rest),
            [field, from, to, rest @ ..] if field.is("name") || field.is("value") => {
                let from = from.regex()?;
                refuse_missing_groups(&from, to)?;
                answers.push(AnswerName { from, to: absolute(&to.text), in_value: field.is("value") });
                words = rest;
            }
            _ => return Err(misplaced(first)),
        }
    }
    Ok((is_auto, answers))
}

fn misplaced(word: &Word) -> CorefileError {
    word.refuse("after the names comes `answer auto`, or `answer name|value FROM TO`")
}

/// A rewrite of names in the answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Restoration {
    /// A name and the names below it.
    Whole {
        from: String,
        to: String,
    },
    Suffix {
        from: String,
        to: String,
    },
    Pattern(AnswerName),
}

impl Restoration {
    fn apply(&self, name: &str, in_value: bool) -> Option<String> {
        match self {
            Self::Whole { from, to } => {
                let above = name.strip_suffix(from.as_str())?;
                (above.is_empty() || above.ends_with('.')).then(|| format!("{above}{to}"))
            }
            Self::Suffix { from, to } => name.strip_suffix(from.as_str()).map(|above| format!("{above}{to}")),
            Self::Pattern(rule) => {
                substituted(&rule.from, &rule.to, name).filter(|_| rule.in_value == in_value)
            }
        }
    }
}

/// Restores the names of a record. `resolved` is the name of the rewritten question, `original` that of the client's.
pub(super) fn restore(
    record: &mut Record,
    restorations: &[Restoration],
    (resolved, original): (&Name, &Name),
) {
    if record.name == *resolved {
        record.name.clone_from(original);
    } else {
        restore_name(&mut record.name, restorations, false);
    }
    if let Some(name) = name_in(&mut record.data) {
        restore_name(name, restorations, true);
    }
}

fn restore_name(name: &mut Name, restorations: &[Restoration], in_value: bool) {
    let before = text(name);
    let apply = |now: String, restoration: &Restoration| restoration.apply(&now, in_value).unwrap_or(now);
    let after = restorations.iter().rev().fold(before.clone(), apply);
    if let Some(other) = parsed(&after).filter(|_| after != before) {
        *name = other;
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "types are an open list")]
fn name_in(data: &mut RData) -> Option<&mut Name> {
    let name = match data {
        RData::CNAME(CNAME(name)) | RData::NS(NS(name)) | RData::PTR(PTR(name)) => name,
        RData::MX(MX { exchange: name, .. })
        | RData::NAPTR(NAPTR { replacement: name, .. })
        | RData::SOA(SOA { mname: name, .. })
        | RData::SRV(SRV { target: name, .. }) => name,
        _ => return None,
    };
    Some(name)
}
