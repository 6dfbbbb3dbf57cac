//! The sets of source ranges that descriptors reference.
//!
//! A set is never edited: another list of ranges is another set, so that a flip switches between two complete
//! sets. Frontends with the same list share one. Its entries are written before a descriptor references it,
//! and deleted a grace period after the last descriptor that did.
//!
//! Each Service that uses a set has all of its entries in its budget, and each namespace has them once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnetwork::IpNetwork;

use super::{
    budget::{Exchange, Ledger},
    ids::Ids,
    maps::{Fill, LbMaps, MapError},
    retired::Retired,
    tenant::Table,
};
use crate::model::{
    address::{IpFamily, PerFamily},
    frontend::Frontend,
    service::ServiceKey,
};

/// Exceeds the number of prefixes that fit in the tries, so the tries are full first.
const SETS: u32 = 1 << 24;

#[derive(Debug)]
pub struct RangeSets {
    by_content: HashMap<BTreeSet<IpNetwork>, u32>,
    sets: HashMap<u32, Set>,
    /// The sets that descriptors of a Service reference.
    by_service: HashMap<ServiceKey, BTreeSet<u32>>,
    ids: Ids,
    /// Entries of each trie, also those of sets that wait for their grace period.
    used: PerFamily<u32>,
    /// Of each trie.
    capacity: u32,
}

#[derive(Debug)]
struct Set {
    content: BTreeSet<IpNetwork>,
    /// Number of descriptors that reference the set, by Service; `None`: without a readable label.
    users: BTreeMap<Option<ServiceKey>, u32>,
    /// A descriptor has referenced it.
    was_published: bool,
}

impl RangeSets {
    /// Adopts the sets of an earlier agent, all unused until `count_user` is called for their descriptors.
    pub fn adopt(maps: &impl LbMaps) -> Result<Self, MapError> {
        let mut sets: HashMap<u32, Set> = HashMap::new();
        let mut used = PerFamily { v4: 0, v6: 0 };
        for (id, network) in maps.source_ranges()? {
            *used.get_mut(IpFamily::of(network.ip())) += 1;
            sets.entry(id).or_insert_with(|| Set::new(BTreeSet::new())).content.insert(network);
        }
        let by_content = sets.iter().map(|(id, set)| (set.content.clone(), *id)).collect();
        // Set 0 means no restriction.
        let ids = Ids::new(1, SETS, sets.keys().copied());
        let capacity = maps.capacity().source_ranges;
        Ok(Self { by_content, sets, by_service: HashMap::new(), ids, used, capacity })
    }

    /// The set of a frontend's ranges, written now if it is new; 0 if the frontend has no ranges.
    pub fn ensure_set(
        &mut self,
        maps: &mut impl LbMaps,
        ledger: &Ledger,
        frontend: &Frontend,
    ) -> Result<u32, MapError> {
        if frontend.source_ranges.is_empty() {
            return Ok(0);
        }
        let service = &frontend.service.service;
        let content = content(frontend);
        let Some(family) = family(&content) else { return Ok(0) };
        let known = self.by_content.get(&content).copied();
        self.check(ledger, service, family, known, entries(&content))?;
        match known {
            Some(id) => Ok(id),
            None => self.write(maps, family, content),
        }
    }

    /// Checks the budgets of a Service that is to use this set, and then no other of this family.
    fn check(
        &self,
        ledger: &Ledger,
        service: &ServiceKey,
        family: IpFamily,
        known: Option<u32>,
        entries: u32,
    ) -> Result<(), MapError> {
        let mine = self.by_service.get(service);
        if known.is_some_and(|id| mine.is_some_and(|mine| mine.contains(&id))) {
            return Ok(());
        }
        let of_namespace = known.and_then(|id| self.sets.get(&id)).map_or(0, |set| set.users_in(service));
        let is_given_back = |set: &&Set| set.family() == Some(family) && set.users_in(service) == 1;
        let others = mine.into_iter().flatten().filter_map(|id| self.sets.get(id)).filter(is_given_back);
        let back = others.map(Set::entries).fold(0, u32::saturating_add);
        let exchange = Exchange { more: if of_namespace == 0 { entries } else { 0 }, back };
        ledger.check_exchange(service, Table::source_ranges(family), entries, exchange)
    }

    /// Writes a new set. Nothing is written of one that does not fit.
    fn write(
        &mut self,
        maps: &mut impl LbMaps,
        family: IpFamily,
        content: BTreeSet<IpNetwork>,
    ) -> Result<u32, MapError> {
        let full = || MapError::Full { map: Table::source_ranges(family).name(), capacity: self.capacity };
        let used = self.used.get(family).saturating_add(entries(&content));
        if used > self.capacity {
            return Err(full());
        }
        let id = self.ids.allocate().ok_or_else(full)?;
        *self.used.get_mut(family) = used;
        self.by_content.insert(content.clone(), id);
        self.sets.insert(id, Set::new(content.clone()));
        // If a write fails, the set has no user at the end of the pass and is retired.
        content.into_iter().try_for_each(|network| maps.insert_source_range(id, network)).inspect_err(
            |_| {
                self.by_content.retain(|_, known| *known != id);
            },
        )?;
        Ok(id)
    }

