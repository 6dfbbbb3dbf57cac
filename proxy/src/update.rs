//! Updates from a source of objects: a directory of manifests, or the API server.

use serde::Serialize;

use crate::index::Change;

/// The changes since the update before.
#[derive(Debug, Default)]
pub struct Update {
    pub changes: Vec<Change>,
    /// The same changes for the DNS server.
    pub names: Vec<dns::cluster::zone::Change>,
    /// Invalid objects and parts of objects.
    pub skipped: Vec<Skipped>,
    /// With this update, all objects that existed at the start have been sent. Sent once; entries of objects
    /// that were not named by then are to be deleted.
    pub is_synced: bool,
}

impl Update {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.names.is_empty() && self.skipped.is_empty() && !self.is_synced
    }

    /// Logs the skipped objects.
    pub fn log_skipped(&self) {
        for Skipped { object, reason, .. } in &self.skipped {
            tracing::warn!(object, reason, "object skipped");
        }
    }
}

/// An invalid object, or part of one, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub object: String,
    pub reason: String,
    /// For machines: [`Self::INVALID`], or why a valid object has no effect.
    pub reason_code: &'static str,
}

impl Skipped {
    /// The code of objects, parts of objects and fields that are not valid.
    pub const INVALID: &str = "skipped";

    pub fn invalid(object: impl Into<String>, reason: impl ToString) -> Self {
        Self { object: object.into(), reason: reason.to_string(), reason_code: Self::INVALID }
    }
}
