//! Which answers are logged.

use hickory_server::proto::{
    op::{Message, ResponseCode},
    rr::{LowerName, RecordType},
};

use super::Zones;

/// Names, and what is logged of them. Of several, the first one that has a name counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub zones: Zones,
    pub classes: Vec<Class>,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Success,
    /// There is no such name, or nothing of that type.
    Denial,
    Error,
}

impl Log {
    /// Everything of every name.
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
    pub const ALL: [Self; 3] = [Self::Success, Self::Denial, Self::Error];

    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are errors")]
    fn of(answer: &Message) -> Self {
        let has_soa = || answer.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
        match answer.metadata.response_code {
            ResponseCode::NoError if answer.answers.is_empty() && has_soa() => Self::Denial,
            ResponseCode::NoError => Self::Success,
            // An alias of nothing is none (CoreDNS since 1.14.5).
            ResponseCode::NXDomain if answer.answers.is_empty() => Self::Denial,
            _ => Self::Error,
        }
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
    fn answers_are_sorted_as_coredns_does() {
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
