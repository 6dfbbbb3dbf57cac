//! Where objects come from: one source at a time, and all of them speak in updates.

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
    update::Update,
};

/// Updates of a directory that wait for the agent; its watch waits beyond them, and reads later what it would read now.
const WAITING_UPDATES: usize = 16;

/// What changed, up to the update that says that this is everything, and from there on.
pub struct Source {
    updates: mpsc::Receiver<Update>,
}

impl Source {
    pub async fn new(objects: Objects, reader: Reader) -> Result<Self> {
        match objects {
            Objects::Manifests(path) => {
                info!(manifests = %path.display(), "reading manifests");
                Self::manifests(&path, reader)
            }
            Objects::ApiServer(access) => {
                info!("reading from the API server");
                let updates = watch::watch(Settings { access, reader, timing: Timing::default() }).await?;
                Ok(Self { updates })
            }
        }
    }

    /// A directory of manifests, or one file, watched.
    fn manifests(path: &Path, reader: Reader) -> Result<Self> {
        let (sender, updates) = mpsc::channel(WAITING_UPDATES);
        manifests::watch::watch(path, reader, move |update| sender.blocking_send(update).is_ok())?;
        Ok(Self { updates })
    }

    /// The next update; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// How many updates are here already.
    pub fn waiting(&self) -> usize {
        self.updates.len()
    }

    /// An update that is here already.
    pub fn next_now(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}
