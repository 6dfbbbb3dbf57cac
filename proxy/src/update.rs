//! What a source of objects passes on, whichever it is: a directory of manifests, or an API server.

use serde::Serialize;

use crate::index::Change;

/// What is new since the update before.
#[derive(Debug, Default)]
pub struct Update {
    pub changes: Vec<Change>,
    /// The same, for those who answer names.
    pub names: Vec<dns::cluster::zone::Change>,
    /// What could not be used of the objects that were read.
    pub skipped: Vec<Skipped>,
    /// With this one everything has been passed on that there was when the source began. Said once; nothing that was
    /// not named by then exists.
    pub is_synced: bool,
}

impl Update {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.names.is_empty() && self.skipped.is_empty() && !self.is_synced
    }

    /// Names in the log what could not be used.
    pub fn log_skipped(&self) {
        for Skipped { object, reason } in &self.skipped {
            tracing::warn!(object, reason, "object skipped");
        }
    }
}

/// An object, or a part of one, that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub object: String,
    pub reason: String,
}
