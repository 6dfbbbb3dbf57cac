//! The state of the server, whether or not it answers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::store::Store;

/// What the server does besides its duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// Sends everything as events to who asks for it (`sendInitialEvents`).
    pub streams_lists: bool,
    /// Keeps to the size of a page that is asked for.
    pub pages: bool,
    /// The kinds it does not have, by their plural in the path.
    pub missing: Vec<String>,
    /// The kinds it does not let anybody see.
    pub forbidden: Vec<String>,
    /// Who comes with another token is nobody.
    pub token: Option<String>,
    /// Watches send nothing at all.
    pub is_silent: bool,
    /// Every event comes twice.
    pub duplicates: bool,
    /// Of each two events, the later comes first.
    pub reorders: bool,
    /// Answers come in pieces of so many bytes.
    pub piece: Option<usize>,
    /// Answers break off after so many bytes.
    pub breaks_after: Option<usize>,
    /// Every request is answered with this status.
    pub fails_with: Option<u16>,
    /// How often watches get a bookmark.
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

/// What the server is, at any time, whether or not it answers.
#[derive(Debug)]
pub struct Shared {
    pub state: Mutex<State>,
    /// Counts whatever a watch may have to notice.
    pub changes: watch::Sender<u64>,
}

#[derive(Debug)]
pub struct State {
    pub store: Store,
    pub behaviour: Behaviour,
    /// Watches that began before the last time they were cut end.
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
