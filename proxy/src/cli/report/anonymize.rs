//! Replaces names by keyed hashes, and addresses by others, the same one everywhere in an archive. The key is not in it.
//!
//! Files with a known form have their names replaced by field, so that they can be read again. In other text a name of the
//! objects is replaced wherever it stands as a word, and also `NAMESPACE/NAME` of objects that are gone.

mod addresses;

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use serde_json::Value;

use addresses::Addresses;

/// Names that every cluster has.
const PUBLIC: [&str; 12] = [
    "default",
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "kubernetes",
    "kube-dns",
    "portreeve",
    "localhost",
    "svc",
    "pod",
    "cluster",
    "local",
];
/// Words before a name in log lines, labels of metrics and flags.
const BEFORE_NAMES: [&str; 8] =
    ["node=", "namespace=", "pod=", "service=", "slice=", "node=\"", "namespace=\"", "service=\""];
/// Octets of a hash, twice as many digits. With a million names the probability of a collision is below 1 in 500.
const HASH_OCTETS: usize = 6;

/// What of a report is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Anonymize {
    /// Names of namespaces, Services, pods, nodes and hosts
    Names,
    /// Names, and IP addresses
    Addresses,
}

/// How the names of a file are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    /// Names occur in texts among the values.
    Json,
    /// Documents of objects, one a line.
    Objects,
    /// The JSON of `get`.
    Rows,
    /// The policy of the node.
    Policy,
    /// Events of flows, one a line.
    Events,
}

pub struct Anonymizer {
    key: hmac::Key,
    addresses: Option<Addresses>,
    /// The names that are replaced, and their labels.
    names: HashSet<String>,
    hashes: HashMap<String, String>,
}

impl Anonymizer {
    pub fn new(how: Anonymize) -> Result<Self> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).ok().context("no random numbers for the key")?;
        Ok(Self::with_key(&secret, how))
    }

    fn with_key(secret: &[u8], how: Anonymize) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let addresses = (how == Anonymize::Addresses).then(|| Addresses::new(key.clone()));
        Self { key, addresses, names: HashSet::new(), hashes: HashMap::new() }
    }

    /// Notes the names in a file of this form. All files are to be noted before the first is replaced.
    pub fn note(&mut self, form: Form, text: &str) {
        let mut found = Vec::new();
        match form {
            Form::Objects => documents(text).for_each(|mut document| {
                names_of_object(&mut document, &mut |name| found.push(name.clone()));
            }),
            Form::Rows | Form::Policy => {
                let mut value = serde_json::from_str(text).unwrap_or_default();
                names_of_fields(&mut value, &mut |name| found.extend(name.split('/').map(str::to_owned)));
            }
            Form::Events => documents(text).for_each(|mut event| {
                names_of_fields(&mut event, &mut |name| found.extend(name.split('/').map(str::to_owned)));
            }),
            Form::Text | Form::Json => {}
        }
        found.iter().for_each(|name| self.note_name(name));
    }

    pub fn note_name(&mut self, name: &str) {
        let labels =
            name.split('.').chain([name]).filter(|label| !label.is_empty() && !PUBLIC.contains(label));
        self.names.extend(labels.map(str::to_owned));
    }

    /// The same text with other names.
    pub fn replace(&mut self, form: Form, text: &str) -> String {
        let replaced = match form {
            Form::Text => self.text(text),
            Form::Json => self.json(text, Self::texts_of),
            Form::Rows | Form::Policy => self.json(text, |this, value| {
                names_of_fields(value, &mut |name| *name = this.path(name));
            }),
            Form::Objects => self.objects(text),
            Form::Events => self.events(text),
        };
        match &mut self.addresses {
            Some(addresses) => addresses.replace(&replaced),
            None => replaced,
        }
    }

    /// The hash of a name; of a domain name, label by label.
    pub fn name(&mut self, name: &str) -> String {
        let labels: Vec<_> = name.split('.').map(|label| self.label(label)).collect();
        labels.join(".")
    }

    fn label(&mut self, label: &str) -> String {
        if label.is_empty() || PUBLIC.contains(&label) {
            return label.to_owned();
        }
        let key = &self.key;
        let hash = self.hashes.entry(label.to_owned()).or_insert_with(|| {
            let tag = hmac::sign(key, format!("name {label}").as_bytes());
            let digits = tag.as_ref().iter().take(HASH_OCTETS).map(|octet| format!("{octet:02x}"));
            // A label of the domain name system that begins with a letter, as Services require.
            format!("n{}", digits.collect::<String>())
        });
        hash.clone()
    }

    /// `NAMESPACE/NAME`, or one name; `?` and addresses stay.
    fn path(&mut self, text: &str) -> String {
        let is_name = |part: &str| part.bytes().any(|octet| octet.is_ascii_alphabetic());
        let parts: Vec<_> = text
            .split('/')
            .map(|part| if is_name(part) && !part.contains(':') { self.name(part) } else { part.to_owned() })
            .collect();
        parts.join("/")
    }

    fn json(&mut self, text: &str, replace: impl FnOnce(&mut Self, &mut Value)) -> String {
        let Ok(mut value) = serde_json::from_str(text) else { return self.text(text) };
        replace(self, &mut value);
        format!("{value:#}\n")
    }

    fn texts_of(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.texts_of(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.texts_of(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Labels of Services are left out: they are free text, and nothing that is decided depends on them.
    fn objects(&mut self, text: &str) -> String {
        let documents = documents(text).map(|mut document| {
            let labels = document.pointer_mut("/metadata/labels").and_then(Value::as_object_mut);
            labels.into_iter().for_each(|labels| labels.retain(|key, _| key.contains("kubernetes.io/")));
            names_of_object(&mut document, &mut |name| *name = self.name(name));
            format!("---\n{document}\n")
        });
        documents.collect()
    }

    /// The names of processes are replaced, too; other files do not have them.
    fn events(&mut self, text: &str) -> String {
        let events = documents(text).map(|mut event| {
            names_of_fields(&mut event, &mut |name| *name = self.path(name));
            if let Some(Value::String(command)) = event.pointer_mut("/process/command") {
                *command = self.label(command);
            }
            format!("{event}\n")
        });
        events.collect()
    }

    /// Replaces words of running text.
    fn text(&mut self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_of_name) {
            let (before, from) = rest.split_at(start);
            replaced += before;
            let end = from.find(|c| !is_of_name(c)).unwrap_or(from.len());
            let (word, after) = from.split_at(end);
            let word = self.word(word, &replaced, after);
            replaced += &word;
            rest = after;
        }
        replaced + rest
    }

    /// A word between what is written already and what follows.
    fn word(&mut self, word: &str, before: &str, after: &str) -> String {
        let is_part_of_path = || is_namespace_of_pair(word, before, after) || is_name_of_pair(word, before);
        let trimmed = word.trim_end_matches('.');
        if self.names.contains(trimmed) || is_part_of_path() || follows_name_field(word, before) {
            return self.name(word);
        }
        let is_known = |label: &str| self.names.contains(label);
        if !word.split('.').any(is_known) {
            return word.to_owned();
        }
        let labels: Vec<_> = word.split('.').map(str::to_owned).collect();
        let labels = labels
            .iter()
            .map(|label| if self.names.contains(label) { self.label(label) } else { label.clone() });
        labels.collect::<Vec<_>>().join(".")
    }
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_')
}

/// A name of an object, and no number, version or word of a program.
fn is_object_name(word: &str) -> bool {
    let is_permitted =
        |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || matches!(octet, b'-' | b'.');
    word.bytes().all(is_permitted) && word.bytes().any(|octet| octet.is_ascii_lowercase())
}

/// `NAMESPACE` in `NAMESPACE/NAME`: no path, no address of a page, no version of an API.
fn is_namespace_of_pair(word: &str, before: &str, after: &str) -> bool {
    let is_path = before.ends_with(['/', ':', '~']) || word.contains('.');
    let name =
        after.strip_prefix('/').map(|rest| &rest[..rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())]);
    let is_name =
        |name: &str| is_object_name(name) && !after[1 + name.len()..].starts_with('/') && !is_version(name);
    !is_path && is_object_name(word) && name.is_some_and(is_name)
}

