//! Incremental parser for list responses. It keeps one object in memory at a time: an API server that answers from its
//! watch cache ignores `limit` and sends the whole list.

use serde::Deserialize;

/// Splits the bytes of a list into the objects in `items` and the envelope around them.
#[derive(Debug, Default)]
pub struct Items {
    /// The list without its objects.
    envelope: Vec<u8>,
    /// The incomplete current object.
    object: Vec<u8>,
    depth: u32,
    is_in_items: bool,
    is_in_string: bool,
    is_escaped: bool,
}

/// The `metadata` of a list.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMetadata {
    pub resource_version: String,
    /// Continue token of the next page; empty on the last page.
    pub r#continue: String,
}

#[derive(Deserialize)]
struct Envelope {
    metadata: ListMetadata,
}

/// Nesting depth of the objects: the list and its `items` array.
const ITEMS_DEPTH: u32 = 2;

impl Items {
    /// Takes the next bytes and calls `take` for every complete object.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) {
        for byte in bytes {
            self.append(*byte);
            if *byte == b'}' && self.is_complete() {
                take(&self.object);
                self.object.clear();
            }
        }
    }

    /// Ends the list and returns its metadata. Errors: the list is truncated, or not a list.
    pub fn finish(self) -> Result<ListMetadata, serde_json::Error> {
        serde_json::from_slice::<Envelope>(&self.envelope).map(|envelope| envelope.metadata)
    }

    fn is_complete(&self) -> bool {
        self.is_in_items && !self.is_in_string && self.depth == ITEMS_DEPTH && !self.object.is_empty()
    }

    fn append(&mut self, byte: u8) {
        let is_between = self.is_in_items && self.depth == ITEMS_DEPTH && self.object.is_empty();
        let was_in_items = self.is_in_items;
        self.track_nesting(byte);
        match (was_in_items && self.is_in_items, is_between && byte != b'{') {
            // Separators between objects are dropped.
            (true, true) => {}
            (true, false) => self.object.push(byte),
            (false, _) => self.envelope.push(byte),
        }
    }

    fn track_nesting(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.is_in_string => self.is_escaped = true,
            b'"' => self.is_in_string = !self.is_in_string,
            _ if self.is_in_string => {}
            b'[' => {
                self.is_in_items |= self.depth == 1 && self.follows_items_key();
                self.depth += 1;
            }
            b'{' => self.depth += 1,
            b']' | b'}' => {
                self.is_in_items &= self.depth != ITEMS_DEPTH;
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn follows_items_key(&self) -> bool {
        let before = self.envelope.trim_ascii_end();
        let key = before.strip_suffix(b":").map(|key| key.trim_ascii_end());
        key.is_some_and(|key| key.ends_with(b"\"items\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, chunk: usize) -> (Vec<String>, Option<ListMetadata>) {
        let (mut items, mut objects) = (Items::default(), Vec::new());
        for bytes in text.as_bytes().chunks(chunk) {
            items.push(bytes, |object| objects.push(String::from_utf8(object.to_vec()).unwrap()));
        }
        (objects, items.finish().ok())
    }

    #[test]
    fn lists_are_split_for_any_chunk_size() {
        let metadata = |version: &str, next: &str| {
            Some(ListMetadata { resource_version: version.to_owned(), r#continue: next.to_owned() })
        };
        for (text, objects, want) in [
            (r#"{"kind":"L","metadata":{"resourceVersion":"7"},"items":[]}"#, vec![], metadata("7", "")),
            (r#"{"metadata":{"resourceVersion":"7"},"items":null}"#, vec![], metadata("7", "")),
            (
                r#"{"metadata":{"resourceVersion":"7","continue":"x"},"items":[{"a":1},{"b":[{"c":"}]\""}]}]}"#,
                vec![r#"{"a":1}"#, r#"{"b":[{"c":"}]\""}]}"#],
                metadata("7", "x"),
            ),
            (
                "{ \"items\" : [ {\"a\": {}} ,\n {\"items\":[{}]} ], \"metadata\": {\"resourceVersion\": \"9\"} }",
                vec![r#"{"a": {}}"#, r#"{"items":[{}]}"#],
                metadata("9", ""),
            ),
            (r#"{"metadata":{"resourceVersion":"7"},"items":[{"a":1},{"b":"#, vec![r#"{"a":1}"#], None),
            ("not json", vec![], None),
        ] {
            for chunk in [1, 2, 3, 7, 1000] {
                let (found, end) = read(text, chunk);
                assert_eq!(found, objects, "{text} in chunks of {chunk}");
                assert_eq!(end, want, "{text} in chunks of {chunk}");
            }
        }
    }
}
