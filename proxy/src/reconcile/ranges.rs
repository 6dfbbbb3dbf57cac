//! The sets of source ranges that descriptors reference.
//!
//! A set is never edited: another list of ranges is another set, so that a flip switches between two complete
//! sets. Frontends with the same list share one. Its entries are written before a descriptor references it,
//! and deleted a grace period after the last descriptor that did.

use std::collections::{BTreeSet, HashMap};

use ipnetwork::IpNetwork;

use super::{
    ids::Ids,
    maps::{Fill, LbMaps, MapError},
    retired::Retired,
};
use crate::model::frontend::Frontend;

/// Exceeds the number of prefixes that fit in the tries, so the tries are full first.
const SETS: u32 = 1 << 17;

#[derive(Debug)]
pub struct RangeSets {
    by_content: HashMap<BTreeSet<IpNetwork>, u32>,
    sets: HashMap<u32, Set>,
    ids: Ids,
}

#[derive(Debug)]
struct Set {
    content: BTreeSet<IpNetwork>,
    /// Number of published descriptors that reference the set.
    users: u32,
}

impl RangeSets {
    /// Adopts the sets of an earlier agent, all unused until `count_user` is called for their descriptors.
    pub fn adopt(maps: &impl LbMaps) -> Result<Self, MapError> {
        let mut sets: HashMap<u32, Set> = HashMap::new();
        for (id, network) in maps.source_ranges()? {
            sets.entry(id).or_insert_with(Set::new).content.insert(network);
        }
        let by_content = sets.iter().map(|(id, set)| (set.content.clone(), *id)).collect();
        // Set 0 means no restriction.
        let ids = Ids::new(1, SETS, sets.keys().copied());
        Ok(Self { by_content, sets, ids })
    }

    /// The set of a frontend's ranges, written now if it is new; 0 if the frontend has no ranges.
    pub fn ensure_set(&mut self, maps: &mut impl LbMaps, frontend: &Frontend) -> Result<u32, MapError> {
        if frontend.source_ranges.is_empty() {
            return Ok(0);
        }
        let extra = frontend.extra_sources.iter().copied().map(IpNetwork::from);
        let content: BTreeSet<IpNetwork> = frontend.source_ranges.iter().copied().chain(extra).collect();
        if let Some(id) = self.by_content.get(&content) {
            return Ok(*id);
        }
        let full = MapError::Full { map: "SOURCE_RANGES", capacity: self.ids.capacity() };
        let id = self.ids.allocate().ok_or(full)?;
        self.by_content.insert(content.clone(), id);
        self.sets.insert(id, Set { content: content.clone(), users: 0 });
        // If a write fails, the set has no user at the end of the pass and is retired.
        content.into_iter().try_for_each(|network| maps.insert_source_range(id, network)).inspect_err(
            |_| {
                self.by_content.retain(|_, known| *known != id);
            },
        )?;
        Ok(id)
    }

    /// Counts a descriptor with this set that was published (`by` is 1), or is no longer (-1).
    pub fn count_user(&mut self, id: u32, by: i32) {
        if let Some(set) = self.sets.get_mut(&id) {
            set.users = set.users.saturating_add_signed(by);
        }
    }

    /// Retires the unused sets; none of them is used again.
    pub fn retire_unused(&mut self) -> Vec<Retired> {
        let sets = &self.sets;
        let is_unused = |id: &u32| sets.get(id).is_some_and(|set| set.users == 0);
        let unused: Vec<u32> = sets.keys().copied().filter(is_unused).collect();
        self.by_content.retain(|_, id| !unused.contains(id));
        // Removed from the table, so that each is retired once.
        unused
            .into_iter()
            .filter_map(|id| self.sets.remove(&id).map(|set| Retired::Ranges(id, set.content)))
            .collect()
    }

    /// Deletes the entries of a set that no program can read any more.
    pub fn free(&mut self, maps: &mut impl LbMaps, id: u32, content: BTreeSet<IpNetwork>) {
        for network in &content {
            if let Err(error) = maps.remove_source_range(id, *network) {
                // Retired again by the next pass.
                tracing::debug!(set = id, error = %error, "source range kept");
                self.sets.insert(id, Set { content, users: 0 });
                return;
            }
        }
        self.ids.free(id);
    }

    pub fn fill(&self) -> Fill {
        Fill { map: "SOURCE_RANGES", used: self.ids.used(), capacity: self.ids.capacity() }
    }
}

impl Set {
    fn new() -> Self {
        Self { content: BTreeSet::new(), users: 0 }
    }
}
