//! Counters of dropped requests, replies and connections.

use prometheus::{IntCounter, IntCounterVec};

use super::register::Register;

named_enum! {
    /// The label `kind` of `dns_lost_total`.
    pub enum Loss {
        /// A request that the kernel dropped, as a socket's receive buffer was full.
        Request = "request",
        /// A request over UDP of a client that has too many waiting ones.
        Excess = "excess",
        /// A reply over UDP that could not be sent.
        Reply = "reply",
        /// A connection above the limit per client, or above that of all clients.
        Connection = "connection",
        /// A request or connection of a client that is not admitted.
        Client = "client",
        /// A connection that was closed because its client did not read the replies.
        Unread = "unread",
        /// A connection whose TLS handshake failed or took too long.
        Handshake = "handshake",
    }
}

named_enum! {
    /// The label `action` of `dns_rate_limited_total`.
    pub enum RateLimited {
        /// Replaced by a truncated reply, after which a genuine client comes again over TCP.
        Truncated = "truncated",
        Dropped = "dropped",
    }
}

/// The counters, created at the start so that alerts have a series before the first loss.
#[derive(Debug, Clone)]
pub struct Losses {
    losses: [IntCounter; Loss::COUNT],
    rate_limited: [IntCounter; RateLimited::COUNT],
}

impl Losses {
    pub(super) fn new(new: &Register<'_>) -> Self {
        let family: IntCounterVec =
            new.counters("dns_lost_total", "Dropped requests, replies and connections.", &["kind"]);
        let limited: IntCounterVec = new.counters(
            "dns_rate_limited_total",
            "Replies over UDP above the limit of identical ones to a network.",
            &["action"],
        );
        Self {
            losses: Loss::ALL.map(|loss| family.with_label_values(&[loss.name()])),
            rate_limited: RateLimited::ALL.map(|action| limited.with_label_values(&[action.name()])),
        }
    }

    pub fn count(&self, loss: Loss, times: u64) {
        self.losses[loss as usize].inc_by(times);
    }

    pub fn count_rate_limited(&self, action: RateLimited) {
        self.rate_limited[action as usize].inc();
    }
}
