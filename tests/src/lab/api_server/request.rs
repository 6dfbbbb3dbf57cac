//! Requests of clients.

use std::collections::BTreeMap;

/// A list or a watch.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub selector: Selector,
    pub is_watch: bool,
    pub wants_everything: bool,
    pub wants_bookmarks: bool,
    pub version: Option<u64>,
    pub limit: usize,
    pub r#continue: Option<String>,
    pub timeout_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Selector {
    /// As in objects: `discovery.k8s.io/v1`.
    pub api_version: String,
    /// The plural, as in paths.
    pub kind: String,
    /// A label that must be absent.
    pub without_label: Option<String>,
    pub name: Option<String>,
    pub no_headless: bool,
}

impl Request {
    pub fn parse(path: &str, query: &str) -> Self {
        let parameters: BTreeMap<String, String> = query.split('&').filter_map(parameter).collect();
        let get = |name: &str| parameters.get(name).filter(|value| !value.is_empty());
        let is = |name: &str| get(name).is_some_and(|value| value == "true" || value == "1");
        let fields = get("fieldSelector").map(String::as_str).unwrap_or_default();
        Self {
            selector: Selector {
                api_version: api_version(path),
                kind: path.rsplit('/').next().unwrap_or_default().to_owned(),
                without_label: get("labelSelector")
                    .and_then(|text| text.strip_prefix('!'))
                    .map(str::to_owned),
                name: fields.strip_prefix("metadata.name=").map(str::to_owned),
                no_headless: fields == "spec.clusterIP!=None",
            },
            is_watch: is("watch"),
            wants_everything: is("sendInitialEvents"),
            wants_bookmarks: is("allowWatchBookmarks"),
            version: get("resourceVersion").and_then(|text| text.parse().ok()),
            limit: get("limit").and_then(|text| text.parse().ok()).unwrap_or(0),
            r#continue: get("continue").cloned(),
            timeout_seconds: get("timeoutSeconds").and_then(|text| text.parse().ok()),
        }
    }
}

impl Selector {
    /// The kind as named in objects.
    pub fn singular(&self) -> &'static str {
        const KINDS: [&str; 6] = ["Service", "EndpointSlice", "Node", "Namespace", "Pod", "ServiceCIDR"];
        let is_it = |kind: &&&str| format!("{}s", kind.to_lowercase()) == self.kind;
        KINDS.iter().find(is_it).copied().unwrap_or("Unknown")
    }
}

/// `/api/VERSION/...` or `/apis/GROUP/VERSION/...`
fn api_version(path: &str) -> String {
    let mut parts = path.split('/').skip(1);
    let words = if parts.next() == Some("apis") { 2 } else { 1 };
    parts.take(words).collect::<Vec<_>>().join("/")
}

fn parameter(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    Some((name.to_owned(), decoded(value)))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let escaped = || {
            let digits = [rest.clone().next()?, rest.clone().nth(1)?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        };
        match (byte, escaped()) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest.nth(1);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let request =
            Request::parse("/api/v1/nodes", "fieldSelector=metadata.name%3Dnode-1&watch=true&limit=5&x=%zz");
        assert_eq!(request.selector.kind, "nodes");
        assert_eq!(request.selector.name.as_deref(), Some("node-1"));
        assert!(request.is_watch);
        assert_eq!(request.limit, 5);
    }
}
