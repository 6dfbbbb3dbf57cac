//! `log [NAMES...] [FORMAT]`, with `class CLASSES...` in its body: replies that are logged.

use hickory_server::proto::{
    op::{Message, ResponseCode},
    rr::{LowerName, RecordType},
};

use super::directive::{Directive, IneffectiveOption};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word, zones_or},
};

/// Zones, and the classes that are logged. For each name the first matching one applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub zones: Zones,
    pub classes: Vec<Class>,
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
        Self { zones: Zones::all(), classes: Class::ALL.to_vec() }
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

impl Directive for Log {
    const NAME: &'static str = "log";
    const SUMMARY: &'static str = "a log entry for each reply, with all its fields; formats have no effect";
    const OPTIONS: &'static [&'static str] = &["class"];
    const IS_REPEATABLE: bool = true;
    type Setting = Vec<Self>;

    fn read(setting: &mut Vec<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        setting.push(parse(statement)?);
        Ok(())
    }

    fn is_enabled(setting: &Vec<Self>) -> bool {
        !setting.is_empty()
    }

    fn ineffective(statement: &Statement) -> Vec<IneffectiveOption> {
        let reason = "an answer is logged with all there is to it, in fields";
        custom_format(statement).map(|format| IneffectiveOption::new(format, reason)).into_iter().collect()
    }
}

/// CoreDNS's formats. Here every entry has all fields.
const FORMATS: [&str; 2] = ["{common}", "{combined}"];

fn parse(statement: &Statement) -> Result<Log, CorefileError> {
    let (names, _) = parts(statement);
    let mut log = Log { zones: zones_or(names, Zones::all())?, classes: Vec::new() };
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

/// The format, if it is a custom one.
fn custom_format(statement: &Statement) -> Option<&Word> {
    parts(statement).1.filter(|format| !FORMATS.contains(&&*format.text))
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
}
