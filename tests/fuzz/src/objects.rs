//! Kubernetes objects: valid ones, with edits at any path. The first octet chooses the object; each further three are an
//! edit: which value, what replaces it, and with which argument. Octets that are JSON are read as they are.

use std::sync::LazyLock;

use dns::cluster::{snapshot, zone::ReadOptions};
use proxy::{
    index::Index,
    k8s::{
        lenient,
        object::Kind,
        reader::{ObjectChanges, Reader},
    },
    model::policy::Policy,
};
use serde_json::{Map, Value, json};

use crate::text;

/// A complete valid object of each kind.
static OBJECTS: LazyLock<Vec<Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("objects.json")).expect("the objects are JSON"));
const KINDS: [Kind; 7] = [
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Endpoints,
    Kind::Node,
    Kind::ServiceCidr,
    Kind::Namespace,
    Kind::Pod,
];
const NODE: &str = "node-1";

pub fn run(octets: &[u8]) {
    let Some((first, rest)) = octets.split_first() else { return };
    let number = usize::from(*first) % KINDS.len();
    let Some(kind) = KINDS.get(number) else { return };
    let text = match text::read(rest).filter(|text| text.starts_with('{')) {
        Some(text) => text.to_owned(),
        None => edited(number, rest).to_string(),
    };
    apply(*kind, &text);
}

fn apply(kind: Kind, text: &str) {
    let changes = read(kind, text);
    if let Some(change) = changes.index {
        let mut index = Index::new(Policy { node_name: NODE.to_owned(), ..Policy::default() });
        for key in index.apply(change.clone()) {
            index.frontend(&key);
        }
        assert_eq!(index.apply(change), Default::default(), "the same object again changes nothing");
        index.frontends().for_each(drop);
    }
    if let Some(change) = changes.dns {
        let mut names = snapshot::Index::new(&dns_options());
        names.apply(change);
        names.snapshot(1);
    }
}

/// Everything that a directive may need is read.
fn dns_options() -> ReadOptions {
    ReadOptions {
        endpoint_pod_names: true,
        pods: true,
        zones: true,
        multicluster: true,
        external: true,
        node: NODE.into(),
        ..ReadOptions::default()
    }
}

/// An object's changes; none if it is refused.
fn read(kind: Kind, text: &str) -> ObjectChanges {
    let read = lenient::read(kind, &mut serde_json::Deserializer::from_str(text));
    let Some(object) = read.ok().and_then(|read| read.object) else { return ObjectChanges::default() };
    let reader = Reader { node_name: NODE.to_owned(), dns: Some(dns_options()) };
    let index = reader.index_change(&object).ok().flatten();
    ObjectChanges { index: index.map(|parsed| parsed.value), dns: reader.dns_change(&object) }
}

fn edited(number: usize, edits: &[u8]) -> Value {
    let mut object = OBJECTS.get(number).cloned().unwrap_or_default();
    for edit in edits.chunks_exact(3).take(16) {
        if let [at, what, with] = *edit {
            let count = count(&object);
            let mut at = usize::from(at) % count.max(1);
            edit_at(&mut object, &mut at, what, with);
        }
    }
    object
}

/// The number of values in a value, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(elements) => elements.iter().map(count).sum::<usize>(),
        Value::Object(fields) => fields.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Edits the value with this number. Returns whether it was there.
