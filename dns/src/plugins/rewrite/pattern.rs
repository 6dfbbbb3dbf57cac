//! The part of a rule that matches a name: `[exact|prefix|suffix|substring|regex] FROM`.
//!
//! As in CoreDNS, every text but a regex ends with a dot, so that `prefix a` matches the label `a` and not `ab`.

use std::borrow::Cow;

use hickory_server::proto::rr::Name;
use regex::{Captures, Regex};

use crate::corefile::{CorefileError, Word};

/// All texts are lower-case and end with a dot.
#[derive(Debug, Clone)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Regex),
}

named_enum! {
    pub(crate) enum PatternKind {
        Exact = "exact",
        Prefix = "prefix",
        Suffix = "suffix",
        Substring = "substring",
        Regex = "regex",
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        let text = |pattern: &Self| match pattern {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) | Self::Substring(text) => {
                text.clone()
            }
            Self::Regex(regex) => regex.as_str().to_owned(),
        };
        self.kind() == other.kind() && text(self) == text(other)
    }
}

impl Pattern {
    pub(crate) fn kind(&self) -> PatternKind {
        match self {
            Self::Exact(_) => PatternKind::Exact,
            Self::Prefix(_) => PatternKind::Prefix,
            Self::Suffix(_) => PatternKind::Suffix,
            Self::Substring(_) => PatternKind::Substring,
            Self::Regex(_) => PatternKind::Regex,
        }
    }

    pub(super) fn parse(kind: PatternKind, from: &Word) -> Result<Self, CorefileError> {
        let text = || absolute(&from.text);
        Ok(match kind {
            PatternKind::Exact => Self::Exact(from.name()?.to_string()),
            PatternKind::Prefix => Self::Prefix(text()),
            PatternKind::Suffix => Self::Suffix(text()),
            PatternKind::Substring => Self::Substring(text()),
            // Names are matched in lower case with the final dot.
            PatternKind::Regex => Self::Regex(from.regex()?),
        })
    }

    /// As [`Self::parse`], but a prefix, suffix or substring is a part of any label.
    pub(super) fn parse_part(kind: PatternKind, from: &Word) -> Result<Self, CorefileError> {
        let text = || from.text.to_lowercase();
        Ok(match kind {
            PatternKind::Prefix => Self::Prefix(text()),
            PatternKind::Suffix => Self::Suffix(text()),
            PatternKind::Substring => Self::Substring(text()),
            PatternKind::Exact | PatternKind::Regex => Self::parse(kind, from)?,
        })
    }

    /// `name`: lower-case, with the final dot.
    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => name == text,
            Self::Prefix(text) => name.starts_with(text.as_str()),
            Self::Suffix(text) => name.ends_with(text.as_str()),
            Self::Substring(text) => name.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(name),
        }
    }

    /// The name with the matching part replaced; with a regex, or an exact text, the whole. `None` if it does not
    /// match.
    pub(super) fn replaced(&self, name: &str, to: &str) -> Option<String> {
        match self {
            Self::Exact(text) => (name == text).then(|| to.to_owned()),
            Self::Prefix(text) => name.strip_prefix(text.as_str()).map(|rest| format!("{to}{rest}")),
            Self::Suffix(text) => name.strip_suffix(text.as_str()).map(|rest| format!("{rest}{to}")),
            Self::Substring(text) => name.contains(text.as_str()).then(|| name.replace(text.as_str(), to)),
            Self::Regex(regex) => substituted(regex, to, name),
        }
    }
}

/// Splits off the kind. Without one it is `exact`, as it is if there are only `fewest` words.
pub(super) fn kind_of(words: &[Word], fewest: usize) -> (PatternKind, &[Word]) {
    let named = words.split_first().filter(|_| words.len() > fewest).and_then(|(word, rest)| {
        let text = word.text.to_lowercase();
        Some((PatternKind::ALL.into_iter().find(|kind| kind.name() == text)?, rest))
    });
    named.unwrap_or((PatternKind::Exact, words))
}

/// Refuses a replacement with `{N}` beyond the groups of the regex.
pub(super) fn refuse_missing_groups(from: &Regex, to: &Word) -> Result<(), CorefileError> {
    let numbers = to.text.split('{').skip(1).filter_map(|text| text.split_once('}')?.0.parse::<usize>().ok());
    match numbers.max().filter(|number| *number >= from.captures_len()) {
        None => Ok(()),
        Some(number) => Err(to.refuse(format!(
            "`{{{number}}}` has no group: `{from}` has {}; add one, or correct the number",
            from.captures_len() - 1
        ))),
    }
}

/// Replaces the whole name; `{0}` is the whole match, and `{1}` the first group.
pub(super) fn substituted(from: &Regex, to: &str, text: &str) -> Option<String> {
    let captures = from.captures(text)?;
    Some(filled(to, &captures))
}

fn filled(to: &str, captures: &Captures<'_>) -> String {
    (0..captures.len()).fold(to.to_owned(), |out, group| {
        let matched = captures.get(group).map_or("", |group| group.as_str());
        out.replace(&format!("{{{group}}}"), matched)
    })
}

/// In lower case, with a dot at the end.
pub(super) fn absolute(text: &str) -> String {
    let text = text.to_lowercase();
    if text.ends_with('.') { text } else { text + "." }
}

/// A name as rules match it.
pub(super) fn text(name: &Name) -> String {
    let mut name = Cow::Borrowed(name);
    if !name.is_fqdn() {
        name.to_mut().set_fqdn(true);
    }
    name.to_ascii().to_lowercase()
}

pub(super) fn parsed(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}
