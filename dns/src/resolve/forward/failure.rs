//! Failures of one query to one upstream.

use std::io;

use hickory_server::proto::{ProtoError, op::ResponseCode, serialize::binary::DecodeError};
use nix::errno::Errno;
use thiserror::Error;

use crate::resolve::reply::Reply;

#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("cannot encode the query")]
    Question(#[from] ProtoError),
    #[error("cannot exchange packets")]
    Network(#[from] io::Error),
    #[error("no answer over HTTP: {0}")]
    Http(String),
    #[error("no answer in time")]
    Timeout,
    #[error("cannot decode the answer")]
    Malformed(#[from] DecodeError),
    #[error("the answer is to another question")]
    Foreign,
    #[error("the answer has the name in another case")]
    WrongCase,
    #[error("the answer has no question")]
    NoQuestion,
    #[error("the packet budget of the query is spent")]
    BudgetSpent,
    #[error("the upstream answers {0}")]
    FailoverRcode(ResponseCode, Box<Reply>),
}

impl Failure {
    /// Whether the failure concerns the upstream's health, rather than this query.
    pub(super) fn is_upstream_failure(&self) -> bool {
        match self {
            Self::Network(error) => !is_shortage(error),
            Self::Timeout | Self::Http(_) => true,
            Self::Question(_)
            | Self::Malformed(_)
            | Self::Foreign
            | Self::WrongCase
            | Self::NoQuestion
            | Self::BudgetSpent
            | Self::FailoverRcode(..) => false,
        }
    }
}

/// Whether this machine is out of descriptors, ports or memory: no query was sent, so the upstream is not at fault.
fn is_shortage(error: &io::Error) -> bool {
    const SHORTAGES: [Errno; 6] = [
        Errno::EADDRINUSE,
        Errno::EADDRNOTAVAIL,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOBUFS,
        Errno::ENOMEM,
    ];
    error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| SHORTAGES.contains(&errno))
}
