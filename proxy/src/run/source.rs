//! Where objects come from: one source at a time, and all of them speak in updates.

use std::path::Path;

use anyhow::Result;
use tokio::sync::mpsc;

use crate::{k8s::reader::Reader, manifests, update::Update};

/// The first update holds everything that exists; each later one what changed since.
pub struct Source {
    updates: mpsc::UnboundedReceiver<Update>,
}

impl Source {
    /// A directory of manifests, or one file, watched.
    pub fn manifests(path: &Path, reader: Reader) -> Result<Self> {
        // Unbounded: a watch thread that waits would only read later what it reads now, and it reads whole states.
        let (sender, updates) = mpsc::unbounded_channel();
        manifests::watch::watch(path, reader, move |update| sender.send(update).is_ok())?;
        Ok(Self { updates })
    }

    /// The next update; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// An update that is here already.
    pub fn next_now(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}
