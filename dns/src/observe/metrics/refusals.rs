//! Counters of queries that are refused because of a limit or their sender.

use prometheus::{IntCounter, IntCounterVec};

use super::register::Register;

named_enum! {
    /// The label `reason` of `dns_refused_total`.
    pub enum Refusal {
        /// The client's share of the pending queries is used up.
        Client = "client",
        /// The limit of pending queries of all clients.
        Pending = "pending",
        /// `max_concurrent` of `forward`.
        MaxConcurrent = "max_concurrent",
        /// The limit of transfers at a time.
        Transfer = "transfer",
        /// A notification of a zone by a server that is no primary of it.
        Notify = "notify",
    }
}

/// The counters, created at the start so that alerts have a series before the first refusal.
#[derive(Debug, Clone)]
pub struct Refusals([IntCounter; Refusal::COUNT]);

impl Refusals {
    pub(super) fn new(new: &Register<'_>) -> Self {
        let family: IntCounterVec =
            new.counters("dns_refused_total", "Queries refused because of a limit.", &["reason"]);
        Self(Refusal::ALL.map(|refusal| family.with_label_values(&[refusal.name()])))
    }

    pub fn count(&self, refusal: Refusal) {
        self.0[refusal as usize].inc();
    }
}
