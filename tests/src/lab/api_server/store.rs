//! The objects and their history, by resource version.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::request::Selector;

/// The plural of a kind, namespace and name.
pub type ObjectKey = (String, String, String);

#[derive(Debug, Default)]
pub struct Store {
    objects: BTreeMap<ObjectKey, Arc<Stored>>,
    events: Vec<Arc<StoredEvent>>,
    version: u64,
    /// Events up to this version are compacted.
    forgotten: u64,
    /// Number of expirations of open watches.
    pub expirations: u64,
}

/// An object as it is sent, and its fields for selectors.
#[derive(Debug)]
pub struct Stored {
    pub key: ObjectKey,
    pub json: String,
    pub labels: Vec<String>,
    pub is_headless: bool,
}

/// A change: an object before and after it.
#[derive(Debug)]
pub struct StoredEvent {
    pub version: u64,
    pub before: Option<Arc<Stored>>,
    pub after: Option<Arc<Stored>>,
}

/// The events since the requested version are compacted.
pub struct TooOld;

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn put(&mut self, object: Value) {
        self.version += 1;
        let stored = Arc::new(Stored::new(object, self.version));
        let before = self.objects.insert(stored.key.clone(), Arc::clone(&stored));
        self.note(before, Some(stored));
    }

    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        if let Some(before) = self.objects.remove(&key) {
            self.version += 1;
            // A deleted object is sent with the resource version of its deletion.
            let object = serde_json::from_str(&before.json).unwrap_or_default();
            self.note(Some(Arc::new(Stored::new(object, self.version))), None);
        }
    }

    pub fn mirror(&mut self, objects: Vec<Value>) {
        let mut present = BTreeSet::new();
        for object in objects {
            let key = key(&object);
            let is_known = self.objects.get(&key).is_some_and(|stored| stored.is(&object));
            present.insert(key);
            if !is_known {
                self.put(object);
            }
        }
        let gone: Vec<ObjectKey> =
            self.objects.keys().filter(|key| !present.contains(*key)).cloned().collect();
        gone.iter().for_each(|(kind, namespace, name)| self.delete(kind, namespace, name));
    }

    fn note(&mut self, before: Option<Arc<Stored>>, after: Option<Arc<Stored>>) {
        self.events.push(Arc::new(StoredEvent { version: self.version, before, after }));
    }

    pub fn compact(&mut self) {
        self.version += 1;
        self.events.clear();
        self.forgotten = self.version;
    }

    pub fn expire(&mut self) {
        self.compact();
        self.expirations += 1;
    }

    /// The objects of a kind after a key, in order.
    pub fn list(&self, selector: &Selector, after: Option<&ObjectKey>) -> impl Iterator<Item = &Arc<Stored>> {
        let of_kind = |key: &ObjectKey| key.0 == selector.kind;
        let objects = self.objects.iter().filter(move |(key, _)| of_kind(key));
        let after = after.cloned();
        objects
            .filter(move |(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .map(|(_, stored)| stored)
            .filter(|stored| stored.is_selected_by(selector))
    }

    /// The events after a version.
    pub fn since(&self, version: u64) -> Result<&[Arc<StoredEvent>], TooOld> {
        if version < self.forgotten {
            return Err(TooOld);
        }
        let first = self.events.partition_point(|event| event.version <= version);
        Ok(self.events.get(first..).unwrap_or_default())
    }
}

impl Stored {
    fn new(mut object: Value, version: u64) -> Self {
        let key = key(&object);
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let labels = labels.map(|labels| labels.keys().cloned().collect()).unwrap_or_default();
        let is_headless = object.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None");
        set_version(&mut object, json!(version.to_string()));
        Self { key, json: object.to_string(), labels, is_headless }
    }

    pub fn is_selected_by(&self, selector: &Selector) -> bool {
        self.key.0 == selector.kind
            && selector.name.as_ref().is_none_or(|name| self.key.2 == *name)
            && selector.without_label.as_ref().is_none_or(|label| !self.labels.contains(label))
            && !(selector.no_headless && self.is_headless)
    }

    /// Whether this is the same object, disregarding the resource version.
    fn is(&self, object: &Value) -> bool {
        let mut own: Value = serde_json::from_str(&self.json).unwrap_or_default();
        let mut other = object.clone();
        set_version(&mut own, Value::Null);
        set_version(&mut other, Value::Null);
        own == other
    }
}

fn set_version(object: &mut Value, version: Value) {
    if let Some(metadata) = object.get_mut("metadata") {
        metadata["resourceVersion"] = version;
    }
}

fn key(object: &Value) -> ObjectKey {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (format!("{}s", text("/kind").to_lowercase()), text("/metadata/namespace"), text("/metadata/name"))
}