fn edit_at(value: &mut Value, at: &mut usize, what: u8, with: u8) -> bool {
    if *at == 0 {
        edit(value, what, with);
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(elements) => elements.iter_mut().any(|element| edit_at(element, at, what, with)),
        Value::Object(fields) => fields.values_mut().any(|field| edit_at(field, at, what, with)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

const TEXTS: [&str; 16] = [
    "",
    "None",
    "IPv6",
    "UDP",
    "SCTP",
    "Local",
    "::ffff:10.0.0.1",
    "010.0.0.1",
    "fd00::1",
    "0.0.0.0",
    "::",
    "10.0.0.0/0",
    "fe80::1%eth0",
    "a.b-c_d",
    "9999999999999999999999",
    "ä\u{0}\u{202e}",
];

fn edit(value: &mut Value, what: u8, with: u8) {
    let number = i64::from(with);
    match what % 12 {
        0 => *value = Value::Null,
        1 => *value = json!(with & 1 == 1),
        2 => *value = json!([number, -number, 65535 + number, i64::MAX - number][usize::from(with) % 4]),
        3 => *value = json!(f64::from(with) * 1e300),
        4 => *value = json!(TEXTS[usize::from(with) % TEXTS.len()]),
        5 => *value = json!([]),
        6 => *value = json!({}),
        7 => *value = json!([value.clone()]),
        8 => *value = json!({"unknown": value.clone()}),
        9 => {
            if let Value::Object(fields) = value {
                fields.insert(format!("unknown{with}"), json!({"a": [null, 1, "x"]}));
            }
        }
        10 => repeat(value, with),
        _ => remove(value, with),
    }
}

fn repeat(value: &mut Value, with: u8) {
    if let Value::Array(elements) = value
        && let Some(first) = elements.first().cloned()
    {
        elements.extend(std::iter::repeat_n(first, usize::from(with % 32)));
    }
}

fn remove(value: &mut Value, with: u8) {
    let remove_field = |fields: &mut Map<String, Value>| {
        let name = fields.keys().nth(usize::from(with) % fields.len().max(1)).cloned();
        name.and_then(|name| fields.remove(&name))
    };
    match value {
        Value::Object(fields) => drop(remove_field(fields)),
        Value::Array(elements) => drop(elements.pop()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps of Go's type map[string]string: each name is known, and the value of null is "".
    const MAPS_OF_TEXT: [&str; 3] = ["/labels", "/annotations", "/selector"];

    /// A pointer to each value.
    fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            Value::Array(elements) => {
                elements
                    .iter()
                    .enumerate()
                    .for_each(|(number, element)| paths(element, &format!("{at}/{number}"), found));
            }
            Value::Object(fields) => {
                let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
                fields
                    .iter()
                    .for_each(|(name, field)| paths(field, &format!("{at}/{}", escaped(name)), found));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn all_paths(object: &Value) -> Vec<String> {
        let mut found = Vec::new();
        paths(object, "", &mut found);
        found
    }

    fn is_in_map_of_text(path: &str) -> bool {
        MAPS_OF_TEXT.iter().any(|map| path.contains(map))
    }

    #[test]
    fn edits_reach_every_path() {
        for (object, kind) in OBJECTS.iter().zip(KINDS) {
            let paths = all_paths(object);
            assert_eq!(count(object), paths.len());
            assert!(paths.len() <= 256, "an octet numbers the values of a {kind:?}");
            for (number, path) in paths.iter().enumerate() {
                let mut edited = object.clone();
                edit_at(&mut edited, &mut number.clone(), 8, 0);
                assert!(
                    edited.pointer(path).is_some_and(|value| value.get("unknown").is_some()),
                    "{kind:?} {path}"
                );
            }
        }
    }

    /// Each kind of value at each path: no panic, and nothing that takes long.
    #[test]
    fn every_edit_at_every_path_passes() {
        for (number, object) in OBJECTS.iter().enumerate() {
            let number = u8::try_from(number).unwrap();
            for at in 0..u8::try_from(count(object)).unwrap() {
                for what in 0..12 {
                    for with in [0, 1, 2, 3] {
                        run(&[number, at, what, with]);
                    }
                }
            }
        }
    }

    #[test]
    fn null_is_absent() {
        for (object, kind) in OBJECTS.iter().zip(KINDS) {
            for path in all_paths(object).iter().filter(|path| !is_in_map_of_text(path)) {
                let Some((parent, name)) = path.rsplit_once('/') else { continue };
                let (mut without, mut with_null) = (object.clone(), object.clone());
                let Some(Value::Object(fields)) = without.pointer_mut(parent) else { continue };
                fields.remove(name);
                *with_null.pointer_mut(path).unwrap() = Value::Null;
                assert_eq!(
                    read(kind, &with_null.to_string()),
                    read(kind, &without.to_string()),
                    "{kind:?} {path}"
                );
            }
        }
    }

    #[test]
    fn unknown_fields_change_nothing() {
        for (object, kind) in OBJECTS.iter().zip(KINDS) {
            let want = read(kind, &object.to_string());
            assert!(!want.is_empty(), "the {kind:?} is valid");
            for path in all_paths(object).iter().filter(|path| !is_in_map_of_text(path)) {
                for unknown in [json!(null), json!(1), json!("x"), json!([[{}]]), json!({"a": [null]})] {
                    let mut edited = object.clone();
                    let Some(Value::Object(fields)) = edited.pointer_mut(path) else { continue };
                    fields.insert("unknown".to_owned(), unknown);
                    assert_eq!(read(kind, &edited.to_string()), want, "{kind:?} {path}");
                }
            }
        }
    }
}
