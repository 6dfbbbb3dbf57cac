//! `log [NAMES...] [FORMAT]`, with `class CLASSES...` in its body: replies that are logged.

use std::{net::IpAddr, time::Duration};

use hickory_server::proto::{
    op::{Message, Query, ResponseCode},
    rr::{LowerName, RecordType},
};

use super::directive::Repeated;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word, zones_or},
    observe::metrics::{Transport, rcode_word},
};

/// Zones, and the classes that are logged. For each name the first matching one applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub zones: Zones,
    pub classes: Vec<Class>,
    /// `None`: an entry with all fields.
    pub format: Option<Format>,
}

named_enum! {
    /// The class of a reply, as CoreDNS sorts them.
    pub enum Class {
        Success = "success",
        /// NXDOMAIN or NODATA.
        Denial = "denial",
        Error = "error",
    }
}

impl Log {
    /// All classes of all names.
    pub fn all() -> Self {
        Self { zones: Zones::all(), classes: Class::ALL.to_vec(), format: None }
    }

    pub fn covers(&self, name: &LowerName) -> bool {
        self.zones.contains(name)
    }

    pub fn includes(&self, answer: &Message) -> bool {
        self.classes.contains(&Class::of(answer))
    }
}

impl Class {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are errors")]
    fn of(answer: &Message) -> Self {
        let has_soa = || answer.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
        match answer.metadata.response_code {
            ResponseCode::NoError if answer.answers.is_empty() && has_soa() => Self::Denial,
            ResponseCode::NoError => Self::Success,
            // CNAMEs to a missing name are no denial (CoreDNS since 1.14.5).
            ResponseCode::NXDomain if answer.answers.is_empty() => Self::Denial,
            _ => Self::Error,
        }
    }
}

impl Repeated for Log {
    const NAME: &'static str = "log";
    const SUMMARY: &'static str =
        "a log entry for each reply, with all its fields or in a format; `{local}` and metadata are `-`";
    const OPTIONS: &'static [&'static str] = &["class"];

    fn read(statement: &Statement, _zones: &Zones) -> Result<Self, CorefileError> {
        parse(statement)
    }
}

/// A line for each entry, with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
    /// Not known here.
    Absent,
}

named_enum! {
    enum Field {
        Type = "type",
        Name = "name",
        Class = "class",
        Proto = "proto",
        Remote = "remote",
        Port = "port",
        Size = "size",
        Duration = "duration",
        Rcode = "rcode",
        ResponseSize = "rsize",
        ResponseFlags = ">rflags",
        Bufsize = ">bufsize",
        Do = ">do",
        Id = ">id",
        Opcode = ">opcode",
    }
}

/// CoreDNS's Common Log Format.
const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" {rcode} {>rflags} \
                      {rsize} {duration}";

/// What a line tells of a reply beside the message itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange {
    pub client: IpAddr,
    pub port: u16,
    pub transport: Transport,
    /// Of the query.
    pub payload: Option<u16>,
    /// Of the query and the reply, in octets.
    pub sizes: (usize, usize),
    pub took: Duration,
}

impl Format {
    fn parse(text: &str) -> Self {
        let combined = format!("{COMMON} {{>opcode}}");
        let text = text.replace("{common}", COMMON).replace("{combined}", &combined);
        let (mut pieces, mut rest) = (Vec::new(), text.as_str());
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else { break };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match Field::ALL.into_iter().find(|field| field.name() == name) {
                Some(field) => Piece::Field(field),
                None if name == "local" || name.starts_with('/') => Piece::Absent,
                None => Piece::Text(format!("{{{name}}}")),
            });
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Self(pieces)
    }

    pub(crate) fn line(&self, reply: &Message, exchange: &Exchange) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Field(field) => field.value(reply, exchange),
            Piece::Absent => "-".to_owned(),
        };
        self.0.iter().map(piece).collect()
    }
}

impl Field {
    fn value(self, reply: &Message, exchange: &Exchange) -> String {
        let question = reply.queries.first();
        let asked = |text: &dyn Fn(&Query) -> String| question.map(text).unwrap_or_default();
        match self {
            Self::Type => asked(&|question| question.query_type().to_string()),
            // A client must not forge lines with control characters, which are escaped.
            Self::Name => asked(&|question| question.name().to_ascii().to_lowercase()),
            Self::Class => asked(&|question| question.query_class().to_string()),
            Self::Proto => exchange.transport.name().to_owned(),
            Self::Remote => match exchange.client {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            },
            Self::Port => exchange.port.to_string(),
            Self::Size => exchange.sizes.0.to_string(),
            Self::Duration => format!("{:.9}s", exchange.took.as_secs_f64()),
            Self::Rcode => rcode_word(reply.metadata.response_code).to_string(),
            Self::ResponseSize => exchange.sizes.1.to_string(),
            Self::ResponseFlags => flags(reply),
            Self::Bufsize => match exchange.transport {
                Transport::Udp => exchange.payload.unwrap_or_default().max(MIN_PAYLOAD).to_string(),
                Transport::Tcp => u16::MAX.to_string(),
            },
            Self::Do => reply.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok).to_string(),
            Self::Id => reply.metadata.id.to_string(),
            Self::Opcode => u8::from(reply.metadata.op_code).to_string(),
        }
    }
}

