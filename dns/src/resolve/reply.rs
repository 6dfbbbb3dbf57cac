//! The reply to a query, without the parts of one exchange.

use std::{collections::BTreeMap, sync::Arc};

use hickory_server::proto::{
    op::{Message, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{
            CNAME,
            opt::{EdnsCode, EdnsOption},
        },
    },
};

use crate::observe::metrics::Plugin;

/// The flags of a query that an upstream needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct QueryFlags {
    /// DO: include DNSSEC records.
    pub dnssec_ok: bool,
    /// CD: include data that does not validate.
    pub checking_disabled: bool,
    /// AD: report whether the data validated.
    pub authentic_data: bool,
    /// RD clear: no recursion, as health checks may request with `no_rec`.
    pub no_recursion: bool,
    /// Further options of EDNS, by rules. Upstreams may answer by them, so that they belong to a cached answer.
    pub options: EdnsOptions,
}

/// Options of EDNS by their codes; nearly always none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct EdnsOptions(Option<Arc<BTreeMap<u16, Option<Vec<u8>>>>>);

impl EdnsOptions {
    /// Sets the data of an option; `None`: it is not sent.
    pub(crate) fn set(&mut self, code: u16, data: Option<Vec<u8>>) {
        Arc::make_mut(self.0.get_or_insert_default()).insert(code, data);
    }

    pub(crate) fn was_decided(&self, code: u16) -> bool {
        self.0.as_ref().is_some_and(|options| options.contains_key(&code))
    }

    pub(crate) fn has(&self, code: u16) -> bool {
        self.iter().any(|(known, _)| known == code)
    }

    /// The options that are sent, by code.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let all = self.0.iter().flat_map(|options| options.iter());
        all.filter_map(|(code, data)| Some((*code, data.as_deref()?)))
    }
}

/// A complete reply without id, question and OPT, which the server adds for each client.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub rcode: ResponseCode,
    /// AA.
    pub authoritative: bool,
    /// AD; only set for clients that asked with AD or DO.
    pub authentic_data: bool,
    /// TC: the answer lacks records, and a client over UDP must come again over TCP.
    pub truncated: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    /// Without the OPT.
    pub additionals: Vec<Record>,
    /// Extended DNS errors (RFC 8914), for clients that speak EDNS.
    pub errors: Vec<EdnsOption>,
    /// The source of the reply.
    pub plugin: Plugin,
}

/// Info codes of extended DNS errors (RFC 8914, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtendedError {
    StaleAnswer = 3,
    Blocked = 15,
    Filtered = 17,
    Prohibited = 18,
    NoReachableAuthority = 22,
}

/// Sets a TTL with its highest bit set to 0 (RFC 2181, section 8).
fn limit_ttl(record: &mut Record) {
    if i32::try_from(record.ttl).is_err() {
        record.ttl = 0;
    }
}

/// The EDNS option code of extended errors.
const EXTENDED_ERROR: u16 = 15;

impl Reply {
    /// REFUSED: not served, or above a limit.
    pub fn refused() -> Self {
        Self::failed(ResponseCode::Refused).with_error(ExtendedError::Prohibited)
    }

    /// SERVFAIL: no upstream answered.
    pub fn servfail() -> Self {
        Self::failed(ResponseCode::ServFail).with_error(ExtendedError::NoReachableAuthority)
    }

    fn failed(rcode: ResponseCode) -> Self {
        Self {
            rcode,
            authoritative: false,
            authentic_data: false,
            truncated: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            errors: Vec::new(),
            plugin: Plugin::None,
        }
    }

    /// An authoritative reply without records.
    pub(crate) fn from_plugin(rcode: ResponseCode, plugin: Plugin) -> Self {
        Self { authoritative: true, plugin, ..Self::failed(rcode) }
    }

    pub(crate) fn with_error(mut self, info: ExtendedError) -> Self {
        let code = (info as u16).to_be_bytes().to_vec();
        self.errors.push(EdnsOption::Unknown(EXTENDED_ERROR, code));
        self
    }

    /// Converts a message of an upstream.
    pub(crate) fn from_upstream(message: Message, question: &Query) -> Self {
        let edns = message.edns.as_ref();
        let errors = edns.and_then(|edns| edns.option(EdnsCode::Unknown(EXTENDED_ERROR))).cloned();
        let mut reply = Self {
            rcode: message.metadata.response_code,
            authoritative: message.metadata.authoritative,
            authentic_data: message.metadata.authentic_data,
            truncated: message.metadata.truncation,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
            errors: errors.into_iter().collect(),
            plugin: Plugin::Forward,
        };
        reply.restore_case(question);
        let Self { answers, authorities, additionals, .. } = &mut reply;
        answers.iter_mut().chain(authorities).chain(additionals).for_each(limit_ttl);
        reply
    }

    /// Reduces the TTLs by an age in seconds.
    pub(crate) fn aged(mut self, age: u32) -> Self {
        let Self { answers, authorities, additionals, .. } = &mut self;
        for record in answers.iter_mut().chain(authorities).chain(additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        self
    }

    /// Gives records that the question's name owns the case of the question.
    pub(crate) fn restore_case(&mut self, question: &Query) {
        for record in self.answers.iter_mut().filter(|record| record.name == *question.name()) {
            record.name.clone_from(question.name());
        }
    }

    /// Clears AD unless the client has set AD or DO (RFC 6840, section 5.8).
    pub(crate) fn mask_ad(mut self, flags: &QueryFlags) -> Self {
        self.authentic_data &= flags.authentic_data || flags.dnssec_ok;
        self
    }

    /// The target of a CNAME chain that ends without addresses, for a query for addresses. Returns `None` when
    /// there is no alias to resolve.
    pub(crate) fn alias(&self, qtype: RecordType) -> Option<Name> {
        let is_wanted =
            matches!(qtype, RecordType::A | RecordType::AAAA) && self.rcode == ResponseCode::NoError;
        let mut unsigned = self.answers.iter().filter(|record| record.record_type() != RecordType::RRSIG);
        let RData::CNAME(CNAME(target)) = &unsigned.next_back().filter(|_| is_wanted)?.data else {
            return None;
        };
        Some(target.clone())
    }

    /// Whether the rcode is conclusive. Any other must not replace cached data (RFC 8767, section 4).
    pub(crate) fn is_conclusive(&self) -> bool {
        matches!(self.rcode, ResponseCode::NoError | ResponseCode::NXDomain)
    }

    /// Whether this answers the question with records.
    pub(crate) fn is_positive(&self, question: &Query) -> bool {
        self.rcode == ResponseCode::NoError && !self.is_nodata(question)
    }

    /// Whether this is NODATA: NOERROR without a record of the qtype, possibly after a CNAME chain.
    pub(crate) fn is_nodata(&self, question: &Query) -> bool {
        let answers = |record: &Record| {
            let qtype = question.query_type();
            record.record_type() == qtype || qtype.is_any()
        };
        self.rcode == ResponseCode::NoError && !self.answers.iter().any(answers)
    }
}
