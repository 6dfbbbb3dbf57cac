//! What was not answered, or not told, for want of room.

use prometheus::{IntCounter, IntCounterVec};

use super::Register;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The kernel had no room for a request while all workers were busy.
    Request,
    /// A reply over UDP that the kernel did not take.
    Reply,
    /// A client that has as many connections as it may, or there are too many together.
    Connection,
    /// A connection whose replies were not read.
    Unread,
}

/// Counters that exist from the start: there is something to watch before anything is lost.
#[derive(Debug, Clone)]
pub struct Losses([IntCounter; 4]);

impl Losses {
    pub(super) fn new(new: &Register<'_>) -> Self {
        let family: IntCounterVec = new.counters(
            "dns_lost_total",
            "Requests, replies and connections that were dropped, by what they were.",
            &["what"],
        );
        Self(["request", "reply", "connection", "unread"].map(|what| family.with_label_values(&[what])))
    }

    pub fn count(&self, loss: Loss, times: u64) {
        self.0[loss as usize].inc_by(times);
    }
}
