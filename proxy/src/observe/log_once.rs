//! Something that goes wrong again and again, and is told once.

use std::error::Error;

use tracing::warn;

use crate::error::chain;

#[derive(Debug, Default)]
pub struct Grievance {
    /// Why it went wrong when it was last tried.
    why: Option<String>,
}

impl Grievance {
    /// How it went this time; told when it is another failure than before.
    pub fn note<E: Error>(&mut self, what: &'static str, outcome: Result<(), E>) {
        let now = outcome.err().map(|error| chain(&error));
        if now != self.why
            && let Some(error) = &now
        {
            warn!(error, "{what}, will retry");
        }
        self.why = now;
    }

    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }
}
