//! Brings the maps to what the index says, one service port at a time, so that traffic never meets a gap.
//!
//! Order within a service port: backends, a new block, a new descriptor, the flip; then what nothing points to any
//! more is retired. What is retired may be reused only after a grace period, which the caller waits for and reports
//! with [`Reconciler::reclaim`]. An agent that dies between any two writes leaves maps that serve, and its successor
//! adopts them: what is reachable is in use, all else is free.
//!
//! Owner of the maps' services, frontends and backends: one reconciler, guarded by the lock on the pin directory.

mod adopt;
mod dump;
mod fake;
mod ids;
mod maps;
mod networks;
mod plan;
mod ranges;
mod services;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::{BackendRef, Block, Descriptor};

pub use dump::dump;
pub use fake::FakeMaps;
pub use maps::{BackendEntry, Capacity, Extent, Interrupted, LbMaps, MapError, one_by_one};
pub use networks::Networks;
pub use plan::{frontend_key, protocol_number, protocol_of, wire_address};
pub use services::parse_label;

use self::{
    ids::{Ids, Runs},
    ranges::RangeSets,
    services::{References, Services, Wanted},
};
use crate::model::{
    address::IpFamily,
    frontend::{Frontend, FrontendKey, View},
    service::ServicePortKey,
};

/// The frontends of the kernel, kept equal to those of the index.
#[derive(Debug)]
pub struct Reconciler<M> {
    maps: M,
    /// Published frontends and their indices. All else is read back from the maps, so it cannot differ from them.
    frontends: HashMap<FrontendKey, u32>,
    services: Services,
    frontend_ids: Ids,
    descriptor_ids: Ids,
    slots: Runs,
    /// Frontends of this pass that lead somewhere, and can be looked up once the pass has made its flips.
    created: Vec<Created>,
    /// Service ports that may keep backends nobody wants: not all of their frontends were in one pass.
    unsettled: BTreeSet<(ServicePortKey, IpFamily)>,
    ranges: RangeSets,
    /// Unreachable for new look-ups, but perhaps in the hands of a program that runs right now.
    retired: Vec<Retired>,
    /// What waits for its grace period, by the pass that retired it.
    waiting: BTreeMap<Epoch, Vec<Retired>>,
    epoch: Epoch,
}

/// A pass after which something waits for its grace period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

/// A frontend that waits to be inserted.
#[derive(Clone, Copy, Debug)]
struct Created {
    key: FrontendKey,
    index: u32,
    descriptor: u32,
}

/// What may be used again after a grace period.
#[derive(Clone, Debug)]
enum Retired {
    Frontend(u32),
    Descriptor(u32),
    Slots { offset: u32, length: u32 },
    Backend(IpFamily, u32),
    Service(u32),
    Ranges(u32, BTreeSet<IpNetwork>),
}

/// What one pass did.
#[derive(Debug, Default)]
pub struct Pass {
    /// Frontends that were written, created or taken away.
    pub changed: usize,
    /// Frontends that could not be brought to their state; they are as they were.
    pub failed: Vec<(FrontendKey, Arc<MapError>)>,
    /// What must be applied again: the failed frontends and their siblings, because backends that are no longer wanted
    /// go only when all frontends of their service port have said so.
    pub retry: Vec<FrontendKey>,
    /// Something waits: call `reclaim` after a grace period that begins now.
    pub grace: Option<Epoch>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pub map: &'static str,
    pub used: u32,
    pub capacity: u32,
}

/// The changes of one service port in one family. Its frontends share their backends, so they go together.
#[derive(Debug, Default)]
struct Group {
    puts: Vec<Frontend>,
    removals: Vec<FrontendKey>,
    /// Frontends that go to another service port in the same pass.
    leaving: usize,
    /// The changes speak for every frontend the service port has.
    is_complete: bool,
    /// The number of the service port, once it has one.
    id: Option<u32>,
    /// What the frontends ask of the backends they share.
    wanted: Wanted,
    references: References,
    /// What could not be written, and why.
    failures: Vec<(FrontendKey, Arc<MapError>)>,
}

