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

/// A rule: a matching name is replaced for resolution, and restored in the answer.
#[derive(Debug, Clone)]
pub struct Rewrite {
    pub matches: Matches,
    /// The replacement. For a regex, `{0}` is the whole match and `{1}` the first group; for a prefix, suffix
    /// or substring, it replaces that part.
    pub to: String,
    /// `answer auto`: names in the answer are rewritten in reverse, in owners and in data. Owners equal to the
    /// replacement are restored in any case.
    pub restores: bool,
    /// Further rewrites of names in the answer, applied from the last to the first.
    pub answers: Vec<AnswerName>,
    /// The rules below this one are applied to the new name.
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

/// `answer name` and `answer value`: a rewrite of names in the answer.
#[derive(Debug, Clone)]
pub struct AnswerName {
    pub from: Regex,
    pub to: String,
    /// Applies to the data of a record instead of its owner.
    pub in_value: bool,
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.matches == other.matches
            && self.to == other.to
            && self.restores == other.restores
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
    const SUMMARY: &'static str = "names of queries and answers; not types, classes, TTLs and EDNS options";
    const OPTIONS: &'static [&'static str] = &["name", "answer"];
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
    let matches = matcher(kind, from)?;
    if let Matches::Regex(from) = &matches {
        refuse_missing_groups(from, to)?;
    }
    Ok(Rewrite { matches, to: target(kind, to)?, restores: is_auto || kind == "exact", answers, continues })
}

fn matcher(kind: &str, from: &Word) -> Result<Matches, CorefileError> {
    let text = from.text.to_lowercase();
    Ok(match kind {
        "prefix" => Matches::Prefix(text),
        "suffix" => Matches::Suffix(absolute(text)),
        "substring" => Matches::Substring(text),
        // Names are matched in lower case with the final dot.
        "regex" => Matches::Regex(from.regex()?),
        _ => Matches::Exact(from.name()?),
    })
}

/// Refuses a replacement with `{N}` beyond the groups of the regex.
fn refuse_missing_groups(from: &Regex, to: &Word) -> Result<(), CorefileError> {
    let numbers = to.text.split('{').skip(1).filter_map(|text| text.split_once('}')?.0.parse::<usize>().ok());
    match numbers.max().filter(|number| *number >= from.captures_len()) {
        None => Ok(()),
        Some(number) => Err(to.refuse(format!(
            "`{{{number}}}` has no group: `{from}` has {}; add one, or correct the number",
            from.captures_len() - 1
        ))),
    }
}

/// A replacement at the end of a name is absolute.
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
                let to = absolute(to.text.to_lowercase());
                answers.push(AnswerName { from, to, in_value: field.is("value") });
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

/// A rewritten question.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    pub question: Query,
    original: Name,
    /// The reverse rewrites of all rules that matched, in the order of the rules.
    restorations: Vec<Restoration>,
}

/// A rewrite of names in the answer.
#[derive(Debug, Clone, PartialEq)]
enum Restoration {
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

/// Applies the rules. Returns `None` if no rule matches, or if the result is not a name.
pub fn rewritten(rules: &[Rewrite], question: &Query) -> Option<Rewritten> {
    let mut name = question.name().clone();
    let (mut restorations, mut matches) = (Vec::new(), false);
    for rule in rules {
        let Some(other) = rewrite_name(rule, &name) else { continue };
        restorations.extend(Restoration::of(rule, &name, &other));
        (name, matches) = (other, true);
        if !rule.continues {
            break;
        }
    }
    let mut rewritten = question.clone();
    rewritten.set_name(name);
    matches.then(|| Rewritten { question: rewritten, original: question.name().clone(), restorations })
}

impl Rewritten {
    /// Restores the names of the original question in the records of an answer.
    pub fn restore(&self, records: &mut [Record]) {
        for record in records {
            if record.name == *self.question.name() {
                record.name.clone_from(&self.original);
            } else {
                self.restore_name(&mut record.name, false);
            }
            if let Some(name) = name_in(&mut record.data) {
                self.restore_name(name, true);
            }
        }
    }

    fn restore_name(&self, name: &mut Name, in_value: bool) {
        let before = text(name);
        let apply = |now: String, restoration: &Restoration| restoration.apply(&now, in_value).unwrap_or(now);
        let after = self.restorations.iter().rev().fold(before.clone(), apply);
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

impl Restoration {
    fn of(rule: &Rewrite, before: &Name, after: &Name) -> impl Iterator<Item = Self> {
        let own = rule.restores.then(|| match &rule.matches {
            Matches::Suffix(suffix) => Self::Suffix { from: rule.to.clone(), to: suffix.clone() },
            Matches::Exact(_) | Matches::Prefix(_) | Matches::Substring(_) | Matches::Regex(_) => {
                Self::Whole { from: text(after), to: text(before) }
            }
        });
        own.into_iter().chain(rule.answers.iter().cloned().map(Self::Pattern))
    }

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

fn rewrite_name(rule: &Rewrite, name: &Name) -> Option<Name> {
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

/// Replaces the whole name; `{1}` is the first group.
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
        Rewrite { matches, to: to.to_owned(), restores: false, answers: Vec::new(), continues: false }
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
    fn answers_are_restored_to_the_original_name() {
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
    fn rules_restore_the_names_that_they_rewrote() {
        let back = |rule: Rewrite| Rewrite { restores: true, ..rule };
        let exact = || back(rule(Matches::Exact(name("red.example.").into()), "blue.example."));
        let suffix = || back(rule(Matches::Suffix(".outer.".to_owned()), ".svc."));
        let pattern = || back(rule(regex("^(.*)-(.*)$"), "{1}.{2}"));
        let prefix = Rewrite { continues: true, ..back(rule(Matches::Prefix("a-".to_owned()), "")) };
        let srv = |owner: &str, target: &str| {
            Record::from_rdata(name(owner), 5, RData::SRV(SRV::new(0, 1, 80, name(target))))
        };
        for (case, rules, asked, before, want) in [
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
            let RData::SRV(SRV { target, .. }) = &records[0].data else { panic!("{case}") };
            assert_eq!(format!("{} {target}", records[0].name), want, "{case}");
        }
    }
}
