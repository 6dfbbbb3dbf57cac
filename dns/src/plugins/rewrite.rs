//! `rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer ...]`: queries are resolved under
//! another name, and the answer returns under the name of the query.

use std::borrow::Cow;

use hickory_server::proto::{
    op::Query,
    rr::{
        LowerName, Name, RData, Record,
        rdata::{CNAME, MX, NAPTR, NS, PTR, SOA, SRV},
    },
};
use regex::{Captures, Regex};

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
};

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

impl Directive for Rewrite {
    const NAME: &'static str = "rewrite";
    const IS_REPEATABLE: bool = true;
    type Setting = Vec<Self>;

    fn read(setting: &mut Vec<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        setting.push(parse(statement)?);
        Ok(())
    }

    fn is_enabled(setting: &Vec<Self>) -> bool {
        !setting.is_empty()
    }
}

const USAGE: &str =
    "rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer auto]";
const KINDS: [&str; 5] = ["exact", "prefix", "suffix", "substring", "regex"];

/// Over one line, or over several with the options on lines of their own.
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
        return over_lines(statement, continues);
    }
    statement.no_body()?;
    one(statement, words, continues)
}

fn over_lines(statement: &Statement, continues: bool) -> Result<Rewrite, CorefileError> {
    let (first, options) = statement.body.split_first().ok_or_else(|| statement.misused(USAGE))?;
    let mut words: Vec<Word> = line(first);
    for option in options {
        if !option.name.is("answer") {
            return Err(
                option.refuse("one question is rewritten in a block; write another `rewrite` for more")
            );
        }
        words.extend(line(option));
    }
    one(statement, &words, continues)
}

fn line(statement: &Statement) -> Vec<Word> {
    std::iter::once(&statement.name).chain(&statement.words).cloned().collect()
}

fn one(statement: &Statement, words: &[Word], continues: bool) -> Result<Rewrite, CorefileError> {
    let (field, rest) = words.split_first().ok_or_else(|| statement.misused(USAGE))?;
    if !field.is("name") {
        return Err(
            field.refuse(format!("only names can be rewritten, not `{}`; remove the rule", field.text))
        );
    }
    let (kind, rest) = match rest.split_first() {
        Some((kind, rest)) if KINDS.contains(&kind.text.as_str()) => (kind.text.as_str(), rest),
        _ => ("exact", rest),
    };
    let [from, to, options @ ..] = rest else { return Err(statement.misused(USAGE)) };
    let (is_auto, answers) = answer_options(options)?;
    Ok(Rewrite {
        matches: matcher(kind, from)?,
        to: target(kind, to)?,
        turns_back: is_auto || kind == "exact",
        answers,
        continues,
    })
}

fn matcher(kind: &str, from: &Word) -> Result<Matches, CorefileError> {
    let text = from.text.to_lowercase();
    Ok(match kind {
        "prefix" => Matches::Prefix(text),
        "suffix" => Matches::Suffix(absolute(text)),
        "substring" => Matches::Substring(text),
        // Names are matched in lower case, with the dot of the root at their end.
        "regex" => Matches::Regex(from.regex()?),
        _ => Matches::Exact(from.name()?),
    })
}

/// What stands at the end of a name ends with the root, too.
fn target(kind: &str, to: &Word) -> Result<String, CorefileError> {
    Ok(match kind {
        "prefix" | "substring" => to.text.to_lowercase(),
        "suffix" | "regex" => absolute(to.text.to_lowercase()),
        _ => to.name()?.to_string(),
    })
}

fn absolute(text: String) -> String {
    if text.ends_with('.') { text } else { text + "." }
}