type Groups = BTreeMap<(ServicePortKey, IpFamily), Group>;

/// Frontends that are written at a time when all of them are.
const BATCH: usize = 256;

/// A descriptor to be published, and what its blocks hold. Offsets are not chosen yet.
struct Target {
    descriptor: Descriptor,
    internal: Vec<BackendRef>,
    external: Vec<BackendRef>,
}

impl<M: LbMaps> Reconciler<M> {
    /// Brings each frontend to its state; `None` takes it away. What cannot be written is reported, and the others
    /// are written all the same.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = (FrontendKey, Option<Frontend>)>) -> Pass {
        let mut pass = Pass::default();
        self.apply_some(changes, &mut pass);
        if pass.failed.is_empty() {
            self.unsettled.clear();
        } else {
            // Of the service port that a frontend could not leave, all have to be asked again, too.
            let known: HashSet<FrontendKey> = pass.retry.iter().copied().collect();
            let unsettled = self.unsettled_frontends();
            pass.retry.extend(unsettled.into_iter().filter(|key| !known.contains(key)));
        }
        pass.grace = self.close_epoch();
        pass
    }

    fn apply_some(
        &mut self,
        changes: impl IntoIterator<Item = (FrontendKey, Option<Frontend>)>,
        pass: &mut Pass,
    ) {
        let (mut groups, strays) = self.groups(changes);
        self.take_strays(strays, pass);
        let served = groups.iter().filter(|(_, group)| !group.puts.is_empty());
        let mut unnumbered = self.services.ensure(&mut self.maps, served.map(|((service, _), _)| service));
        for ((service, family), group) in &mut groups {
            match unnumbered.remove(service) {
                Some(error) => group.fail(error),
                None => self.switch(service, *family, group, pass),
            }
        }
        self.insert_created(&mut groups, pass);
        // Only now: a frontend may have left one of these service ports for another.
        for ((service, family), group) in groups {
            self.settle(service, family, group, pass);
        }
        self.maps.release();
    }

    /// The changes by the service ports they concern: the one a frontend comes to, and the one it leaves. And what goes
    /// without being anybody's.
    fn groups(
        &self,
        changes: impl IntoIterator<Item = (FrontendKey, Option<Frontend>)>,
    ) -> (Groups, Vec<FrontendKey>) {
        let (mut groups, mut strays) = (Groups::new(), Vec::new());
        for (key, wanted) in changes {
            let family = key.address.family();
            let owner = self.owner(key);
            match wanted {
                Some(frontend) => {
                    if let Some(old) = owner.filter(|owner| **owner != frontend.service) {
                        groups.entry((old.clone(), family)).or_default().leaving += 1;
                    }
                    groups.entry((frontend.service.clone(), family)).or_default().puts.push(frontend);
                }
                None => match owner {
                    Some(owner) => groups.entry((owner.clone(), family)).or_default().removals.push(key),
                    None => strays.push(key),
                },
            }
        }
        // Before the first switch, which moves frontends from one service port to another.
        for ((service, family), group) in &mut groups {
            group.is_complete = self.covers(service, *family, group);
        }
        (groups, strays)
    }

    /// Frontends that are not there, or whose service port has lost its name: another version may have kept names
    /// otherwise.
    fn take_strays(&mut self, strays: Vec<FrontendKey>, pass: &mut Pass) {
        for key in strays {
            let mut failures = Vec::new();
            note(key, self.take_away(key), pass, &mut failures);
            pass.retry.extend(failures.iter().map(|(key, _)| *key));
            pass.failed.extend(failures);
        }
    }

    /// Like `apply`, and takes away every frontend that is not among the wanted ones. Those of one Service should come
    /// one after the other: they are taken in batches, so that all of them together need not be in memory.
    pub fn apply_all(&mut self, wanted: impl IntoIterator<Item = Frontend>) -> Pass {
        let mut pass = Pass::default();
        let mut gone: HashSet<FrontendKey> = self.frontends.keys().copied().collect();
        let mut batch = Vec::new();
        for frontend in wanted {
            let is_next =
                batch.last().is_none_or(|last: &Frontend| last.service.service != frontend.service.service);
            if is_next && batch.len() >= BATCH {
                self.apply_some(batch.drain(..).map(|frontend| (frontend.key, Some(frontend))), &mut pass);
            }
            gone.remove(&frontend.key);
            batch.push(frontend);
        }
        // Additions first: a full map is better met with a frontend too many than with one too few.
        let last = batch.into_iter().map(|frontend| (frontend.key, Some(frontend)));
        self.apply_some(last.chain(gone.into_iter().map(|key| (key, None))), &mut pass);
        self.forget_unused();
        pass.retry.extend(self.unsettled_frontends());
        pass.grace = self.close_epoch();
        pass
    }

    /// The frontends of service ports that were not settled: together they can be.
    fn unsettled_frontends(&mut self) -> Vec<FrontendKey> {
        let unsettled = std::mem::take(&mut self.unsettled);
        if unsettled.is_empty() {
            return Vec::new();
        }
        let is_unsettled = |key: &FrontendKey| {
            self.owner(*key).is_some_and(|owner| unsettled.contains(&(owner.clone(), key.address.family())))
        };
        self.frontends.keys().copied().filter(is_unsettled).collect()
    }

    /// A grace period that began after this pass is over: what it retired may be used again. Whether that makes room for
    /// frontends: a set of ranges that was written for one in vain does not.
    pub fn reclaim(&mut self, epoch: Epoch) -> bool {
        let later = self.waiting.split_off(&Epoch(epoch.0 + 1));
        let mut makes_room = false;
        for retired in std::mem::replace(&mut self.waiting, later).into_values().flatten() {
            makes_room |= !matches!(retired, Retired::Ranges(..));
            match retired {
                Retired::Frontend(index) => self.frontend_ids.free(index),
                Retired::Descriptor(index) => self.descriptor_ids.free(index),
                Retired::Slots { offset, length } => self.slots.free(offset, length),
                Retired::Backend(family, index) => self.services.free_backend(family, index),
                Retired::Service(id) => self.services.free_service(id),
                Retired::Ranges(id, content) => self.ranges.free(&mut self.maps, id, content),
            }
        }
        makes_room
    }

    /// How many frontends are published.
    pub fn len(&self) -> usize {
        self.frontends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// How full each map is.
    pub fn fill(&self) -> Vec<Fill> {
        let ids = |map, ids: &Ids| Fill { map, used: ids.used(), capacity: ids.capacity() };
        let mut fill = vec![
            ids("FRONTENDS", &self.frontend_ids),
            ids("DESCRIPTORS", &self.descriptor_ids),
            Fill { map: "SLOTS", used: self.slots.used(), capacity: self.slots.capacity() },
        ];
        fill.extend(self.services.fill());
        fill.push(self.ranges.fill());
        fill
    }

    pub fn maps(&self) -> &M {
        &self.maps
    }

    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// The service port under which a frontend is published.
    fn owner(&self, key: FrontendKey) -> Option<&ServicePortKey> {
        let index = self.frontends.get(&key)?;
        self.services.name(self.current(*index).service)
    }

    fn current(&self, index: u32) -> Descriptor {
        self.maps.descriptor(self.maps.published(index))
    }

    /// Everything of a service port up to the flips.
    fn switch(&mut self, service: &ServicePortKey, family: IpFamily, group: &mut Group, pass: &mut Pass) {
        group.wanted = group.puts.iter().flat_map(plan::backends).collect();
        let (maps, is_complete) = (&mut self.maps, group.is_complete);
        // A service port without a number has only frontends that go.
        let id = self.services.number(service).unwrap_or_default();
        group.id = Some(id);
        match self.services.prepare(maps, id, family, &group.wanted, is_complete) {
            Ok(references) => {
                group.references = references;
                for frontend in &group.puts {
                    let result = self.put(frontend, id, &group.references);
                    note(frontend.key, result, pass, &mut group.failures);
                }
            }
            Err(error) => group.fail(error),
        }
        for key in &group.removals {
            let result = self.take_away(*key);
            note(*key, result, pass, &mut group.failures);
        }
    }

    /// Makes the frontends of this pass that are new findable.
    fn insert_created(&mut self, groups: &mut Groups, pass: &mut Pass) {
        let mut created = std::mem::take(&mut self.created);
        // One map after the other.
        created.sort_by_key(|created| created.key.address.family());
        let mut rest = created.as_slice();
        while !rest.is_empty() {
            let entries: Vec<_> = rest.iter().map(|created| (created.key, created.index)).collect();
            let result = self.maps.insert_frontends(&entries);
            let count = result.as_ref().map_or_else(|interrupted| interrupted.inserted, |()| rest.len());
            let (inserted, left) = rest.split_at(count.min(rest.len()));
            for Created { key, index, descriptor } in inserted {
                self.frontends.insert(*key, *index);
                self.count(*descriptor, 1);
                pass.changed += 1;
            }
            rest = left;
            if let Err(Interrupted { error, .. }) = result
                && let Some((failed, left)) = rest.split_first()
            {
                self.give_up(*failed, error, groups);
                rest = left;
            }
        }
    }

    /// A frontend that nobody can find leads nowhere again.
    fn give_up(&mut self, created: Created, error: MapError, groups: &mut Groups) {
        let Created { key, index, descriptor } = created;
        self.maps.publish(index, 0);
        self.retired.push(Retired::Frontend(index));
        let owner = self.services.name(self.maps.descriptor(descriptor).service).cloned();
        self.retire_descriptor(descriptor);
        if let Some(group) = owner.and_then(|owner| groups.get_mut(&(owner, key.address.family()))) {
            group.failures.push((key, Arc::new(error)));
        }
    }

    /// What follows the flips. Backends go only when every frontend the service port has left was among the changes.
    fn settle(&mut self, service: ServicePortKey, family: IpFamily, group: Group, pass: &mut Pass) {
        let has_failed = !group.failures.is_empty();
        let id = group.id.or_else(|| self.services.number(&service)).unwrap_or_default();
        let is_complete = !has_failed && self.services.frontends(id, family) == group.puts.len();
        if !group.references.are_settled {
            let retired = self.services.settle(&mut self.maps, id, family, &group.wanted, is_complete);
            self.retired.extend(retired);
        }
        self.forget(id);
        if has_failed {
            let puts = group.puts.iter().map(|frontend| frontend.key);
            pass.retry.extend(puts.chain(group.removals.iter().copied()));
            pass.failed.extend(group.failures);
        }
        let at = (service, family);
        if is_complete || has_failed {
            self.unsettled.remove(&at);
        } else {
            self.unsettled.insert(at);
        }
    }

    fn forget(&mut self, service: u32) {
        match self.services.forget_if_unused(&mut self.maps, service) {
            Ok(retired) => self.retired.extend(retired),
            // The label stays until the next full pass: a leftover name does nobody harm.
            Err(error) => tracing::debug!(id = service, error = %error, "label kept"),
        }
    }

    /// Whether these changes speak for every frontend the service port has.
    fn covers(&self, service: &ServicePortKey, family: IpFamily, group: &Group) -> bool {
        let owned = |key: &FrontendKey| self.owner(*key) == Some(service);
        let puts = group.puts.iter().map(|frontend| &frontend.key);
        let named = puts.chain(&group.removals).filter(|key| owned(key)).count();
        let id = self.services.number(service);
        named + group.leaving == id.map_or(0, |id| self.services.frontends(id, family))
    }

    fn put(&mut self, frontend: &Frontend, service: u32, references: &References) -> Result<bool, MapError> {
        let mut target = target(frontend, service, references);
        target.descriptor.source_ranges = self.ranges.ensure(&mut self.maps, frontend)?;
        match self.frontends.get(&frontend.key).copied() {
            Some(index) if self.is_current(index, &target) => Ok(false),
            Some(index) => self.replace(index, target).map(|()| true),
            // Counted once it can be looked up.
            None => self.create(frontend.key, target).map(|()| false),
        }
    }

    /// Whether the kernel already holds exactly this, so that a pass over unchanged objects writes nothing.
    fn is_current(&self, index: u32, target: &Target) -> bool {
        let current = self.current(index);
        let wanted = Descriptor {
            frontend: index,
            internal: Block { offset: current.internal.offset, ..target.descriptor.internal },
            external: Block { offset: current.external.offset, ..target.descriptor.external },
            ..target.descriptor
        };
        current == wanted
            && self.maps.slots(current.internal) == target.internal
            && self.maps.slots(current.external) == target.external
    }

    fn replace(&mut self, index: u32, target: Target) -> Result<(), MapError> {
        let old = self.maps.published(index);
        let new = self.write(index, target)?;
        self.count(old, -1);
        self.maps.publish(index, new);
        self.count(new, 1);
        self.retire_descriptor(old);
        Ok(())
    }

    fn create(&mut self, key: FrontendKey, target: Target) -> Result<(), MapError> {
        let full = MapError::Full { map: "FRONTENDS", capacity: self.frontend_ids.capacity() };
        let index = self.frontend_ids.allocate().ok_or(full)?;
        let descriptor = match self.write(index, target) {
            Ok(descriptor) => descriptor,
            Err(error) => {
                self.frontend_ids.free(index);
                return Err(error);
            }
        };
        self.maps.publish(index, descriptor);
        self.created.push(Created { key, index, descriptor });
        Ok(())
    }

    fn take_away(&mut self, key: FrontendKey) -> Result<bool, MapError> {
        let Some(index) = self.frontends.get(&key).copied() else { return Ok(false) };
        self.maps.remove_frontend(key)?;
        self.frontends.remove(&key);
        let descriptor = self.maps.published(index);
        self.count(descriptor, -1);
        self.maps.publish(index, 0);
        self.retired.push(Retired::Frontend(index));
        self.retire_descriptor(descriptor);
        Ok(true)
    }

    /// Writes the blocks and the descriptor, which nothing points to yet; the descriptor's index.
    fn write(&mut self, frontend: u32, target: Target) -> Result<u32, MapError> {
        let full = MapError::Full { map: "DESCRIPTORS", capacity: self.descriptor_ids.capacity() };
        let index = self.descriptor_ids.allocate().ok_or(full)?;
        match self.write_blocks(&target) {
            Ok((internal, external)) => {
                let descriptor = Descriptor { frontend, internal, external, ..target.descriptor };
                self.maps.write_descriptor(index, &descriptor);
                Ok(index)
            }
            Err(error) => {
                self.descriptor_ids.free(index);
                Err(error)
            }
        }
    }

    /// An external view that begins like the internal one, as the local ones of the same backends do, shares its slots.
    fn write_blocks(&mut self, target: &Target) -> Result<(Block, Block), MapError> {
        let internal = self.write_block(&target.internal, target.descriptor.internal)?;
        if target.internal.starts_with(&target.external) {
            return Ok((internal, Block { offset: internal.offset, ..target.descriptor.external }));
        }
        match self.write_block(&target.external, target.descriptor.external) {
            Ok(external) => Ok((internal, external)),
            Err(error) => {
                self.slots.free(internal.offset, internal.count);
                Err(error)
            }
        }
    }

    fn write_block(&mut self, slots: &[BackendRef], block: Block) -> Result<Block, MapError> {
        if slots.is_empty() {
            return Ok(block);
        }
        let full = MapError::Full { map: "SLOTS", capacity: self.slots.capacity() };
        let offset = self.slots.allocate(block.count).ok_or(full)?;
        self.maps.write_slots(offset, slots);
        Ok(Block { offset, ..block })
    }

    fn retire_descriptor(&mut self, index: u32) {
        if index == 0 {
            return;
        }
        let descriptor = self.maps.descriptor(index);
        self.retired.push(Retired::Descriptor(index));
        self.retired
            .extend(owned_runs(&descriptor).map(|(offset, length)| Retired::Slots { offset, length }));
    }

    fn count(&mut self, descriptor: u32, by: i32) {
        let Descriptor { address, port, protocol, service, source_ranges, .. } =
            self.maps.descriptor(descriptor);
        self.ranges.count(source_ranges, by);
        if let Some(key) = plan::frontend_key(address, port, protocol) {
            self.services.count_frontend(service, key.address.family(), by);
        }
    }

    /// What a predecessor left half done, or a conflict between Services left without frontends.
    fn forget_unused(&mut self) {
        for id in self.services.without_frontends() {
            for family in IpFamily::BOTH {
                if self.services.frontends(id, family) > 0 {
                    continue;
                }
                let wanted = Wanted::default();
                let retired = self.services.settle(&mut self.maps, id, family, &wanted, true);
                self.retired.extend(retired);
            }
            self.forget(id);
        }
    }

    fn close_epoch(&mut self) -> Option<Epoch> {
        self.retired.extend(self.ranges.retire_unused());
        if self.retired.is_empty() {
            return None;
        }
        let epoch = self.epoch;
        self.epoch = Epoch(epoch.0 + 1);
        self.waiting.insert(epoch, std::mem::take(&mut self.retired));
        Some(epoch)
    }
}

