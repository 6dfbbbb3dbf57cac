//! What a source of objects passes on, whichever it is: a directory of manifests, or an API server.

use serde::Serialize;

use crate::index::Change;

/// What is new since the update before. The first one of a source holds everything there is.
#[derive(Debug, Default)]
pub struct Update {
    pub changes: Vec<Change>,
    /// The same, for those who answer names.
    pub names: Vec<dns::zone::Change>,
    /// What could not be used of the objects that were read.
    pub skipped: Vec<Skipped>,
}

impl Update {
    pub fn is_nothing(&self) -> bool {
        self.changes.is_empty() && self.names.is_empty() && self.skipped.is_empty()
    }
}

/// An object, or a part of one, that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub object: String,
    pub reason: String,
}
