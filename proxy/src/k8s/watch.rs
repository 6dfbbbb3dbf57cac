//! The API server as a source of changes: one reflector (list and watch) for each kind, all on one thread.
//!
//! Objects are converted as they arrive; there is no store of full objects. The source is synced once every kind was
//! listed. After that, an unreachable API server or one that lost its history breaks no connection: the known state
//! stays, and a relist only changes the difference.

use std::{io, thread};

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::{
    access::{Access, AccessError},
    reader::Reader,
};
use crate::{source_state::SourceState, update::Update};

mod api;
mod backoff;
mod error;
mod event;
mod items;
mod reflector;
mod selection;
mod timing;
mod update_sender;
mod versions;

pub use timing::Timing;

use self::{
    api::Api,
    error::FailureLog,
    reflector::{Reflector, Shared},
    selection::selections,
    update_sender::UpdateSender,
};

/// Capacity of the channel to the agent. If it is full, the watches stop reading and TCP slows down the server.
const UPDATE_BACKLOG: usize = 64;

/// Configuration of the source.
#[derive(Clone, Debug)]
pub struct Settings {
    pub access: Access,
    pub reader: Reader,
    pub timing: Timing,
    /// Receives the state of the watches.
    pub state: SourceState,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot start the thread that watches the API server")]
    Thread(#[source] io::Error),
}

/// Watches the API server until the receiver is dropped. Errors: the credentials cannot be used. An unreachable server is
/// not an error: the watches retry.
pub async fn watch(settings: Settings) -> Result<mpsc::Receiver<Update>, WatchError> {
    let connection = settings.access.connect().await?;
    settings.state.set_name(connection.url, true);
    let (sender, updates) = mpsc::channel(UPDATE_BACKLOG);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(WatchError::Thread)?;
    thread::Builder::new()
        .name("api-server".to_owned())
        .spawn(move || runtime.block_on(run(settings, sender)))
        .map_err(WatchError::Thread)?;
    Ok(updates)
}

async fn run(settings: Settings, updates: mpsc::Sender<Update>) {
    let Settings { access, reader, timing, state } = settings;
    let selections = selections(&reader);
    let shared = Shared {
        api: &Api::new(access, state.requests.clone()),
        sender: &UpdateSender::new(updates, selections.iter().map(|selection| selection.kind)),
        failures: &FailureLog::default(),
        state: &state,
        reader: &reader,
        timing,
    };
    join_all(selections.into_iter().map(|selection| Reflector::new(selection, &shared).run())).await;
}
