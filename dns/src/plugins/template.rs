//! `template CLASS TYPE [ZONES...]`: replies built from the query's name and type.

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{DNSClass, LowerName, Name, RData, Record, RecordType},
};
use regex::{Captures, Regex};
use thiserror::Error;
use tracing::debug;

use super::directive::{LocalPlugin, PluginContext, Repeated};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word, zones_or},
    observe::metrics::{Plugin, TemplateMetrics},
    resolve::reply::Reply,
};

#[derive(Debug, Clone)]
pub struct Template {
    pub class: DNSClass,
    /// `None`: every qtype.
    pub qtype: Option<RecordType>,
    pub zones: Zones,
    /// The first expression that matches is used.
    pub matches: Vec<Regex>,
    /// Records in presentation format, with placeholders such as `{{ .Name }}`.
    pub answers: Vec<String>,
    pub additionals: Vec<String>,
    pub authorities: Vec<String>,
    pub rcode: ResponseCode,
    /// Zones in which a name without a match falls through. In others it is SERVFAIL, as in CoreDNS.
    pub fallthrough: Zones,
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        let patterns = |template: &Self| -> Vec<String> {
            template.matches.iter().map(|pattern| pattern.as_str().to_owned()).collect()
        };
        self.class == other.class
            && self.qtype == other.qtype
            && self.zones == other.zones
            && patterns(self) == patterns(other)
            && self.answers == other.answers
            && self.additionals == other.additionals
            && self.authorities == other.authorities
            && self.rcode == other.rcode
            && self.fallthrough == other.fallthrough
    }
}

impl Repeated for Template {
    const NAME: &'static str = "template";
    const SUMMARY: &'static str = "replies built from the query's name and type";
    const OPTIONS: &'static [&'static str] =
        &["match", "answer", "additional", "authority", "rcode", "fallthrough"];

    fn read(statement: &Statement, zones: &Zones) -> Result<Self, CorefileError> {
        parse(statement, zones)
    }

    fn start(templates: &[Self], context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        let metrics = context.metrics.templates(context.server, context.zone);
        Some(Box::new(TemplatePlugin { templates: templates.to_vec(), metrics }))
    }
}

/// The templates of one block.
#[derive(Debug)]
struct TemplatePlugin {
    templates: Vec<Template>,
    metrics: TemplateMetrics,
}

impl LocalPlugin for TemplatePlugin {
    fn answer(&self, question: &Query) -> Option<Reply> {
        let Expansion { reply, failed_records } = answer(&self.templates, question)?;
        self.metrics.count_match(question, failed_records);
        Some(reply)
    }
}

fn parse(statement: &Statement, block: &Zones) -> Result<Template, CorefileError> {
    let [class, qtype, zones @ ..] = statement.words.as_slice() else {
        return Err(statement.misused("template CLASS TYPE [ZONES...]"));
    };
    let mut template = Template {
        class: class_of(class)?,
        qtype: qtype_of(qtype)?,
        zones: zones_or(zones, block.clone())?,
        matches: Vec::new(),
        answers: Vec::new(),
        additionals: Vec::new(),
        authorities: Vec::new(),
        rcode: ResponseCode::NoError,
        fallthrough: Zones::default(),
    };
    for option in &statement.body {
        option.no_body()?;
        read_option(&mut template, statement, option)?;
    }
    if template.matches.is_empty() {
        let everything = Regex::new("").map_err(|error| statement.refuse(error.to_string()))?;
        template.matches.push(everything);
    }
    Ok(template)
}

fn read_option(
    template: &mut Template,
    statement: &Statement,
    option: &Statement,
) -> Result<(), CorefileError> {
    match option.name.text.as_str() {
        "match" => {
            if option.words.is_empty() {
                return Err(option.misused("match REGEX..."));
            }
            for word in &option.words {
                template.matches.push(word.regex()?);
            }
        }
        "answer" => template.answers.extend(records(option)?),
        "additional" => template.additionals.extend(records(option)?),
        "authority" => template.authorities.extend(records(option)?),
        "rcode" => template.rcode = option.exactly::<1>("rcode CODE")?[0].rcode()?,
        "fallthrough" => template.fallthrough = option.fallthrough()?,
        _ => return Err(statement.unknown_option(option)),
    }
    Ok(())
}

fn records(option: &Statement) -> Result<Vec<String>, CorefileError> {
    let checked = |word: &Word| match Pattern::parse(&word.text) {
        Ok(_) => Ok(word.text.clone()),
        Err(error) => Err(word.refuse(error.to_string())),
    };
    if option.words.is_empty() {
        return Err(option.misused(&format!("{} \"RECORD\"...", option.name.text)));
    }
    option.words.iter().map(checked).collect()
}

/// Queries of other classes are refused before the plugins.
fn class_of(word: &Word) -> Result<DNSClass, CorefileError> {
    match word.text.to_uppercase().as_str() {
        "IN" => Ok(DNSClass::IN),
        "ANY" => Ok(DNSClass::ANY),
        _ => Err(word.refuse("the class comes first, and only `IN` and `ANY` are answered")),
    }
}

fn qtype_of(word: &Word) -> Result<Option<RecordType>, CorefileError> {
    let qtype = word.record_type()?;
    Ok((qtype != RecordType::ANY).then_some(qtype))
}

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Vec<Piece>);

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
enum PatternError {
    #[error("{{{{ is never closed; add }}}}")]
    Open,
    #[error(
        "`{0}` cannot be filled in; there are .Name, .Zone, .Class, .Type, .Group.NAME, .Match and `index .Match NUMBER`"
    )]
    Unknown(String),
}

