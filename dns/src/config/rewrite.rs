//! Questions that are asked in other words.

use hickory_server::proto::rr::LowerName;
use regex::Regex;

/// A question that matches is asked under another name; the answer comes back under the first.
#[derive(Debug, Clone)]
pub struct Rewrite {
    pub matches: Matches,
    /// The name to ask for. Of a regex, `{0}` is the whole and `{1}` the first group; of a prefix, suffix or
    /// substring, what to put in its place.
    pub to: String,
    /// Names in the answer are turned back as the rule has turned the question, in owners and in data. In any case
    /// owners are that are the name that was asked for instead.
    pub turns_back: bool,
    /// How else names in the answer are turned back: one after another, the last first.
    pub answers: Vec<AnswerName>,
    /// Rules below this one are tried on the new name.
    pub continues: bool,
}

#[derive(Debug, Clone)]
pub enum Matches {
    Exact(LowerName),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Regex),
}

/// `answer name` and `answer value`: how names in the answer are turned back.
#[derive(Debug, Clone)]
pub struct AnswerName {
    pub from: Regex,
    pub to: String,
    /// In the data of the record rather than its owner.
    pub in_value: bool,
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.matches == other.matches
            && self.to == other.to
            && self.turns_back == other.turns_back
            && self.answers == other.answers
            && self.continues == other.continues
    }
}

impl PartialEq for Matches {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(mine), Self::Exact(theirs)) => mine == theirs,
            (Self::Prefix(mine), Self::Prefix(theirs))
            | (Self::Suffix(mine), Self::Suffix(theirs))
            | (Self::Substring(mine), Self::Substring(theirs)) => mine == theirs,
            (Self::Regex(mine), Self::Regex(theirs)) => mine.as_str() == theirs.as_str(),
            (Self::Exact(_) | Self::Prefix(_) | Self::Suffix(_) | Self::Substring(_) | Self::Regex(_), _) => {
                false
            }
        }
    }
}

impl PartialEq for AnswerName {
    fn eq(&self, other: &Self) -> bool {
        self.from.as_str() == other.from.as_str() && self.to == other.to && self.in_value == other.in_value
    }
}
