//! The objects of a set of manifests, and the entries that were skipped.

use std::collections::HashMap;

use super::parallel;
use crate::{
    index::Index,
    k8s::{
        self, ObjectError,
        object::{Object, ObjectId},
    },
    model::policy::Policy,
    update::Skipped,
};

/// An object and its location, `file:line`.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestObject {
    pub location: String,
    pub object: Object,
}

impl ManifestObject {
    /// Location and id, for messages.
    pub fn describe(&self) -> String {
        match self.object.id() {
            Ok(id) => format!("{}: {id}", self.location),
            Err(_) => format!("{}: {}", self.location, self.object.kind().name()),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifests {
    pub objects: Vec<ManifestObject>,
    pub skipped: Vec<Skipped>,
}

impl Manifests {
    pub fn skip(&mut self, object: impl Into<String>, reason: impl ToString) {
        self.skipped.push(Skipped::invalid(object, reason));
    }

    /// Builds the index of all usable objects. Also returns the skipped ones.
    pub fn to_index(&self, policy: Policy) -> (Index, Vec<Skipped>) {
        let changes = parallel::map(&self.objects, |found| found.object.change(&policy.node_name));
        let mut index = Index::new(policy);
        let mut skipped = self.skipped.clone();
        for (found, change) in self.objects.iter().zip(changes) {
            let skip = |error: ObjectError| Skipped::invalid(found.describe(), error);
            match change {
                Ok(Some(read)) => {
                    skipped.extend(read.ignored.into_iter().map(skip));
                    index.apply(read.value);
                }
                Ok(None) => {}
                Err(error) => skipped.push(skip(error)),
            }
        }
        (index, skipped)
    }

    /// Counts the DNS records of these objects.
    pub fn dns_records(&self) -> usize {
        k8s::dns::records(self.objects.iter().map(|found| &found.object))
    }

    /// Drops all but the first definition of each object, in the order of file names.
    pub fn drop_duplicates(&mut self) {
        let mut locations: HashMap<ObjectId, String> = HashMap::new();
        for found in std::mem::take(&mut self.objects) {
            match found.object.id() {
                Ok(id) => match locations.get(&id) {
                    Some(first) => {
                        let reason = format!("already defined in {first}");
                        self.skip(found.describe(), reason);
                        continue;
                    }
                    None => drop(locations.insert(id, found.location.clone())),
                },
                Err(error) => {
                    self.skip(found.describe(), error);
                    continue;
                }
            }
            self.objects.push(found);
        }
    }
}
