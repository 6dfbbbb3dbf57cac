//! Label selectors, in the syntax of `kubectl --selector`.

use std::{collections::BTreeMap, str::FromStr};

use thiserror::Error;

/// Requirements that must all be met; without any, every object matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    In(Vec<String>),
    /// Also met by an object without the label.
    NotIn(Vec<String>),
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is no requirement of labels, such as `tier=web`, `tier in (web, api)`, `tier` or `!tier`")]
pub struct SelectorError(String);

pub type Labels = BTreeMap<String, String>;

impl Selector {
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.is_met(labels))
    }

    /// The label keys of all requirements.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|requirement| &*requirement.key)
    }
}

impl Requirement {
    fn is_met(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        split(text).map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |character| {
        depth += i32::from(character == '(') - i32::from(character == ')');
        character == ',' && depth == 0
    })
}

impl FromStr for Requirement {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (key, operator) = if let Some(key) = text.strip_prefix('!') {
            (key, Operator::DoesNotExist)
        } else if let Some((key, value)) = text.split_once("!=") {
            (key, Operator::NotIn(vec![value.trim().to_owned()]))
        } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            (key, Operator::In(vec![value.trim().to_owned()]))
        } else if let Some((key, values)) = set(text, " notin") {
            (key, Operator::NotIn(values))
        } else if let Some((key, values)) = set(text, " in") {
            (key, Operator::In(values))
        } else {
            (text, Operator::Exists)
        };
        let key = key.trim();
        let values = match &operator {
            Operator::Exists | Operator::DoesNotExist => &[][..],
            Operator::In(values) | Operator::NotIn(values) => values,
        };
        if key.is_empty() || !std::iter::once(key).chain(values.iter().map(String::as_str)).all(is_word) {
            return Err(SelectorError(text.to_owned()));
        }
        Ok(Self { key: key.to_owned(), operator })
    }
}

/// `tier in (web, api)`.
fn set<'t>(text: &'t str, operator: &str) -> Option<(&'t str, Vec<String>)> {
    let (key, rest) = text.split_once(operator)?;
    let values = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some((key, values.split(',').map(|value| value.trim().to_owned()).collect()))
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_./".contains(&octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_selected_by_their_labels() {
        let labels = Labels::from([("tier".to_owned(), "web".to_owned()), ("a/b".to_owned(), String::new())]);
        for (text, want) in [
            ("tier=web", true),
            ("tier == web", true),
            ("tier=api", false),
            ("tier!=api", true),
            ("tier!=web", false),
            ("other!=web", true),
            ("tier in (api, web)", true),
            ("tier in (api)", false),
            ("tier notin (api,web)", false),
            ("other notin (api)", true),
            ("tier", true),
            ("other", false),
            ("!other", true),
            ("!tier", false),
            ("a/b=", true),
            ("tier in (api, web), !other,tier", true),
            ("tier=web,other", false),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(&labels), want, "{text}");
        }
        assert!(Selector::default().matches(&labels));
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for text in ["", "a b", "a=b=c", "a in b", "a in (b", "=b", "a,,b", "!", "a>1"] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