    /// Whether a set admits no source but those of the frontend's ranges. A set without entries admits none.
    pub fn is_within(&self, id: u32, frontend: &Frontend) -> bool {
        let is_subset = |set: &Set| set.content.is_subset(&content(frontend));
        id != 0 && self.sets.get(&id).is_none_or(is_subset)
    }

    /// Counts a descriptor of a Service with this set that is to be published (`by` is 1), or is no longer (-1).
    pub fn count_user(&mut self, ledger: &mut Ledger, id: u32, service: Option<&ServiceKey>, by: i32) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        let before = service.map(|service| (set.uses(service), set.users_in(service)));
        let users = set.users.entry(service.cloned()).or_default();
        *users = users.saturating_add_signed(by);
        set.was_published = true;
        set.users.retain(|user, count| user.as_ref() != service || *count > 0);
        let (Some(service), Some((was_user, users_before))) = (service, before) else { return };
        let (is_user, users_now) = (set.uses(service), set.users_in(service));
        let Some(family) = set.family() else { return };
        let (table, entries) = (Table::source_ranges(family), i64::from(set.entries()));
        if is_user != was_user {
            ledger.charge_service(service, table, if is_user { entries } else { -entries });
            self.note_user(id, service, is_user);
        }
        match (users_before, users_now) {
            (0, 1) => ledger.charge_namespace(&service.namespace, table, entries),
            (1, 0) => ledger.charge_namespace(&service.namespace, table, -entries),
            _ => {}
        }
    }

    fn note_user(&mut self, id: u32, service: &ServiceKey, is_user: bool) {
        if is_user {
            self.by_service.entry(service.clone()).or_default().insert(id);
        } else if let Some(sets) = self.by_service.get_mut(service) {
            sets.remove(&id);
            if sets.is_empty() {
                self.by_service.remove(service);
            }
        }
    }

    /// Retires the unused sets; none of them is used again.
    pub fn retire_unused(&mut self) -> Vec<Retired> {
        let sets = &self.sets;
        let is_unused = |id: &u32| sets.get(id).is_some_and(|set| set.users.is_empty());
        let unused: BTreeSet<u32> = sets.keys().copied().filter(is_unused).collect();
        if unused.is_empty() {
            return Vec::new();
        }
        self.by_content.retain(|_, id| !unused.contains(id));
        // Removed from the table, so that each is retired once.
        let retired = |id| {
            let Set { content, was_published, .. } = self.sets.remove(&id)?;
            Some(Retired::Ranges { set: id, content, was_published })
        };
        unused.into_iter().filter_map(retired).collect()
    }

    /// Deletes the entries of a set that no program can read any more.
    pub fn free(&mut self, maps: &mut impl LbMaps, id: u32, content: BTreeSet<IpNetwork>) {
        let set = Set::new(content);
        for network in &set.content {
            if let Err(error) = maps.remove_source_range(id, *network) {
                // Retired again by the next pass.
                tracing::debug!(set = id, error = %error, "source range kept");
                self.sets.insert(id, set);
                return;
            }
        }
        if let Some(family) = set.family() {
            let used = self.used.get_mut(family);
            *used = used.saturating_sub(set.entries());
        }
        self.ids.free(id);
    }

    pub fn fill(&self) -> impl Iterator<Item = Fill> {
        IpFamily::BOTH.into_iter().map(|family| Fill {
            map: Table::source_ranges(family).name(),
            used: *self.used.get(family),
            capacity: self.capacity,
        })
    }
}

impl Set {
    fn new(content: BTreeSet<IpNetwork>) -> Self {
        Self { content, users: BTreeMap::new(), was_published: false }
    }

    fn entries(&self) -> u32 {
        entries(&self.content)
    }

    fn family(&self) -> Option<IpFamily> {
        family(&self.content)
    }

    fn uses(&self, service: &ServiceKey) -> bool {
        self.users.contains_key(&Some(service.clone()))
    }

    /// The Services in the namespace of this one that use the set: none, one, or 2 for more.
    fn users_in(&self, service: &ServiceKey) -> usize {
        let first = ServiceKey { namespace: service.namespace.clone(), name: "".into() };
        let is_of_namespace =
            |user: &Option<ServiceKey>| user.as_ref().is_some_and(|user| user.namespace == service.namespace);
        let users = self.users.range(Some(first)..);
        users.map(|(user, _)| user).take(2).filter(|user| is_of_namespace(user)).count()
    }
}

fn content(frontend: &Frontend) -> BTreeSet<IpNetwork> {
    let extra = frontend.extra_sources.iter().copied().map(IpNetwork::from);
    frontend.source_ranges.iter().copied().chain(extra).collect()
}

/// All of a set are of one family.
fn family(content: &BTreeSet<IpNetwork>) -> Option<IpFamily> {
    content.first().map(|network| IpFamily::of(network.ip()))
}

fn entries(content: &BTreeSet<IpNetwork>) -> u32 {
    u32::try_from(content.len()).unwrap_or(u32::MAX)
}
