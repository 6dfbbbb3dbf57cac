//! An API server as a source of changes: one watch for each kind, on a thread of its own.
//!
//! Objects become narrow values as they arrive; nothing else of them is kept. Until every kind was read once, nothing
//! is complete; from then on a server that is away, or comes back without its memory, costs nobody a connection: what
//! is known stays as it is, and what was read again is held against it.

use std::{io, thread, time::Duration};

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::{
    access::{Access, AccessError},
    reader::Reader,
};
use crate::update::Update;

mod api;
mod backoff;
mod event;
mod items;
mod known;
mod outlet;
mod problem;
mod reflector;
mod selection;
mod slim;

use self::{
    api::Api,
    outlet::Outlet,
    problem::Troubles,
    reflector::{Reflector, Shared},
    selection::selections,
};

/// Updates that wait for the agent. Beyond them the watches wait, and then the server.
const WAITING_UPDATES: usize = 64;

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A watch that sends nothing for so long, not even the bookmark of every minute, may have been forgotten: it is
    /// begun anew.
    pub silence: Duration,
    /// The server is asked to end a watch after this time, or up to twice as much, so that watches spread over servers.
    pub shortest_watch: Duration,
    pub first_retry: Duration,
    pub longest_retry: Duration,
    /// How often a kind that the server does not have is asked for again: it may be upgraded.
    pub missing_kind: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(100),
            shortest_watch: Duration::from_secs(300),
            first_retry: Duration::from_millis(200),
            longest_retry: Duration::from_secs(20),
            missing_kind: Duration::from_secs(600),
        }
    }
}

/// What is followed, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    pub access: Access,
    pub reader: Reader,
    pub timing: Timing,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot start the thread that follows the API server")]
    Thread(#[source] io::Error),
}

/// Follows the API server until nobody takes updates any more. Fails when the credentials cannot be used; a server
/// that cannot be reached is waited for.
pub async fn watch(settings: Settings) -> Result<mpsc::Receiver<Update>, WatchError> {
    settings.access.connect().await?;
    let (sender, updates) = mpsc::channel(WAITING_UPDATES);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(WatchError::Thread)?;
    thread::Builder::new()
        .name("api-server".to_owned())
        .spawn(move || runtime.block_on(follow(settings, sender)))
        .map_err(WatchError::Thread)?;
    Ok(updates)
}

async fn follow(settings: Settings, updates: mpsc::Sender<Update>) {
    let Settings { access, reader, timing } = settings;
    let selections = selections(&reader);
    let shared = Shared {
        api: &Api::new(access),
        outlet: &Outlet::new(updates, selections.iter().map(|selection| selection.kind)),
        troubles: &Troubles::default(),
        reader: &reader,
        timing,
    };
    join_all(selections.into_iter().map(|selection| Reflector::new(selection, &shared).run())).await;
}
