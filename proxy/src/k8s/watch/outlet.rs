//! Where the watches of all kinds come together. The first time that every one of them has read everything is said once.

use std::{cell::RefCell, collections::BTreeSet};

use tokio::sync::mpsc;

use crate::{k8s::object::Kind, update::Update};

pub struct Outlet {
    updates: mpsc::Sender<Update>,
    /// Kinds of which not everything was read yet.
    unread: RefCell<BTreeSet<Kind>>,
}

/// Nobody takes updates any more.
#[derive(Debug)]
pub struct Closed;

impl Outlet {
    pub fn new(updates: mpsc::Sender<Update>, kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self { updates, unread: RefCell::new(kinds.into_iter().collect()) }
    }

    /// Passes on what is new; waits while the one who takes it is busy.
    pub async fn pass(&self, update: Update) -> Result<(), Closed> {
        if update.is_empty() {
            return Ok(());
        }
        self.updates.send(update).await.map_err(|_| Closed)
    }

    /// Everything of a kind was passed on.
    pub async fn synced(&self, kind: Kind) -> Result<(), Closed> {
        let is_last = {
            let mut unread = self.unread.borrow_mut();
            unread.remove(&kind) && unread.is_empty()
        };
        self.pass(Update { is_synced: is_last, ..Update::default() }).await
    }
}
