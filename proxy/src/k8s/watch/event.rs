//! One line of a watch: an object came, changed or went, a mark of how far the watch has come, or the reason why it ends.

use std::borrow::Cow;

use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The bookmark that says: everything that existed has been sent.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

#[derive(Debug)]
pub enum Event<'a> {
    Put(&'a str),
    Gone(&'a str),
    Bookmark { version: u64, ends_beginning: bool },
    Error(Box<Status>),
}

#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("a line of it is not a watch event")]
    Line(#[from] serde_json::Error),
    #[error("it has an event of the unknown type `{0}`")]
    Type(String),
    #[error("it has a bookmark with the resource version `{0}`")]
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
        "ADDED" | "MODIFIED" => Ok(Event::Put(object.get())),
        "DELETED" => Ok(Event::Gone(object.get())),
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
    Ok(Event::Bookmark { version, ends_beginning: ends.as_deref() == Some("true") })
}

/// Takes a stream apart into lines.
#[derive(Debug, Default)]
pub struct Lines {
    /// The line that has begun.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes, and passes on every line that is whole now until one is refused; what follows it is lost.
    pub fn push<E>(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        // There is always one; it has no end yet.
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            let whole;
            let line = if self.begun.is_empty() {
                piece
            } else {
                self.begun.extend_from_slice(piece);
                whole = std::mem::take(&mut self.begun);
                &whole
            };
            if !line.trim_ascii().is_empty() {
                take(line)?;
            }
        }
        self.begun.extend_from_slice(last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        for (line, want) in [
            (r#"{"type":"ADDED","object":{"a":1}}"#, r#"Put("{\"a\":1}")"#),
            (r#"{"object":{"a":1},"type":"MODIFIED"}"#, r#"Put("{\"a\":1}")"#),
            (r#"{"type":"DELETED","object":{}}"#, r#"Gone("{}")"#),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#,
                "Bookmark { version: 12, ends_beginning: false }",
            ),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
                "Bookmark { version: 12, ends_beginning: true }",
            ),
        ] {
            assert_eq!(format!("{:?}", read(line.as_bytes()).unwrap()), want, "{line}");
        }
        for line in ["", "{}", r#"{"type":"WHAT","object":{}}"#, r#"{"type":"BOOKMARK","object":{}}"#] {
            assert!(read(line.as_bytes()).is_err(), "{line}");
        }
        let gone = read(br#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410}}"#);
        assert!(matches!(gone, Ok(Event::Error(status)) if status.code == 410));
    }

    #[test]
    fn lines_are_whole_wherever_they_are_cut() {
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
