//! The state of the server, also while it is stopped.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::store::Store;

/// Optional features and misbehaviours of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// Supports `sendInitialEvents` (WatchList, KEP-3157).
    pub streams_lists: bool,
    /// Respects the requested page size.
    pub pages: bool,
    /// Kinds that do not exist, by their plural in the path.
    pub missing: Vec<String>,
    /// Kinds that are forbidden.
    pub forbidden: Vec<String>,
    /// Requests with another token are unauthorized.
    pub token: Option<String>,
    /// Watches send nothing at all.
    pub is_silent: bool,
    /// Every event is sent twice.
    pub duplicates: bool,
    /// Each two events are sent in reverse order.
    pub reorders: bool,
    /// Responses are split into pieces of this size.
    pub piece: Option<usize>,
    /// Responses are cut after this number of bytes.
    pub breaks_after: Option<usize>,
    /// Every request is answered with this status.
    pub fails_with: Option<u16>,
    /// The interval of bookmarks.
    pub bookmark_millis: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            streams_lists: true,
            pages: true,
            missing: Vec::new(),
            forbidden: Vec::new(),
            token: None,
            is_silent: false,
            duplicates: false,
            reorders: false,
            piece: None,
            breaks_after: None,
            fails_with: None,
            bookmark_millis: 200,
        }
    }
}

/// The state, shared with connections and watches.
#[derive(Debug)]
pub struct Shared {
    pub state: Mutex<State>,
    /// Counts each change that a watch may have to process.
    pub changes: watch::Sender<u64>,
}

#[derive(Debug)]
pub struct State {
    pub store: Store,
    pub behaviour: Behaviour,
    /// Counts cuts: watches that started before the last one end.
    pub cuts: u64,
    /// Every request, by path and query.
    pub requests: Vec<String>,
}

impl Shared {
    pub fn new() -> Self {
        let state =
            State { store: Store::default(), behaviour: Behaviour::default(), cuts: 0, requests: Vec::new() };
        Self { state: Mutex::new(state), changes: watch::Sender::new(0) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changes.send_modify(|count| *count += 1);
        result
    }
}
