//! Allocators of indices of a map, and of runs of slots.
//!
//! Invariant: an index is not allocated again before it is freed. Owner: the reconciler, which frees only
//! indices that no program can reach any more.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Single indices of a range. Freed ones are reused first, so that the used ones stay dense.
#[derive(Debug)]
pub struct Ids {
    /// The lowest index of the range.
    first: u32,
    /// The lowest index never allocated.
    next: u32,
    free: Vec<u32>,
    /// The end of the range.
    end: u32,
}

impl Ids {
    /// All of `first..end` are free except `used`.
    pub fn new(first: u32, end: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let used: HashSet<u32> = used.into_iter().collect();
        let next = used.iter().max().map_or(first, |last| last.saturating_add(1)).max(first);
        let free = (first..next).rev().filter(|id| !used.contains(id)).collect();
        Self { first, next, free, end }
    }

    /// Returns `None` if all indices are in use.
    pub fn allocate(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let id = self.next;
            (id < self.end).then(|| self.next += 1)?;
            Some(id)
        })
    }

    pub fn free(&mut self, id: u32) {
        self.free.push(id);
    }

    pub fn used(&self) -> u32 {
        (self.next - self.first).saturating_sub(u32::try_from(self.free.len()).unwrap_or(u32::MAX))
    }

    /// Size of the range.
    pub fn capacity(&self) -> u32 {
        self.end - self.first
    }
}

/// Runs of slots: best fit; adjacent free runs are merged.
#[derive(Debug)]
pub struct Runs {
    /// Free runs: offset to length.
    by_offset: BTreeMap<u32, u32>,
    /// The same runs as (length, offset).
    by_length: BTreeSet<(u32, u32)>,
    free: u32,
    capacity: u32,
}

impl Runs {
    /// All of `0..capacity` is free except the runs (offset, length) in `used`, which may repeat and overlap.
    pub fn new(capacity: u32, used: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut runs = Self { by_offset: BTreeMap::new(), by_length: BTreeSet::new(), free: 0, capacity };
        let mut used: Vec<_> = used.into_iter().collect();
        used.sort_unstable();
        let mut end = 0;
        for (offset, length) in used {
            runs.insert(end, offset.min(capacity).saturating_sub(end));
            end = end.max(offset.saturating_add(length));
        }
        runs.insert(end, capacity.saturating_sub(end));
        runs
    }

    /// Allocates a run of `length` slots and returns its offset. Returns `None` if no free run is long
    /// enough.
    pub fn allocate(&mut self, length: u32) -> Option<u32> {
        let &(found, offset) = self.by_length.range((length, 0)..).next()?;
        self.remove(offset, found);
        self.insert(offset + length, found - length);
        Some(offset)
    }

    pub fn free(&mut self, offset: u32, length: u32) {
        let (mut offset, mut length) = (offset, length);
        if let Some((&before, &size)) = self.by_offset.range(..offset).next_back()
            && before + size == offset
        {
            self.remove(before, size);
            (offset, length) = (before, length + size);
        }
        if let Some(&size) = self.by_offset.get(&(offset + length)) {
            self.remove(offset + length, size);
            length += size;
        }
        self.insert(offset, length);
    }

    pub fn used(&self) -> u32 {
        self.capacity - self.free
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn insert(&mut self, offset: u32, length: u32) {
        if length > 0 {
            self.by_offset.insert(offset, length);
            self.by_length.insert((length, offset));
            self.free += length;
        }
    }

    fn remove(&mut self, offset: u32, length: u32) {
        self.by_offset.remove(&offset);
        self.by_length.remove(&(length, offset));
        self.free -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_skip_used_indices_and_stop_at_the_capacity() {
        let mut ids = Ids::new(1, 5, [2, 3]);
        assert_eq!(ids.allocate(), Some(1));
        assert_eq!(ids.allocate(), Some(4));
        assert_eq!(ids.allocate(), None);
        ids.free(3);
        assert_eq!(ids.allocate(), Some(3));
    }

    #[test]
    fn freed_runs_are_merged() {
        let mut runs = Runs::new(10, []);
        let offsets: Vec<_> = [3, 3, 4].into_iter().map(|length| runs.allocate(length)).collect();
        assert_eq!(offsets, [Some(0), Some(3), Some(6)]);
        assert_eq!(runs.allocate(1), None);
        runs.free(0, 3);
        runs.free(6, 4);
        runs.free(3, 3);
        assert_eq!(runs.allocate(10), Some(0));
    }

    #[test]
    fn adopted_runs_may_overlap() {
        let mut runs = Runs::new(8, [(2, 2), (3, 2), (2, 2)]);
        assert_eq!(runs.used(), 3);
        assert_eq!(runs.allocate(3), Some(5));
        assert_eq!(runs.allocate(2), Some(0));
        assert_eq!(runs.allocate(1), None);
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_no_slot_is_lost(steps in prop::collection::vec((1u32..9, any::<bool>()), 1..200)) {
            let mut runs = Runs::new(64, []);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (length, take) in steps {
                if take {
                    if let Some(offset) = runs.allocate(length) {
                        prop_assert!(offset + length <= 64);
                        prop_assert!(held.iter().all(|(o, l)| offset >= o + l || offset + length <= *o));
                        held.push((offset, length));
                    }
                } else if let Some((offset, length)) = held.pop() {
                    runs.free(offset, length);
                }
                prop_assert_eq!(runs.used(), held.iter().map(|(_, length)| length).sum::<u32>());
            }
        }
    }
}
