//! The channel that all reflectors send to. Once every kind was listed, it reports the source as synced, one time.

use std::{cell::RefCell, collections::BTreeSet};

use tokio::sync::mpsc;

use crate::{k8s::object::Kind, update::Update};

pub struct UpdateSender {
    updates: mpsc::Sender<Update>,
    /// Kinds that were not listed yet.
    unlisted: RefCell<BTreeSet<Kind>>,
}

/// The receiver was dropped.
#[derive(Debug)]
pub struct Closed;

impl UpdateSender {
    pub fn new(updates: mpsc::Sender<Update>, kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self { updates, unlisted: RefCell::new(kinds.into_iter().collect()) }
    }

    /// Sends an update, unless it is empty. Waits while the channel is full.
    pub async fn send(&self, update: Update) -> Result<(), Closed> {
        if update.is_empty() {
            return Ok(());
        }
        self.updates.send(update).await.map_err(|_| Closed)
    }

    /// Marks a kind as listed.
    pub async fn synced(&self, kind: Kind) -> Result<(), Closed> {
        let is_last = {
            let mut unlisted = self.unlisted.borrow_mut();
            unlisted.remove(&kind) && unlisted.is_empty()
        };
        self.send(Update { is_synced: is_last, ..Update::default() }).await
    }
}