impl Group {
    /// None of its frontends can be written, all for the same reason.
    fn fail(&mut self, error: MapError) {
        let error = Arc::new(error);
        let puts = self.puts.iter().map(|frontend| (frontend.key, Arc::clone(&error)));
        self.failures.extend(puts);
    }
}

fn note(
    key: FrontendKey,
    result: Result<bool, MapError>,
    pass: &mut Pass,
    failures: &mut Vec<(FrontendKey, Arc<MapError>)>,
) {
    match result {
        Ok(changed) => pass.changed += usize::from(changed),
        Err(error) => failures.push((key, Arc::new(error))),
    }
}

fn target(frontend: &Frontend, service: u32, references: &References) -> Target {
    let internal = references.of(offered(frontend, &frontend.internal));
    let is_shared = plan::shares_backends(frontend);
    let external =
        if is_shared { internal.clone() } else { references.of(offered(frontend, &frontend.external)) };
    let own = usize::from(frontend.served_here.is_some());
    let descriptor = Descriptor {
        service,
        internal: block(internal.len(), own + frontend.internal.local),
        external: block(external.len(), own + frontend.external.local),
        ..plan::descriptor(frontend)
    };
    Target { descriptor, internal, external }
}

/// The addresses of a block: the node's own server first, where it answers for the frontend.
fn offered<'a>(frontend: &Frontend, view: &'a View) -> impl Iterator<Item = SocketAddr> + 'a {
    frontend.served_here.into_iter().chain(view.backends.iter().map(|backend| backend.address))
}

fn block(count: usize, local: usize) -> Block {
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    Block { offset: 0, count: number(count), local: number(local) }
}

/// The runs of slots that go with a descriptor: two, or one that its views share.
fn owned_runs(descriptor: &Descriptor) -> impl Iterator<Item = (u32, u32)> + use<> {
    let (internal, external) = (descriptor.internal, descriptor.external);
    let is_shared = external.offset == internal.offset;
    let longest = if is_shared { internal.count.max(external.count) } else { internal.count };
    [(internal.offset, longest), (external.offset, if is_shared { 0 } else { external.count })]
        .into_iter()
        .filter(|(_, length)| *length > 0)
}
