//! Answers made from the words of the question.

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{DNSClass, LowerName, Name, RData, Record, RecordType},
};
use regex::Captures;
use thiserror::Error;
use tracing::debug;

use crate::{
    config::Template,
    resolve::reply::{Origin, Reply},
};

/// A text with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Zone,
    Class,
    Type,
    /// `index .Match N`
    Group(usize),
    /// `.Group.NAME`
    Named(String),
}

#[derive(Debug, Error)]
pub(crate) enum PatternError {
    #[error("{{{{ is never closed; add }}}}")]
    Open,
    #[error(
        "`{0}` cannot be filled in; there are .Name, .Zone, .Class, .Type, .Group.NAME, .Match and `index .Match NUMBER`"
    )]
    Unknown(String),
}

/// What a template makes of a question.
#[derive(Debug)]
pub struct Made {
    pub reply: Reply,
    /// Texts that were no records once they were filled in. That depends on the question, so nobody could have been
    /// told before.
    pub unmade: usize,
}

/// The answer of the first template that is about the question. None: somebody else may know.
pub fn answer(templates: &[Template], question: &Query) -> Option<Made> {
    if templates.is_empty() {
        return None;
    }
    let name = LowerName::new(question.name());
    let text = name.to_string();
    for template in templates.iter().filter(|template| applies_to(template, question, &name)) {
        if let Some(captures) = template.matches.iter().find_map(|pattern| pattern.captures(&text)) {
            let zone = template.zones.longest(&name).map(ToString::to_string).unwrap_or_default();
            return Some(made(template, &Facts { question, name: &text, zone, captures }));
        }
        if !template.fallthrough.contains(&name) {
            let reply = Reply::from_plugin(ResponseCode::ServFail, Origin::Template);
            return Some(Made { reply, unmade: 0 });
        }
    }
    None
}

fn applies_to(template: &Template, question: &Query, name: &LowerName) -> bool {
    let class = template.class == DNSClass::ANY || template.class == question.query_class();
    let qtype = template.qtype.is_none_or(|qtype| qtype == question.query_type());
    class && qtype && template.zones.contains(name)
}

/// What may be filled in.
struct Facts<'a> {
    question: &'a Query,
    name: &'a str,
    zone: String,
    captures: Captures<'a>,
}

fn made(template: &Template, facts: &Facts<'_>) -> Made {
    let records =
        |texts: &[String]| -> Vec<Record> { texts.iter().filter_map(|text| record(text, facts)).collect() };
    let reply = Reply {
        answers: records(&template.answers),
        authorities: records(&template.authorities),
        additionals: records(&template.additionals),
        ..Reply::from_plugin(template.rcode, Origin::Template)
    };
    let wanted = template.answers.len() + template.authorities.len() + template.additionals.len();
    let unmade = wanted - reply.answers.len() - reply.authorities.len() - reply.additionals.len();
    // A part would be taken for the whole, and nothing for the word that there is nothing.
    let reply =
        if unmade == 0 { reply } else { Reply::from_plugin(ResponseCode::ServFail, Origin::Template) };
    Made { reply, unmade }
}

fn record(text: &str, facts: &Facts<'_>) -> Option<Record> {
    let text = Pattern::parse(text).ok()?.expand(facts);
    let parsed = parsed(&text);
    if parsed.is_none() {
        // Counted, too; any client can make it happen, so it must not fill the log.
        debug!(record = text, "a template has made no record");
    }
    parsed
}

/// `NAME [TTL] [CLASS] TYPE DATA`
fn parsed(text: &str) -> Option<Record> {
    let (name, rest) = word(text)?;
    let (mut next, mut rest) = word(rest)?;
    let mut ttl = TTL;
    if let Ok(seconds) = next.parse() {
        ttl = seconds;
        (next, rest) = word(rest)?;
    }
    if next.eq_ignore_ascii_case("IN") {
        (next, rest) = word(rest)?;
    }
    let qtype: RecordType = next.to_uppercase().parse().ok()?;
    let data = RData::try_from_str(qtype, rest.trim()).ok()?;
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(Record::from_rdata(name, ttl, data))
}

/// Of records that do not say.
const TTL: u32 = 3600;

fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, behind) = after.split_once("}}").ok_or(PatternError::Open)?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::parse(inside.trim_matches('-').trim())?);
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    fn expand(&self, facts: &Facts<'_>) -> String {
        self.0.iter().map(|piece| piece.expand(facts)).collect()
    }
}

