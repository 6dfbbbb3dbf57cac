//! The objects, and what has happened to them, by version.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::request::Selector;

/// The plural of a kind, namespace and name.
pub type Place = (String, String, String);

#[derive(Debug, Default)]
pub struct Store {
    objects: BTreeMap<Place, Arc<Stored>>,
    events: Vec<Arc<StoredEvent>>,
    version: u64,
    /// Events up to this version are forgotten.
    forgotten: u64,
    /// How often open watches were told to begin anew.
    pub expirations: u64,
}

/// An object as it is sent, and what of it is selected by.
#[derive(Debug)]
pub struct Stored {
    pub place: Place,
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

/// Changes since that version are forgotten.
pub struct TooOld;

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn put(&mut self, object: Value) {
        self.version += 1;
        let stored = Arc::new(Stored::new(object, self.version));
        let before = self.objects.insert(stored.place.clone(), Arc::clone(&stored));
        self.note(before, Some(stored));
    }

    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let place = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        if let Some(before) = self.objects.remove(&place) {
            self.version += 1;
            // The version of an object that is sent as deleted is that of its end.
            let object = serde_json::from_str(&before.json).unwrap_or_default();
            self.note(Some(Arc::new(Stored::new(object, self.version))), None);
        }
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

    /// What of a kind is after a place, in order.
    pub fn list(&self, selector: &Selector, after: Option<&Place>) -> impl Iterator<Item = &Arc<Stored>> {
        let of_kind = |place: &Place| place.0 == selector.kind;
        let objects = self.objects.iter().filter(move |(place, _)| of_kind(place));
        let after = after.cloned();
        objects
            .filter(move |(place, _)| after.as_ref().is_none_or(|after| *place > after))
            .map(|(_, stored)| stored)
            .filter(|stored| selector.selects(stored))
    }

    /// What happened after a version.
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
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = format!("{}s", text(object.get("kind")).to_lowercase());
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        let labels = metadata.get("labels").and_then(Value::as_object);
        let labels = labels.map(|labels| labels.keys().cloned().collect()).unwrap_or_default();
        let is_headless = object.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None");
        if let Some(metadata) = object.get_mut("metadata") {
            metadata["resourceVersion"] = json!(version.to_string());
        }
        let place = (kind, text(metadata.get("namespace")), text(metadata.get("name")));
        Self { place, json: object.to_string(), labels, is_headless }
    }
}
