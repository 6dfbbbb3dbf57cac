//! Something that goes wrong again and again, and is told once.

use std::error::Error;

use tracing::warn;

use crate::error::chain;

#[derive(Debug, Default)]
pub struct LogOnce {
    /// Why it went wrong when it was last tried.
    last_error: Option<String>,
}

impl LogOnce {
    /// How it went this time; told when it is another failure than before.
    pub fn record<E: Error>(&mut self, message: &'static str, result: Result<(), E>) {
        let now = result.err().map(|error| chain(&error));
        if now != self.last_error
            && let Some(error) = &now
        {
            warn!(error, "{message}, will retry");
        }
        self.last_error = now;
    }

    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}