/// The UDP payload of a client without EDNS (RFC 1035, section 4.2.1).
const MIN_PAYLOAD: u16 = 512;

fn flags(reply: &Message) -> String {
    let flags = &reply.metadata;
    let all = [
        (true, "qr"),
        (flags.authoritative, "aa"),
        (flags.truncation, "tc"),
        (flags.recursion_desired, "rd"),
        (flags.recursion_available, "ra"),
        (flags.authentic_data, "ad"),
        (flags.checking_disabled, "cd"),
    ];
    let set: Vec<&str> = all.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect();
    set.join(",")
}

fn parse(statement: &Statement) -> Result<Log, CorefileError> {
    let (names, format) = parts(statement);
    let format = format.map(|format| Format::parse(&format.text));
    let mut log = Log { zones: zones_or(names, Zones::all())?, classes: Vec::new(), format };
    for option in &statement.body {
        option.no_body()?;
        if option.name.text != "class" {
            return Err(statement.unknown_option(option));
        }
        if option.words.is_empty() {
            return Err(option.misused("class CLASS..."));
        }
        for word in &option.words {
            log.classes.extend(classes(word)?);
        }
    }
    if log.classes.is_empty() {
        log.classes = Class::ALL.to_vec();
    }
    Ok(log)
}

fn parts(statement: &Statement) -> (&[Word], Option<&Word>) {
    match statement.words.split_last() {
        Some((format, names)) if format.text.contains('{') => (names, Some(format)),
        _ => (&statement.words, None),
    }
}

fn classes(word: &Word) -> Result<Vec<Class>, CorefileError> {
    if word.text == "all" {
        return Ok(Class::ALL.to_vec());
    }
    match Class::ALL.into_iter().find(|class| class.name() == word.text) {
        Some(class) => Ok(vec![class]),
        None => Err(word.refuse("the classes are `success`, `denial`, `error` and `all`")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_server::proto::{
        op::{MessageType, OpCode},
        rr::{
            Name, RData, Record,
            rdata::{A, SOA},
        },
    };

    use super::*;

    fn answer(code: ResponseCode, answer: bool, denial: bool) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        let record = |data| Record::from_rdata(Name::root(), 5, data);
        message.answers.extend(answer.then(|| record(RData::A(A(Ipv4Addr::LOCALHOST)))));
        let soa = SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, 5);
        message.authorities.extend(denial.then(|| record(RData::SOA(soa))));
        message
    }

    #[test]
    fn answers_are_classified_as_in_coredns() {
        for (code, has_answer, has_soa, want) in [
            (ResponseCode::NoError, true, false, Class::Success),
            (ResponseCode::NoError, true, true, Class::Success),
            (ResponseCode::NoError, false, false, Class::Success),
            (ResponseCode::NoError, false, true, Class::Denial),
            (ResponseCode::NXDomain, false, true, Class::Denial),
            (ResponseCode::NXDomain, true, true, Class::Error),
            (ResponseCode::ServFail, false, false, Class::Error),
            (ResponseCode::Refused, false, false, Class::Error),
        ] {
            let answer = answer(code, has_answer, has_soa);
            assert_eq!(Class::of(&answer), want, "{code} {has_answer} {has_soa}");
            let log = Log { classes: vec![want], ..Log::all() };
            assert!(log.includes(&answer) && Log::all().includes(&answer), "{want:?}");
        }
        let errors = Log { classes: vec![Class::Error], ..Log::all() };
        assert!(!errors.includes(&answer(ResponseCode::NXDomain, false, true)));
    }

    #[test]
    fn lines_have_a_format() {
        let exchange = Exchange {
            client: "::1".parse().unwrap(),
            port: 50_759,
            transport: Transport::Udp,
            payload: Some(4096),
            sizes: (41, 68),
            took: Duration::from_micros(37_990),
        };
        let mut reply = answer(ResponseCode::NoError, true, false);
        reply.metadata.id = 29_008;
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        reply.add_query(Query::query(Name::from_ascii("Example.org.").unwrap(), RecordType::A));
        const COMMON: &str =
            "[::1]:50759 - 29008 \"A IN example.org. udp 41 false 4096\" NOERROR qr,rd,ra 68 0.037990000s";
        for (format, want) in [
            ("{common}", COMMON.to_owned()),
            ("{combined}", format!("{COMMON} 0")),
            ("{proto} Request: {name} {type} {>id}", "udp Request: example.org. A 29008".to_owned()),
            ("{local} {/log/class} {other} {", "- - {other} {".to_owned()),
        ] {
            assert_eq!(Format::parse(format).line(&reply, &exchange), want, "{format}");
        }
    }
}
