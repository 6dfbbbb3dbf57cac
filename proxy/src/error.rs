//! Errors as one line.

use std::error::Error;

/// The error and its causes, joined by colons, for a field of a log line. A cause that the error's own text
/// already ends with is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}
