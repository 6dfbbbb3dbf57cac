//! Watch events, one per line: an object was added, modified or deleted, a bookmark, or the error that ends the watch.

use std::borrow::Cow;

use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Annotation of the bookmark that ends the initial events of a streaming list (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

#[derive(Debug)]
pub enum Event<'a> {
    /// `ADDED` or `MODIFIED`, with the object as JSON.
    Apply(&'a str),
    Delete(&'a str),
    Bookmark {
        version: u64,
        ends_initial_events: bool,
    },
    Error(Box<Status>),
}

#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("a line is not a watch event")]
    Line(#[from] serde_json::Error),
    #[error("unknown watch event type `{0}`")]
    Type(String),
    #[error("a bookmark has the invalid resourceVersion `{0}`")]
    Version(String),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata {
    resource_version: String,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

pub fn read(line: &[u8]) -> Result<Event<'_>, EventError> {
    let Line { r#type, object } = serde_json::from_slice(line)?;
    match &*r#type {
        "ADDED" | "MODIFIED" => Ok(Event::Apply(object.get())),
        "DELETED" => Ok(Event::Delete(object.get())),
        "BOOKMARK" => bookmark(object.get()),
        "ERROR" => Ok(Event::Error(serde_json::from_str(object.get())?)),
        other => Err(EventError::Type(other.to_owned())),
    }
}

fn bookmark(object: &str) -> Result<Event<'_>, EventError> {
    let Bookmark { metadata } = serde_json::from_str(object)?;
    let version = metadata.resource_version.parse();
    let version = version.map_err(|_| EventError::Version(metadata.resource_version.clone()))?;
    let ends = metadata.annotations.and_then(|mut annotations| annotations.remove(INITIAL_EVENTS_END));
    Ok(Event::Bookmark { version, ends_initial_events: ends.as_deref() == Some("true") })
}

/// Splits a byte stream into lines.
#[derive(Debug, Default)]
pub struct Lines {
    /// The incomplete last line.
    partial: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes and calls `take` for every complete line. Stops at the first error; the bytes after it are
    /// lost.
    pub fn push<E>(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        // `split` yields at least one piece. The last one has no line break yet.
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            let whole;
            let line = if self.partial.is_empty() {
                piece
            } else {
                self.partial.extend_from_slice(piece);
                whole = std::mem::take(&mut self.partial);
                &whole
            };
            if !line.trim_ascii().is_empty() {
                take(line)?;
            }
        }
        self.partial.extend_from_slice(last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_types() {
        for (line, want) in [
            (r#"{"type":"ADDED","object":{"a":1}}"#, r#"Apply("{\"a\":1}")"#),
            (r#"{"object":{"a":1},"type":"MODIFIED"}"#, r#"Apply("{\"a\":1}")"#),
            (r#"{"type":"DELETED","object":{}}"#, r#"Delete("{}")"#),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#,
                "Bookmark { version: 12, ends_initial_events: false }",
            ),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
                "Bookmark { version: 12, ends_initial_events: true }",
            ),
        ] {
            assert_eq!(format!("{:?}", read(line.as_bytes()).unwrap()), want, "{line}");
        }
        for line in ["", "{}", r#"{"type":"WHAT","object":{}}"#, r#"{"type":"BOOKMARK","object":{}}"#] {
            assert!(read(line.as_bytes()).is_err(), "{line}");
        }
        let expired = read(br#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410}}"#);
        assert!(matches!(expired, Ok(Event::Error(status)) if status.code == 410));
    }

    #[test]
    fn lines_are_complete_for_any_chunk_size() {
        let text = b"one\ntwo\n\nthree\nfo";
        for chunk in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for bytes in text.chunks(chunk) {
                lines
                    .push(bytes, |line| {
                        found.push(line.to_vec());
                        Ok::<_, ()>(())
                    })
                    .unwrap();
            }
            assert_eq!(found, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()], "chunks of {chunk}");
        }
    }
}