/// `NAME` behind a namespace that was replaced: it begins with the mark of a hash, or is one of every cluster.
fn is_name_of_pair(word: &str, before: &str) -> bool {
    let Some(namespace) = before.strip_suffix('/') else { return false };
    let start = namespace.rfind(|c| !is_of_name(c)).map_or(0, |at| at + 1);
    let namespace = &namespace[start..];
    let is_hash = namespace.len() == 1 + 2 * HASH_OCTETS && namespace.starts_with('n');
    (is_hash || PUBLIC.contains(&namespace)) && is_object_name(word) && !is_version(word)
}

fn is_version(word: &str) -> bool {
    word.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn follows_name_field(word: &str, before: &str) -> bool {
    BEFORE_NAMES.iter().any(|field| before.ends_with(field)) && is_object_name(word)
}

/// The documents of objects, one a line.
fn documents(text: &str) -> impl Iterator<Item = Value> {
    text.lines().filter(|line| line.starts_with('{')).filter_map(|line| serde_json::from_str(line).ok())
}

/// Visits the names in an object.
fn names_of_object(object: &mut Value, visit: &mut impl FnMut(&mut String)) {
    let mut at = |value: Option<&mut Value>| {
        if let Some(Value::String(name)) = value {
            visit(name);
        }
    };
    for path in [
        "/metadata/namespace",
        "/metadata/name",
        "/metadata/labels/kubernetes.io~1service-name",
        "/spec/externalName",
    ] {
        at(object.pointer_mut(path));
    }
    for endpoint in object.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        for path in ["/nodeName", "/hostname", "/targetRef/name"] {
            at(endpoint.pointer_mut(path));
        }
        let nodes = endpoint.pointer_mut("/hints/forNodes").and_then(Value::as_array_mut);
        nodes.into_iter().flatten().for_each(|node| at(node.get_mut("name")));
    }
}

