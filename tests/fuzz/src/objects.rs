//! Kubernetes objects: valid ones, with edits at any path. The first octet chooses the object; each further three are an
//! edit: which value, what replaces it, and with which argument. Octets that are JSON are read as they are.

use dns::cluster::{snapshot, zone::ReadOptions};
use proxy::{
    index::Index,
    k8s::{lenient, object::Kind, reader::Reader},
    model::policy::Policy,
};
use serde_json::{Map, Value, json};

use crate::text;

/// A complete valid object of each kind.
const OBJECTS: &str = include_str!("objects.json");
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
    let Ok(read) = lenient::read(kind, &mut serde_json::Deserializer::from_str(text)) else { return };
    let Some(object) = read.object else { return };
    let dns = ReadOptions { node: NODE.into(), ..ReadOptions::default() };
    let reader = Reader { node_name: NODE.to_owned(), dns: Some(dns.clone()) };
    let policy = Policy { node_name: NODE.to_owned(), ..Policy::default() };
    if let Ok(Some(parsed)) = reader.index_change(&object) {
        let mut index = Index::new(policy);
        let touched = index.apply(parsed.value.clone());
        for key in &touched {
            index.frontend(key);
        }
        assert_eq!(index.apply(parsed.value), Default::default(), "the same object again changes nothing");
        index.frontends().for_each(drop);
    }
    if let Some(change) = reader.dns_change(&object) {
        let mut names = snapshot::Index::new(&dns);
        names.apply(change);
        names.snapshot(1);
    }
}

fn edited(number: usize, edits: &[u8]) -> Value {
    let objects: Vec<Value> = serde_json::from_str(OBJECTS).expect("the objects are JSON");
    let mut object = objects.into_iter().nth(number).unwrap_or_default();
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