/// The reply of a template.
#[derive(Debug)]
struct Expansion {
    reply: Reply,
    /// Number of texts that were no valid records after expansion. This depends on the question, so it cannot
    /// be checked when the Corefile is read.
    failed_records: usize,
}

/// The reply of the first applicable template. Returns `None` if there is none, or on fallthrough.
fn answer(templates: &[Template], question: &Query) -> Option<Expansion> {
    let name = LowerName::new(question.name());
    let text = name.to_string();
    for template in templates.iter().filter(|template| applies_to(template, question, &name)) {
        if let Some(captures) = template.matches.iter().find_map(|pattern| pattern.captures(&text)) {
            let zone = template.zones.longest(&name).map(ToString::to_string).unwrap_or_default();
            return Some(expanded(template, &Variables { question, name: &text, zone, captures }));
        }
        if !template.fallthrough.contains(&name) {
            let reply = Reply::from_plugin(ResponseCode::ServFail, Plugin::Template);
            return Some(Expansion { reply, failed_records: 0 });
        }
    }
    None
}

fn applies_to(template: &Template, question: &Query, name: &LowerName) -> bool {
    let class = template.class == DNSClass::ANY || template.class == question.query_class();
    let qtype = template.qtype.is_none_or(|qtype| qtype == question.query_type());
    class && qtype && template.zones.contains(name)
}

/// Values of the placeholders.
struct Variables<'a> {
    question: &'a Query,
    name: &'a str,
    zone: String,
    captures: Captures<'a>,
}

fn expanded(template: &Template, variables: &Variables<'_>) -> Expansion {
    let records = |texts: &[String]| -> Vec<Record> {
        texts.iter().filter_map(|text| record(text, variables)).collect()
    };
    let reply = Reply {
        answers: records(&template.answers),
        authorities: records(&template.authorities),
        additionals: records(&template.additionals),
        ..Reply::from_plugin(template.rcode, Plugin::Template)
    };
    let wanted = template.answers.len() + template.authorities.len() + template.additionals.len();
    let failed_records = wanted - reply.answers.len() - reply.authorities.len() - reply.additionals.len();
    // A partial answer would be taken for the whole, and an empty one for NODATA.
    let reply = if failed_records == 0 {
        reply
    } else {
        Reply::from_plugin(ResponseCode::ServFail, Plugin::Template)
    };
    Expansion { reply, failed_records }
}

fn record(text: &str, variables: &Variables<'_>) -> Option<Record> {
    let expanded = Pattern::parse(text).ok()?.expand(variables);
    let parsed = expanded.as_deref().and_then(parsed);
    if parsed.is_none() {
        // Counted as well. Any client can cause it, so it is logged at debug level only.
        debug!(record = expanded.as_deref().unwrap_or(text), "template record invalid after expansion");
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

/// The default TTL.
const TTL: u32 = 3600;

fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, PatternError> {
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

    /// Returns `None` for an index beyond the groups of the expression, as the expression that matches is one of
    /// several.
    fn expand(&self, variables: &Variables<'_>) -> Option<String> {
        self.0.iter().map(|piece| piece.expand(variables)).collect()
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

    fn expand(&self, variables: &Variables<'_>) -> Option<String> {
        let group = |found: Option<regex::Match<'_>>| found.map_or("", |found| found.as_str()).to_owned();
        Some(match self {
            Self::Text(text) => text.clone(),
            Self::Name => variables.name.to_owned(),
            Self::Zone => variables.zone.clone(),
            Self::Class => variables.question.query_class().to_string(),
            Self::Type => variables.question.query_type().to_string(),
            Self::Group(number) if *number >= variables.captures.len() => return None,
            Self::Group(number) => group(variables.captures.get(*number)),
            Self::Named(name) => group(variables.captures.name(name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn replies_are_built_from_the_question() {
        let by_number = template(
            r"^ip-(\d+)-(\d+)-(\d+)-(\d+)\.example\.$",
            "{{ .Name }} 60 IN A {{ index .Match 1 }}.{{index .Match 2}}.{{ index .Match 3 }}.{{ index .Match 4 }}",
        );
        let by_name =
            template(r"^(?P<host>[a-z]+)\.example\.$", "{{ .Name }} {{ .Class }} A 10.0.0.{{ .Group.host }}");
        let elsewhere = Zones(vec![Name::from_ascii("example.").unwrap().into()]);
        let first = Template { fallthrough: elsewhere, ..by_number.clone() };
        let no_group = template("^x", "{{ .Name }} 60 IN TXT x{{ index .Match 1 }}");
        let unused_group = template("^x(y)?", "{{ .Name }} 60 IN TXT x{{ index .Match 1 }}");
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
            // An index out of range fails; a group without a match is empty.
            ("x.example.", RecordType::A, &[&no_group], Some((ResponseCode::ServFail, vec![]))),
            ("x.example.", RecordType::A, &[&unused_group], found("x.example. 60 x")),
        ];
        for (name, qtype, templates, want) in cases {
            let templates: Vec<Template> = templates.iter().copied().cloned().collect();
            let question = Query::query(Name::from_ascii(name).unwrap(), *qtype);
            let got = answer(&templates, &question).map(|Expansion { reply, .. }| {
                let text = |record: &Record| format!("{} {} {}", record.name, record.ttl, record.data);
                (reply.rcode, reply.answers.iter().map(text).collect())
            });
            assert_eq!(got, *want, "{name} {qtype}");
        }
    }

    #[test]
    fn unknown_placeholders_are_refused() {
        for text in ["{{ .Name", "{{ .Meta }}", "{{ index .Match x }}", "{{ if .Name }}x{{ end }}"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
