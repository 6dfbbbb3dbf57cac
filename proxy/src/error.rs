//! Errors as one line.

use std::error::Error;

/// The error and its causes, joined by colons, for a field of a log line.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