/// Whether `answer auto` is among them, and the others. The word `answer` may be left out behind the first.
fn answer_options(mut words: &[Word]) -> Result<(bool, Vec<AnswerName>), CorefileError> {
    let (mut is_auto, mut answers) = (false, Vec::new());
    if let Some(first) = words.first().filter(|word| !word.is("answer")) {
        return Err(misplaced(first));
    }
    while let Some((first, behind)) = words.split_first() {
        match if first.is("answer") { behind } else { words } {
            [auto, rest @ ..] if auto.is("auto") => (is_auto, words) = (true, rest),
            [field, from, to, rest @ ..] if field.is("name") || field.is("value") => {
                let to = absolute(to.text.to_lowercase());
                answers.push(AnswerName { from: from.regex()?, to, in_value: field.is("value") });
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

/// A question in other words.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    pub question: Query,
    asked: Name,
    /// Of every rule that matched, in their order; names in the answer go the way back.
    turns: Vec<Turn>,
}

/// How a name in the answer is turned back.
#[derive(Debug, Clone, PartialEq)]
enum Turn {
    /// A name and those below it.
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

/// None: no rule matches, or what it makes is no name.
pub fn rewritten(rules: &[Rewrite], question: &Query) -> Option<Rewritten> {
    let mut name = question.name().clone();
    let (mut turns, mut matches) = (Vec::new(), false);
    for rule in rules {
        let Some(other) = replaced(rule, &name) else { continue };
        turns.extend(Turn::of(rule, &name, &other));
        (name, matches) = (other, true);
        if !rule.continues {
            break;
        }
    }
    let mut asked_instead = question.clone();
    asked_instead.set_name(name);
    matches.then(|| Rewritten { question: asked_instead, asked: question.name().clone(), turns })
}

impl Rewritten {
    /// Gives the records of an answer the names that belong to the first question.
    pub fn restore(&self, records: &mut [Record]) {
        for record in records {
            if record.name == *self.question.name() {
                record.name.clone_from(&self.asked);
            } else {
                self.turn_back(&mut record.name, false);
            }
            if let Some(name) = name_in(&mut record.data) {
                self.turn_back(name, true);
            }
        }
    }

    fn turn_back(&self, name: &mut Name, in_value: bool) {
        let before = text(name);
        let turned = |now: String, turn: &Turn| turn.turned(&now, in_value).unwrap_or(now);
        let after = self.turns.iter().rev().fold(before.clone(), turned);
        if let Some(other) = parsed(&after).filter(|_| after != before) {
            *name = other;
        }
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

impl Turn {
    fn of(rule: &Rewrite, before: &Name, after: &Name) -> impl Iterator<Item = Self> {
        let own = rule.turns_back.then(|| match &rule.matches {
            Matches::Suffix(suffix) => Self::Suffix { from: rule.to.clone(), to: suffix.clone() },
            Matches::Exact(_) | Matches::Prefix(_) | Matches::Substring(_) | Matches::Regex(_) => {
                Self::Whole { from: text(after), to: text(before) }
            }
        });
        own.into_iter().chain(rule.answers.iter().cloned().map(Self::Pattern))
    }

    fn turned(&self, name: &str, in_value: bool) -> Option<String> {
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

fn replaced(rule: &Rewrite, name: &Name) -> Option<Name> {
    let text = text(name);
    let to = rule.to.as_str();
    let other = match &rule.matches {
        Matches::Exact(from) => (LowerName::new(name) == *from).then(|| to.to_owned()),
        Matches::Prefix(from) => text.strip_prefix(from.as_str()).map(|rest| format!("{to}{rest}")),
        Matches::Suffix(from) => text.strip_suffix(from.as_str()).map(|rest| format!("{rest}{to}")),
        Matches::Substring(from) => text.contains(from.as_str()).then(|| text.replace(from.as_str(), to)),
        Matches::Regex(from) => substituted(from, to, &text),
    };
    other.and_then(|text| parsed(&text))
}

/// The whole name becomes the replacement, in which `{1}` is what the first group matched.
fn substituted(from: &Regex, to: &str, text: &str) -> Option<String> {
    let captures = from.captures(text)?;
    Some(filled(to, &captures))
}

fn filled(to: &str, captures: &Captures<'_>) -> String {
    (0..captures.len()).fold(to.to_owned(), |out, group| {
        let matched = captures.get(group).map_or("", |group| group.as_str());
        out.replace(&format!("{{{group}}}"), matched)
    })
}

fn text(name: &Name) -> String {
    let mut name = Cow::Borrowed(name);
    if !name.is_fqdn() {
        name.to_mut().set_fqdn(true);
    }
    name.to_ascii().to_lowercase()
}

fn parsed(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::rr::RecordType;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn rule(matches: Matches, to: &str) -> Rewrite {
        Rewrite { matches, to: to.to_owned(), turns_back: false, answers: Vec::new(), continues: false }
    }

    fn regex(pattern: &str) -> Matches {
        Matches::Regex(Regex::new(pattern).unwrap())
    }

    fn check(rules: &[Rewrite], cases: &[(&str, Option<&str>)]) {
        for (asked, want) in cases {
            let question = Query::query(name(asked), RecordType::A);
            let got = rewritten(rules, &question).map(|rewritten| rewritten.question.name().to_string());
            assert_eq!(got.as_deref(), *want, "{asked}");
        }
    }

    #[test]
    fn names_are_replaced() {
        let exact = Matches::Exact(name("a.example.").into());
        check(&[rule(exact, "b.example.")], &[("A.Example.", Some("b.example.")), ("x.a.example.", None)]);
        let suffix = Matches::Suffix(".schmoogle.com.".to_owned());
        check(
            &[rule(suffix, ".google.com.")],
            &[("www.Schmoogle.com.", Some("www.google.com.")), ("schmoogle.com.", None)],
        );
        check(&[rule(Matches::Prefix("a-".to_owned()), "")], &[("a-b.example.", Some("b.example."))]);
        check(
            &[rule(Matches::Substring("old".to_owned()), "new")],
            &[("an.old.example.", Some("an.new.example."))],
        );
        check(
            &[rule(regex(r"^(.*)-(us|eu)\.example\.$"), "{1}.{2}.example.")],
            &[("web-eu.example.", Some("web.eu.example.")), ("web-jp.example.", None)],
        );
        let on = Rewrite { continues: true, ..rule(Matches::Prefix("a.".to_owned()), "b.") };
        let then = rule(Matches::Prefix("b.".to_owned()), "c.");
        check(&[on.clone(), then.clone()], &[("a.example.", Some("c.example."))]);
        check(&[Rewrite { continues: false, ..on }, then], &[("a.example.", Some("b.example."))]);
        check(&[rule(Matches::Prefix("a".to_owned()), "..")], &[("a.example.", None)]);
    }

    #[test]
    fn answers_come_back_under_the_first_name() {
        let answers = vec![
            AnswerName {
                from: Regex::new(r"^(.*)\.svc\.$").unwrap(),
                to: "{1}.outer.".to_owned(),
                in_value: false,
            },
            AnswerName {
                from: Regex::new(r"^(.*)\.svc\.$").unwrap(),
                to: "{1}.value.".to_owned(),
                in_value: true,
            },
        ];
        let rules = [Rewrite { answers, ..rule(Matches::Suffix(".outer.".to_owned()), ".svc.") }];
        let question = Query::query(name("Web.outer."), RecordType::A);
        let rewritten = rewritten(&rules, &question).unwrap();
        let cname =
            |owner: &str, target: &str| Record::from_rdata(name(owner), 5, RData::CNAME(CNAME(name(target))));
        let mut records = [cname("web.svc.", "x.svc."), cname("x.svc.", "y.elsewhere.")];
        rewritten.restore(&mut records);
        let got: Vec<String> =
            records.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
        assert_eq!(got, ["Web.outer. x.value.", "x.outer. y.elsewhere."]);
    }

    #[test]
    fn rules_turn_back_what_they_have_turned() {
        let back = |rule: Rewrite| Rewrite { turns_back: true, ..rule };
        let exact = || back(rule(Matches::Exact(name("red.example.").into()), "blue.example."));
        let suffix = || back(rule(Matches::Suffix(".outer.".to_owned()), ".svc."));
        let pattern = || back(rule(regex("^(.*)-(.*)$"), "{1}.{2}"));
        let prefix = Rewrite { continues: true, ..back(rule(Matches::Prefix("a-".to_owned()), "")) };
        let srv = |owner: &str, target: &str| {
            Record::from_rdata(name(owner), 5, RData::SRV(SRV::new(0, 1, 80, name(target))))
        };
        for (what, rules, asked, before, want) in [
            (
                "exact",
                vec![exact()],
                "red.example.",
                ("blue.example.", "x.blue.example."),
                "red.example. x.red.example.",
            ),
            (
                "no label",
                vec![exact()],
                "red.example.",
                ("blue.example.", "xblue.example."),
                "red.example. xblue.example.",
            ),
            ("suffix", vec![suffix()], "web.outer.", ("web.svc.", "db.svc."), "web.outer. db.outer."),
            ("elsewhere", vec![suffix()], "web.outer.", ("web.other.", "db.other."), "web.other. db.other."),
            (
                "not back",
                vec![rule(Matches::Suffix(".outer.".to_owned()), ".svc.")],
                "web.outer.",
                ("web.svc.", "db.svc."),
                "web.outer. db.svc.",
            ),
            ("regex", vec![pattern()], "a-b.", ("a.b.", "x.a.b."), "a-b. x.a-b."),
            (
                "two rules",
                vec![prefix, suffix()],
                "a-web.outer.",
                ("web.svc.", "web.svc."),
                "a-web.outer. a-web.outer.",
            ),
        ] {
            let rewritten = rewritten(&rules, &Query::query(name(asked), RecordType::SRV)).unwrap();
            let mut records = [srv(before.0, before.1)];
            rewritten.restore(&mut records);
            let RData::SRV(SRV { target, .. }) = &records[0].data else { panic!("{what}") };
            assert_eq!(format!("{} {target}", records[0].name), want, "{what}");
        }
    }
}