/// Visits the names in rows of `get`, and in a policy.
fn names_of_fields(value: &mut Value, visit: &mut impl FnMut(&mut String)) {
    const FIELDS: [&str; 5] = ["service", "pod", "node", "client", "node_name"];
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| names_of_fields(value, visit)),
        Value::Object(fields) => {
            // Clients of DNS that are no pods have words or addresses.
            let is_pod = fields.get("kind").is_none_or(|kind| kind == "pod");
            for (field, value) in fields {
                if let Value::String(name) = value {
                    if FIELDS.contains(&field.as_str()) && (is_pod || field != "client") {
                        visit(name);
                    }
                } else {
                    names_of_fields(value, visit);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anonymizer(names: &[&str]) -> Anonymizer {
        let mut anonymizer = Anonymizer::with_key(b"key", Anonymize::Names);
        names.iter().for_each(|name| anonymizer.note_name(name));
        anonymizer
    }

    #[test]
    fn names_in_text_are_words() {
        let mut anonymizer = anonymizer(&["shop", "web", "web-7f", "ip-10-0-0-1.ec2.internal"]);
        let [shop, web, pod, gone, old] =
            ["shop", "web", "web-7f", "gone", "old"].map(|name| anonymizer.name(name));
        let node = anonymizer.name("ip-10-0-0-1.ec2.internal");
        assert_eq!(node.split('.').count(), 3);
        for (text, want) in [
            ("service=shop/web pod=web-7f", format!("service={shop}/{web} pod={pod}")),
            ("the website of webs", "the website of webs".to_owned()),
            ("web.shop.svc.cluster.local.", format!("{web}.{shop}.svc.cluster.local.")),
            ("Service old/gone: x", format!("Service {old}/{gone}: x")),
            ("Service kube-system/kube-dns", "Service kube-system/kube-dns".to_owned()),
            ("Service default/gone", format!("Service default/{gone}")),
            ("node=gone", format!("node={gone}")),
            ("ip-10-0-0-1.ec2.internal is away", format!("{node} is away")),
            ("/sys/fs/bpf/other at https://a.b/c/d", "/sys/fs/bpf/other at https://a.b/c/d".to_owned()),
            (
                "discovery.k8s.io/v1 80/TCP 10.0.0.0/8 portreeve/0.1.0",
                "discovery.k8s.io/v1 80/TCP 10.0.0.0/8 portreeve/0.1.0".to_owned(),
            ),
            ("x{service=\"web\",port=\"http\"} 3", format!("x{{service=\"{web}\",port=\"http\"}} 3")),
        ] {
            assert_eq!(anonymizer.replace(Form::Text, text), want, "{text}");
        }
    }

    #[test]
    fn known_forms_are_replaced_by_field() {
        // Names that are also words of the files.
        let mut anonymizer = anonymizer(&["ready", "node", "cluster-x", "service"]);
        let (ready, node) = (anonymizer.name("ready"), anonymizer.name("node"));
        let rows = r#"{"backends":[{"service":"ready/node","state":"ready","pod":null,"node":"node","sets":["cluster"]}]}"#;
        let rows: Value = serde_json::from_str(&anonymizer.replace(Form::Rows, rows)).unwrap();
        let row = &rows["backends"][0];
        assert_eq!(
            (row["service"].as_str(), row["state"].as_str()),
            (Some(&*format!("{ready}/{node}")), Some("ready"))
        );
        assert_eq!(row["node"], node);
        let clients = r#"{"clients":[{"kind":"node","client":"node"},{"kind":"pod","client":"ready/node"}]}"#;
        let clients: Value = serde_json::from_str(&anonymizer.replace(Form::Rows, clients)).unwrap();
        assert_eq!(clients["clients"][0]["client"], "node");
        assert_eq!(clients["clients"][1]["client"], format!("{ready}/{node}"));
        let object = r#"{"kind":"Service","metadata":{"namespace":"ready","name":"node","labels":{"a":"ready"}},"spec":{"ports":[{"name":"ready"}]}}"#;
        let object = anonymizer.replace(Form::Objects, &format!("---\n{object}\n"));
        assert!(
            object.contains(&format!("\"name\":\"{node}\"")) && object.contains("{\"name\":\"ready\"}"),
            "{object}"
        );
        assert!(!object.contains("\"a\""), "labels are free text: {object}");
    }

    #[test]
    fn names_of_all_files_are_noted() {
        let mut anonymizer = Anonymizer::with_key(b"key", Anonymize::Names);
        let slice = r#"{"metadata":{"namespace":"shop","name":"web-1"},"endpoints":[{"nodeName":"n-1","targetRef":{"name":"p-1"}}]}"#;
        anonymizer.note(Form::Objects, slice);
        anonymizer.note(Form::Rows, r#"{"frontends":[{"service":"blog/api"}]}"#);
        anonymizer.note(Form::Policy, r#"{"node_name":"n-2"}"#);
        for name in ["shop", "web-1", "n-1", "p-1", "blog", "api", "n-2"] {
            assert!(anonymizer.names.contains(name), "{name}");
        }
    }
}