impl Piece {
    fn parse(text: &str) -> Result<Self, PatternError> {
        let unknown = || PatternError::Unknown(text.to_owned());
        if let Some(name) = text.strip_prefix(".Group.") {
            return Ok(Self::Named(name.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("index ") {
            let number = rest.trim().strip_prefix(".Match").and_then(|number| number.trim().parse().ok());
            return number.map(Self::Group).ok_or_else(unknown);
        }
        match text {
            ".Name" | ".Question.Name" => Ok(Self::Name),
            ".Zone" => Ok(Self::Zone),
            ".Class" => Ok(Self::Class),
            ".Type" => Ok(Self::Type),
            ".Match" => Ok(Self::Group(0)),
            _ => Err(unknown()),
        }
    }

    fn expand(&self, facts: &Facts<'_>) -> String {
        let group = |found: Option<regex::Match<'_>>| found.map_or("", |found| found.as_str()).to_owned();
        match self {
            Self::Text(text) => text.clone(),
            Self::Name => facts.name.to_owned(),
            Self::Zone => facts.zone.clone(),
            Self::Class => facts.question.query_class().to_string(),
            Self::Type => facts.question.query_type().to_string(),
            Self::Group(number) => group(facts.captures.get(*number)),
            Self::Named(name) => group(facts.captures.name(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::config::Zones;

    fn template(pattern: &str, answer: &str) -> Template {
        Template {
            class: DNSClass::IN,
            qtype: Some(RecordType::A),
            zones: Zones(vec![Name::from_ascii("example.").unwrap().into()]),
            matches: vec![Regex::new(pattern).unwrap()],
            answers: vec![answer.to_owned()],
            additionals: Vec::new(),
            authorities: Vec::new(),
            rcode: ResponseCode::NoError,
            fallthrough: Zones::default(),
        }
    }

    #[test]
    fn answers_are_made_from_the_question() {
        let by_number = template(
            r"^ip-(\d+)-(\d+)-(\d+)-(\d+)\.example\.$",
            "{{ .Name }} 60 IN A {{ index .Match 1 }}.{{index .Match 2}}.{{ index .Match 3 }}.{{ index .Match 4 }}",
        );
        let by_name =
            template(r"^(?P<host>[a-z]+)\.example\.$", "{{ .Name }} {{ .Class }} A 10.0.0.{{ .Group.host }}");
        let elsewhere = Zones(vec![Name::from_ascii("example.").unwrap().into()]);
        let first = Template { fallthrough: elsewhere, ..by_number.clone() };
        let no_ipv6 = Template { qtype: Some(RecordType::AAAA), answers: vec![], ..template(".*", "") };
        let found = |text: &str| Some((ResponseCode::NoError, vec![text.to_owned()]));
        type Want = Option<(ResponseCode, Vec<String>)>;
        let cases: &[(&str, RecordType, &[&Template], Want)] = &[
            ("ip-10-0-0-1.example.", RecordType::A, &[&by_number], found("ip-10-0-0-1.example. 60 10.0.0.1")),
            ("other.example.", RecordType::A, &[&by_number], Some((ResponseCode::ServFail, vec![]))),
            ("other.example.", RecordType::A, &[&first], None),
            ("other.example.", RecordType::A, &[&first, &by_name], Some((ResponseCode::ServFail, vec![]))),
            ("ip-10-0-0-1.example.", RecordType::AAAA, &[&by_number], None),
            ("ip-10-0-0-1.elsewhere.", RecordType::A, &[&by_number], None),
            ("x.example.", RecordType::AAAA, &[&no_ipv6], Some((ResponseCode::NoError, vec![]))),
        ];
        for (name, qtype, templates, want) in cases {
            let templates: Vec<Template> = templates.iter().copied().cloned().collect();
            let question = Query::query(Name::from_ascii(name).unwrap(), *qtype);
            let got = answer(&templates, &question).map(|Made { reply, .. }| {
                let text = |record: &Record| format!("{} {} {}", record.name, record.ttl, record.data);
                (reply.rcode, reply.answers.iter().map(text).collect())
            });
            assert_eq!(got, *want, "{name} {qtype}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        for text in ["{{ .Name", "{{ .Meta }}", "{{ index .Match x }}", "{{ if .Name }}x{{ end }}"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
