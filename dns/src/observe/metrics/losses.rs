//! Counters of dropped requests, replies and connections.

use prometheus::{IntCounter, IntCounterVec};

use super::register::Register;

named_enum! {
    /// The label `kind` of `dns_lost_total`.
    pub enum Loss {
        /// A request that the kernel dropped, as a socket's receive buffer was full.
        Request = "request",
        /// A reply over UDP that could not be sent.
        Reply = "reply",
        /// A connection above the limit per client, or above that of all clients.
        Connection = "connection",
        /// A request or connection of a client that is not admitted.
        Client = "client",
        /// A connection that was closed because its client did not read the replies.
        Unread = "unread",
    }
}

/// The counters, created at the start so that alerts have a series before the first loss.
#[derive(Debug, Clone)]
pub struct Losses([IntCounter; Loss::COUNT]);

impl Losses {
    pub(super) fn new(new: &Register<'_>) -> Self {
        let family: IntCounterVec =
            new.counters("dns_lost_total", "Dropped requests, replies and connections.", &["kind"]);
        Self(Loss::ALL.map(|loss| family.with_label_values(&[loss.name()])))
    }

    pub fn count(&self, loss: Loss, times: u64) {
        self.0[loss as usize].inc_by(times);
    }
}
