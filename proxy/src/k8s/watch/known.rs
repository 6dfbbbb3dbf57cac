//! Which objects of a kind the API server has told of, and in which version.
//!
//! Versions grow with every change, so an event that comes twice or too late shows itself. Owner: the watch of the kind.

use std::collections::HashMap;

use arcstr::ArcStr;

/// Namespace (empty where the kind has none) and name.
pub type Name = (ArcStr, ArcStr);

#[derive(Debug, Default)]
pub struct Known {
    /// By namespace, then by name: there are few of the one and many of the other.
    objects: HashMap<ArcStr, HashMap<ArcStr, Seen>>,
    /// What went since the last bookmark: a late event must not bring it back.
    gone: HashMap<Name, u64>,
    /// Changes whenever everything is read.
    round: bool,
}

/// A version, and in the lowest bit the round in which it was seen. Versions use a part of their bits only.
#[derive(Clone, Copy, Debug)]
struct Seen(u64);

impl Seen {
    fn new(version: u64, round: bool) -> Self {
        Self(version << 1 | u64::from(round))
    }

    fn version(self) -> u64 {
        self.0 >> 1
    }

    fn round(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Known {
    /// Everything is about to be read.
    pub fn begin_round(&mut self) {
        let round = self.round;
        // A reading that broke off left some in the round that begins now.
        self.objects
            .values_mut()
            .flat_map(HashMap::values_mut)
            .for_each(|seen| *seen = Seen::new(seen.version(), round));
        self.round = !round;
        self.gone.clear();
    }

    /// An object was among everything that was read. Whatever was known of it before, this is how it is.
    pub fn list(&mut self, (namespace, name): Name, version: u64) {
        self.objects.entry(namespace).or_default().insert(name, Seen::new(version, self.round));
    }

    /// An object came or changed: whether that is news.
    pub fn put(&mut self, name: Name, version: u64) -> bool {
        let newest = self.version(&name).max(self.gone.get(&name).copied());
        if newest.is_some_and(|newest| newest >= version && version != 0) {
            return false;
        }
        self.gone.remove(&name);
        self.list(name, version);
        true
    }

    /// An object went: whether that is news.
    pub fn remove(&mut self, name: Name, version: u64) -> bool {
        if self.version(&name).is_none_or(|known| known > version && version != 0) {
            return false;
        }
        if let Some(objects) = self.objects.get_mut(&name.0) {
            objects.remove(&name.1);
        }
        self.gone.insert(name, version);
        true
    }

    /// Everything was read: what was not among it has gone meanwhile.
    pub fn end_round(&mut self) -> Vec<Name> {
        let mut all_gone = Vec::new();
        for (namespace, objects) in &mut self.objects {
            let gone = objects.extract_if(|_, seen| seen.round() != self.round);
            all_gone.extend(gone.map(|(name, _)| (namespace.clone(), name)));
        }
        self.objects.retain(|_, objects| !objects.is_empty());
        all_gone
    }

    fn version(&self, (namespace, name): &Name) -> Option<u64> {
        self.objects.get(namespace)?.get(name).map(|seen| seen.version())
    }

    /// Nothing older than this comes any more.
    pub fn settle(&mut self, version: u64) {
        self.gone.retain(|_, gone| *gone > version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        ("shop".into(), name.into())
    }

    #[test]
    fn what_comes_twice_or_late_is_no_news() {
        let mut known = Known::default();
        known.list(name("a"), 5);
        for (what, is_news, want) in [
            ("the same again", known.put(name("a"), 5), false),
            ("an earlier state", known.put(name("a"), 4), false),
            ("a later one", known.put(name("a"), 7), true),
            ("an end before that", known.remove(name("a"), 6), false),
            ("its end", known.remove(name("a"), 8), true),
            ("its end again", known.remove(name("a"), 8), false),
            ("a state from before its end", known.put(name("a"), 7), false),
            ("another of the same name", known.put(name("a"), 9), true),
            ("one nobody knew", known.put(name("b"), 1), true),
            ("the end of one nobody knew", known.remove(name("c"), 9), false),
        ] {
            assert_eq!(is_news, want, "{what}");
        }
    }

    #[test]
    fn what_a_full_reading_does_not_name_is_gone() {
        let mut known = Known::default();
        known.begin_round();
        known.list(name("a"), 5);
        known.list(name("b"), 6);
        assert_eq!(known.end_round(), []);
        known.begin_round();
        // A server that lost its history counts from the start.
        known.list(name("b"), 1);
        assert_eq!(known.end_round(), [name("a")]);
        assert!(known.put(name("b"), 2), "what the new history says counts");
    }

    #[test]
    fn ends_are_remembered_until_a_bookmark() {
        let mut known = Known::default();
        known.list(name("a"), 5);
        known.remove(name("a"), 6);
        known.settle(5);
        assert!(!known.put(name("a"), 4));
        known.settle(6);
        assert!(known.gone.is_empty());
    }
}
