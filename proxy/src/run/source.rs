//! The source of objects: manifests or the API server, both as a stream of updates.

use std::path::Path;

use anyhow::Result;
use tokio::sync::mpsc;
use tracing::info;

use crate::{
    config::Objects,
    k8s::{
        reader::Reader,
        watch::{self, Settings, Timing},
    },
    manifests,
    source_state::SourceState,
    update::Update,
};

/// Pending updates of a directory. The watch blocks beyond this, and reads the then present state later.
const WAITING_UPDATES: usize = 16;

/// A stream of changes: first all existing objects, up to an update with `is_synced`, then every later
/// change.
pub struct Source {
    updates: mpsc::Receiver<Update>,
}

impl Source {
    pub async fn new(objects: Objects, reader: Reader, state: SourceState) -> Result<Self> {
        match objects {
            Objects::Manifests(path) => {
                info!(manifests = %path.display(), "reading manifests");
                Self::manifests(&path, reader, state)
            }
            Objects::ApiServer(access) => {
                info!("reading from the API server");
                let timing = Timing::default();
                let updates = watch::watch(Settings { access, reader, timing, state }).await?;
                Ok(Self { updates })
            }
        }
    }

    /// Watches a directory of manifests, or one file.
    fn manifests(path: &Path, reader: Reader, state: SourceState) -> Result<Self> {
        state.set_name(path.display().to_string(), false);
        let (sender, updates) = mpsc::channel(WAITING_UPDATES);
        manifests::watch::watch(path, reader, move |update| {
            state.heard("files");
            sender.blocking_send(update).is_ok()
        })?;
        Ok(Self { updates })
    }

    /// The next update. Returns `None` when the source has ended.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// The number of pending updates.
    pub fn waiting(&self) -> usize {
        self.updates.len()
    }

    /// A pending update, if there is one.
    pub fn next_now(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}
