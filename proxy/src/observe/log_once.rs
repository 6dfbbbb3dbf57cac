//! A repeated failure that is logged once.

use std::error::Error;

use tracing::warn;

use crate::error::chain;

#[derive(Debug, Default)]
pub struct LogOnce {
    /// The error of the last attempt.
    last_error: Option<String>,
}

impl LogOnce {
    /// Records the result of an attempt, and logs an error that differs from the last one.
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
