//! What an upstream said.

use hickory_server::proto::{
    op::ResponseCode,
    rr::{Record, rdata::opt::EdnsOption},
};

/// What a client wants besides the records: it changes what an upstream answers, so it is part of the cache's key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Wants {
    /// DO: signatures, too.
    pub dnssec_ok: bool,
    /// CD: even what does not validate.
    pub checking_disabled: bool,
    /// AD in the question: say whether it validated.
    pub authentic_data: bool,
    /// RD.
    pub recursion: bool,
}

/// A whole reply without what belongs to one exchange: id, question and OPT are the server's matter.
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
    pub origin: Origin,
}

/// Where a reply comes from: the label `plugin` of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Upstream,
    Cache,
    /// Nobody was asked, or nobody answered.
    Here,
}

impl Reply {
    pub fn refused() -> Self {
        Self::failed(ResponseCode::Refused)
    }

    pub fn servfail() -> Self {
        Self::failed(ResponseCode::ServFail)
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
            origin: Origin::Here,
        }
    }
}
