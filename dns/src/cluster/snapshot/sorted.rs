//! A sorted multimap with cheap clones and changes: a writer copies the chunk that it changes, if a clone still
//! shares it.

use std::{ops::RangeInclusive, sync::Arc};

/// The maximum length of a chunk, which is split above it. Large enough that a large cluster has few chunks,
/// small enough that a copy is cheap.
const CHUNK: usize = 128;

#[derive(Clone, Debug)]
pub struct SortedMultimap<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Chunk<K, V> {
    /// The key of the first entry.
    first: K,
    /// Never empty.
    entries: Arc<Vec<(K, V)>>,
}

impl<K, V> Default for SortedMultimap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K: Ord + Copy, V: Clone> SortedMultimap<K, V> {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.chunks.iter().flat_map(|chunk| chunk.entries.iter()).map(|(_, value)| value)
    }

    /// The entries with these keys, in order.
    pub fn range(&self, keys: RangeInclusive<K>) -> impl Iterator<Item = &(K, V)> {
        let (from, to) = keys.into_inner();
        let chunks = self.chunks.get(self.first_chunk(&from)..).unwrap_or_default();
        let entries = chunks.iter().take_while(move |chunk| chunk.first <= to).flat_map(move |chunk| {
            let start = chunk.entries.partition_point(|(key, _)| *key < from);
            chunk.entries.get(start..).unwrap_or_default()
        });
        entries.take_while(move |(key, _)| *key <= to)
    }

    pub fn get(&self, key: K) -> impl Iterator<Item = &V> {
        self.range(key..=key).map(|(_, value)| value)
    }

    /// The index of the chunk with the first entry of this key, if there is one.
    fn first_chunk(&self, key: &K) -> usize {
        self.chunks.partition_point(|chunk| chunk.first < *key).saturating_sub(1)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.len += 1;
        let chunks = Arc::make_mut(&mut self.chunks);
        let at = chunks.partition_point(|chunk| chunk.first <= key).saturating_sub(1);
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Chunk::new(vec![(key, value)], key));
            return;
        };
        let entries = Arc::make_mut(&mut chunk.entries);
        let index = entries.partition_point(|(present, _)| *present <= key);
        entries.insert(index, (key, value));
        chunk.first = chunk.first.min(key);
        if entries.len() > CHUNK {
            let behind = entries.split_off(CHUNK / 2);
            entries.shrink_to_fit();
            let first = behind[0].0;
            chunks.insert(at + 1, Chunk::new(behind, first));
        }
    }

    /// Removes one entry with this key that `is_it` selects.
    pub fn remove(&mut self, key: K, is_it: impl Fn(&V) -> bool) -> Option<V> {
        let (chunk, index) = self.find(key, is_it)?;
        self.len -= 1;
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = Arc::make_mut(&mut chunks[chunk].entries);
        let (_, value) = entries.remove(index);
        match entries.first() {
            Some((first, _)) => chunks[chunk].first = *first,
            None => {
                chunks.remove(chunk);
            }
        }
        join(chunks, chunk);
        Some(value)
    }

    fn find(&self, key: K, is_it: impl Fn(&V) -> bool) -> Option<(usize, usize)> {
        let from = self.first_chunk(&key);
        let chunks = self.chunks.iter().enumerate().skip(from);
        for (n, chunk) in chunks.take_while(|(_, chunk)| chunk.first <= key) {
            let start = chunk.entries.partition_point(|(present, _)| *present < key);
            let equal = chunk.entries.iter().enumerate().skip(start);
            let mut equal = equal.take_while(|(_, (present, _))| *present == key);
            if let Some((index, _)) = equal.find(|(_, (_, value))| is_it(value)) {
                return Some((n, index));
            }
        }
        None
    }
}

/// Joins small neighbours; otherwise a cluster that shrank would keep its number of chunks.
fn join<K: Copy, V: Clone>(chunks: &mut Vec<Chunk<K, V>>, at: usize) {
    let Some([one, two]) = chunks.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else { return };
    if one.entries.len() + two.entries.len() <= CHUNK / 2 {
        let moved = std::mem::take(&mut two.entries);
        Arc::make_mut(&mut one.entries).extend(moved.iter().cloned());
        chunks.remove(at + 1);
    }
}

impl<K, V> Chunk<K, V> {
    fn new(entries: Vec<(K, V)>, first: K) -> Self {
        Self { first, entries: Arc::new(entries) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeded random numbers, so that every run is the same.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    #[test]
    fn it_equals_a_sorted_list() {
        let mut random = Random(1);
        let (mut sorted, mut list) = (SortedMultimap::<u64, u64>::default(), Vec::<(u64, u64)>::new());
        for step in 0..20_000 {
            // Grow, then shrink; with few keys, so that equal ones cross chunks.
            let grows = random.below(10) < if step < 10_000 { 7 } else { 3 };
            let key = random.below(40);
            if grows {
                sorted.insert(key, step);
                list.push((key, step));
            } else {
                let wanted = list.iter().rposition(|(present, _)| *present == key);
                let value = wanted.map(|at| list.remove(at).1);
                assert_eq!(sorted.remove(key, |present| Some(*present) == value), value, "step {step}");
            }
            if step % 500 == 0 {
                let (low, high) = (key.saturating_sub(3), key + 3);
                let mut got: Vec<_> = sorted.range(low..=high).copied().collect();
                let mut want: Vec<_> =
                    list.iter().copied().filter(|(key, _)| (low..=high).contains(key)).collect();
                assert!(got.is_sorted_by_key(|(key, _)| *key), "step {step}");
                got.sort_unstable();
                want.sort_unstable();
                assert_eq!(got, want, "step {step}");
                assert_eq!(sorted.len(), list.len(), "step {step}");
            }
        }
    }

    #[test]
    fn a_clone_does_not_change() {
        let mut sorted = SortedMultimap::default();
        (0..1000_u64).for_each(|key| sorted.insert(key, key));
        let before = sorted.clone();
        (0..1000_u64).for_each(|key| assert_eq!(sorted.remove(key, |_| true), Some(key)));
        assert_eq!(sorted.len(), 0);
        assert!(before.values().copied().eq(0..1000));
    }

    #[test]
    fn a_change_copies_one_chunk() {
        let mut sorted = SortedMultimap::default();
        (0..10_000_u64).for_each(|key| sorted.insert(key, ()));
        let before = sorted.clone();
        sorted.insert(5_000, ());
        let shared = before.chunks.iter().filter(|chunk| Arc::strong_count(&chunk.entries) == 2).count();
        assert_eq!(shared, before.chunks.len() - 1);
    }
}
