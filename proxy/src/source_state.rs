//! The state of the source of objects, stated by its watches and read by `observe`.

mod requests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};

pub use requests::RequestMetrics;

/// A request without any response for this long is a fault, before it times out.
const RESPONSE_OVERDUE: i64 = 60;

/// Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    report: Arc<Mutex<SourceReport>>,
    /// Of the requests to the API server.
    pub requests: RequestMetrics,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The address of the API server, or the path of the manifests; empty until it is known.
    pub name: String,
    pub is_api_server: bool,
    pub kinds: BTreeMap<String, KindReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindReport {
    /// The last data, including bookmarks and the headers of a response.
    pub last_heard: Option<Timestamp>,
    /// A request that has no response yet.
    pub asked: Option<Timestamp>,
    pub failure: Option<SourceFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFailure {
    /// One word in CamelCase.
    pub reason: String,
    /// Whether it concerns the whole source, not one kind.
    pub is_common: bool,
    pub message: String,
}

impl SourceState {
    pub fn set_name(&self, name: impl Into<String>, is_api_server: bool) {
        let mut report = self.lock();
        report.name = name.into();
        report.is_api_server = is_api_server;
    }

    /// A request about a kind was sent.
    pub fn asked(&self, kind: &str) {
        self.kind(kind, |state| state.asked = Some(Timestamp::now()));
    }

    /// Data of a kind have arrived: it is watched.
    pub fn heard(&self, kind: &str) {
        let last_heard = Some(Timestamp::now());
        self.kind(kind, |state| *state = KindReport { last_heard, asked: None, failure: None });
    }

    pub fn failed(&self, kind: &str, failure: SourceFailure) {
        self.kind(kind, |state| (state.asked, state.failure) = (None, Some(failure)));
    }

    pub fn report(&self) -> SourceReport {
        self.lock().clone()
    }

    fn kind(&self, kind: &str, change: impl FnOnce(&mut KindReport)) {
        let mut report = self.lock();
        match report.kinds.get_mut(kind) {
            Some(state) => change(state),
            None => change(report.kinds.entry(kind.to_owned()).or_default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SourceReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceReport {
    pub fn last_heard(&self) -> Option<Timestamp> {
        self.kinds.values().filter_map(|kind| kind.last_heard).max()
    }

    /// The present failures by kind; a failure of the whole source is one, without a kind.
    pub fn failures(&self, now: Timestamp) -> BTreeMap<String, SourceFailure> {
        let mut failures = BTreeMap::new();
        for (kind, state) in &self.kinds {
            let overdue = state.asked.filter(|asked| *asked < now - RESPONSE_OVERDUE.seconds());
            let failure = state.failure.clone().or_else(|| overdue.map(|_| SourceFailure::overdue()));
            let Some(failure) = failure else { continue };
            let subject = if failure.is_common { String::new() } else { kind.clone() };
            failures.entry(subject).or_insert(failure);
        }
        failures
    }
}

impl SourceFailure {
    fn overdue() -> Self {
        let message = format!("the API server has sent no response for over {RESPONSE_OVERDUE} s");
        Self { reason: "NoResponse".to_owned(), is_common: true, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(is_common: bool, message: &str) -> SourceFailure {
        SourceFailure { reason: "X".to_owned(), is_common, message: message.to_owned() }
    }

    #[test]
    fn a_dead_server_is_one_failure_and_a_forbidden_kind_is_its_own() {
        let state = SourceState::default();
        let failures = |state: &SourceState, later: i64| {
            state.report().failures(Timestamp::now() + later.seconds()).into_keys().collect::<Vec<_>>()
        };
        state.heard("Services");
        assert_eq!(failures(&state, 1000), [""; 0], "an idle watch is no failure");
        state.failed("Services", failure(true, "cannot reach"));
        state.failed("Nodes", failure(true, "cannot reach"));
        assert_eq!(failures(&state, 0), [""]);
        state.heard("Services");
        state.failed("Nodes", failure(false, "403"));
        assert_eq!(failures(&state, 0), ["Nodes"]);
        state.heard("Nodes");
        state.asked("Nodes");
        assert_eq!((failures(&state, 59), failures(&state, 61)), (vec![], vec![String::new()]));
    }
}
