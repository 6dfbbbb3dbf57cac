//! The known objects of a kind, each with its resourceVersion.
//!
//! resourceVersions grow with every change (KEP-5504), so duplicate and late events can be recognised. Owner: the
//! reflector of the kind.

use std::collections::HashMap;

use arcstr::ArcStr;

/// Namespace (empty where the kind has none) and name.
pub type Name = (ArcStr, ArcStr);

#[derive(Debug, Default)]
pub struct ObjectVersions {
    /// By namespace, then by name: few namespaces have many objects each.
    objects: HashMap<ArcStr, HashMap<ArcStr, Stamp>>,
    /// Objects deleted since the last bookmark: a late event must not restore them.
    tombstones: HashMap<Name, u64>,
    /// Parity of the current list; flips with every relist.
    parity: bool,
}

/// A resourceVersion, shifted left by one, and in the lowest bit the parity of the list that last contained the object.
/// resourceVersions are etcd revisions (signed 64-bit), so the highest bit is free.
#[derive(Clone, Copy, Debug)]
struct Stamp(u64);

impl Stamp {
    fn new(version: u64, parity: bool) -> Self {
        Self(version << 1 | u64::from(parity))
    }

    fn version(self) -> u64 {
        self.0 >> 1
    }

    fn parity(self) -> bool {
        self.0 & 1 == 1
    }
}

impl ObjectVersions {
    /// Starts a list.
    pub fn begin_list(&mut self) {
        let parity = self.parity;
        // An aborted list left stamps of the parity that is now reused.
        self.objects
            .values_mut()
            .flat_map(HashMap::values_mut)
            .for_each(|stamp| *stamp = Stamp::new(stamp.version(), parity));
        self.parity = !parity;
        self.tombstones.clear();
    }

    /// Records an object of the current list. It replaces the known version, even a newer one.
    pub fn insert_listed(&mut self, (namespace, name): Name, version: u64) {
        self.objects.entry(namespace).or_default().insert(name, Stamp::new(version, self.parity));
    }

    /// Records an object that was added or modified. Returns `false` for a duplicate or late event.
    pub fn apply(&mut self, name: Name, version: u64) -> bool {
        let newest = self.version(&name).max(self.tombstones.get(&name).copied());
        if newest.is_some_and(|newest| newest >= version && version != 0) {
            return false;
        }
        self.tombstones.remove(&name);
        self.insert_listed(name, version);
        true
    }

    /// Records the deletion of an object. Returns `false` for a duplicate or late event.
    pub fn delete(&mut self, name: Name, version: u64) -> bool {
        if self.version(&name).is_none_or(|known| known > version && version != 0) {
            return false;
        }
        if let Some(objects) = self.objects.get_mut(&name.0) {
            objects.remove(&name.1);
        }
        self.tombstones.insert(name, version);
        true
    }

    /// Ends a list. Removes and returns the known objects that it did not contain: they were deleted meanwhile.
    pub fn end_list(&mut self) -> Vec<Name> {
        let mut deleted = Vec::new();
        for (namespace, objects) in &mut self.objects {
            let unlisted = objects.extract_if(|_, stamp| stamp.parity() != self.parity);
            deleted.extend(unlisted.map(|(name, _)| (namespace.clone(), name)));
        }
        self.objects.retain(|_, objects| !objects.is_empty());
        deleted
    }

    fn version(&self, (namespace, name): &Name) -> Option<u64> {
        self.objects.get(namespace)?.get(name).map(|stamp| stamp.version())
    }

    /// Removes the tombstones up to this version: no older event follows.
    pub fn prune_tombstones(&mut self, version: u64) {
        self.tombstones.retain(|_, deleted| *deleted > version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        ("shop".into(), name.into())
    }

    #[test]
    fn duplicate_and_late_events_are_recognised() {
        let mut versions = ObjectVersions::default();
        versions.insert_listed(name("a"), 5);
        for (event, is_new, want) in [
            ("the same again", versions.apply(name("a"), 5), false),
            ("an earlier state", versions.apply(name("a"), 4), false),
            ("a later one", versions.apply(name("a"), 7), true),
            ("an earlier deletion", versions.delete(name("a"), 6), false),
            ("its deletion", versions.delete(name("a"), 8), true),
            ("its deletion again", versions.delete(name("a"), 8), false),
            ("a state from before its deletion", versions.apply(name("a"), 7), false),
            ("a new object of the same name", versions.apply(name("a"), 9), true),
            ("an unknown object", versions.apply(name("b"), 1), true),
            ("the deletion of an unknown object", versions.delete(name("c"), 9), false),
        ] {
            assert_eq!(is_new, want, "{event}");
        }
    }

    #[test]
    fn a_list_deletes_the_objects_that_it_does_not_contain() {
        let mut versions = ObjectVersions::default();
        versions.begin_list();
        versions.insert_listed(name("a"), 5);
        versions.insert_listed(name("b"), 6);
        assert_eq!(versions.end_list(), []);
        versions.begin_list();
        // A server that lost its history starts with low versions again.
        versions.insert_listed(name("b"), 1);
        assert_eq!(versions.end_list(), [name("a")]);
        assert!(versions.apply(name("b"), 2), "the new history counts");
    }

    #[test]
    fn tombstones_stay_until_a_bookmark() {
        let mut versions = ObjectVersions::default();
        versions.insert_listed(name("a"), 5);
        versions.delete(name("a"), 6);
        versions.prune_tombstones(5);
        assert!(!versions.apply(name("a"), 4));
        versions.prune_tombstones(6);
        assert!(versions.tombstones.is_empty());
    }
}
