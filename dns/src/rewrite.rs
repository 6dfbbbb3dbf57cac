//! Questions that are asked under another name, and answers that come back under the first.

use std::borrow::Cow;

use hickory_server::proto::{
    op::Query,
    rr::{
        LowerName, Name, RData, Record,
        rdata::{CNAME, PTR, SRV},
    },
};
use regex::{Captures, Regex};

use crate::config::{AnswerName, Matches, Rewrite};

/// A question in other words.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    pub question: Query,
    asked: Name,
    /// Of the rule that matched last.
    answers: Vec<AnswerName>,
}

/// None: no rule matches, or what it makes is no name.
pub fn rewritten(rules: &[Rewrite], question: &Query) -> Option<Rewritten> {
    let mut name = question.name().clone();
    let mut answers = None;
    for rule in rules {
        let Some(other) = replaced(rule, &name) else { continue };
        name = other;
        answers = Some(rule.answers.clone());
        if !rule.continues {
            break;
        }
    }
    let mut asked_instead = question.clone();
    asked_instead.set_name(name);
    Some(Rewritten { question: asked_instead, asked: question.name().clone(), answers: answers? })
}

impl Rewritten {
    /// Gives the records of an answer the names that belong to the first question.
    pub fn restore(&self, records: &mut [Record]) {
        for record in records {
            if record.name == *self.question.name() {
                record.name.clone_from(&self.asked);
            } else if let Some(name) = self.turned_back(&record.name, false) {
                record.name = name;
            }
            self.restore_data(&mut record.data);
        }
    }

    fn restore_data(&self, data: &mut RData) {
        let (RData::CNAME(CNAME(target)) | RData::PTR(PTR(target)) | RData::SRV(SRV { target, .. })) = data
        else {
            return;
        };
        if let Some(name) = self.turned_back(target, true) {
            *target = name;
        }
    }

    fn turned_back(&self, name: &Name, in_value: bool) -> Option<Name> {
        let text = text(name);
        let rules = self.answers.iter().filter(|rule| rule.in_value == in_value);
        rules
            .filter_map(|rule| substituted(&rule.from, &rule.to, &text))
            .next()
            .and_then(|text| parsed(&text))
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
        Rewrite { matches, to: to.to_owned(), answers: Vec::new(), continues: false }
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
}
