//! The reconciler: applies changes of frontends to the maps, pass by pass.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use proxy_ebpf::abi::{BackendRef, Block, Descriptor};

use super::{
    blocks::{Blocks, owned_runs},
    budget::Ledger,
    encode,
    ids::Ids,
    maps::{BatchError, Fill, LbMaps, MapError},
    ranges::RangeSets,
    retired::{Epoch, Retired},
    services::{BackendRefs, RequiredBackends, Services},
    tenant::Table,
};
use crate::model::{
    address::IpFamily,
    frontend::{Frontend, FrontendKey, View},
    service::ServicePortKey,
};

/// Keeps the frontends of the kernel equal to those of the index.
#[derive(Debug)]
pub struct Reconciler<M> {
    pub(super) maps: M,
    /// Published frontends and their indices. All other state is read back from the maps, so it cannot differ
    /// from them.
    pub(super) frontends: HashMap<FrontendKey, u32>,
    pub(super) services: Services,
    pub(super) frontend_ids: Ids,
    pub(super) descriptor_ids: Ids,
    pub(super) blocks: Blocks,
    pub(super) ledger: Ledger,
    /// Frontends of this pass that have a descriptor, and are inserted after the flips of the pass.
    pub(super) created: Vec<Created>,
    /// Service ports that may still have backends that no frontend requires: not all of their frontends were
    /// in one pass.
    pub(super) incomplete: BTreeSet<(ServicePortKey, IpFamily)>,
    /// The backends of a service port without frontends could not be retired.
    pub(super) has_unused_backends: bool,
    pub(super) ranges: RangeSets,
    /// Unreachable for new look-ups, but possibly still read by a running program.
    pub(super) retired: Vec<Retired>,
    /// Entries that wait for their grace period, by the pass that retired them.
    pub(super) waiting: BTreeMap<Epoch, Vec<Retired>>,
    pub(super) epoch: Epoch,
}

/// A frontend that waits to be inserted.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    key: FrontendKey,
    index: u32,
    published: Written,
}

/// A descriptor that was written, and its index.
#[derive(Clone, Copy, Debug)]
struct Written {
    index: u32,
    descriptor: Descriptor,
}

/// The result of one pass.
#[derive(Debug, Default)]
pub struct Pass {
    /// Number of frontends that were changed, created or removed.
    pub changed: usize,
    /// Frontends that could not be written and have their old state, or whose backends could not be updated.
    pub failed: Vec<(FrontendKey, Arc<MapError>)>,
    /// Frontends to apply again: the failed ones and the others of their service ports, as backends are
    /// retired only in a pass that covers all frontends of their service port.
    pub retry: Vec<FrontendKey>,
    /// Entries wait: call `reclaim` after a grace period that begins now.
    pub grace: Option<Epoch>,
}

/// The changes of one service port in one family. Its frontends share backends, so they are applied together.
#[derive(Debug, Default)]
struct Group {
    /// The place among the groups of the pass, by the first change.
    position: usize,
    puts: Vec<Frontend>,
    removals: Vec<FrontendKey>,
    /// Frontends that move to another service port in the same pass.
    leaving: Vec<FrontendKey>,
    /// The changes cover all frontends of the service port.
    is_complete: bool,
    /// The id of the service port, once it has one.
    id: Option<u32>,
    /// The backends that the frontends require.
    required: RequiredBackends,
    references: BackendRefs,
    /// Frontends that could not be written.
    failures: Vec<(FrontendKey, Arc<MapError>)>,
}

type Groups = BTreeMap<(ServicePortKey, IpFamily), Group>;

/// Frontends per batch when all of them are written.
const BATCH: usize = 256;

/// A descriptor to publish and the content of its blocks. The offsets are not allocated yet.
struct Target {
    descriptor: Descriptor,
    internal: Vec<BackendRef>,
    external: Vec<BackendRef>,
}

impl<M: LbMaps> Reconciler<M> {
    /// Brings each frontend to the given state; `None` removes it. A frontend that cannot be written is
    /// reported, and does not stop the others.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = (FrontendKey, Option<Frontend>)>) -> Pass {
        let mut pass = Pass::default();
        self.apply_batch(changes, &mut pass);
        if self.has_unused_backends && pass.failed.is_empty() {
            self.has_unused_backends = false;
            self.remove_unused_services();
        }
        if pass.failed.is_empty() {
            self.incomplete.clear();
        } else {
            // All frontends of a service port that a frontend could not leave must be applied again, too.
            pass.retry.extend(self.take_incomplete());
            let mut known = HashSet::new();
            pass.retry.retain(|key| known.insert(*key));
        }
        pass.grace = self.close_epoch();
        pass
    }

    fn apply_batch(
        &mut self,
        changes: impl IntoIterator<Item = (FrontendKey, Option<Frontend>)>,
        pass: &mut Pass,
    ) {
        let (mut groups, unowned) = self.groups(changes, pass);
        self.remove_unowned(unowned, pass);
        // In the order of the changes: where a map fills up, the last ones find no room.
        let mut ordered: Vec<_> = groups.iter_mut().collect();
        ordered.sort_by_key(|(_, group)| group.position);
        let used = ordered.iter().filter(|(_, group)| !group.puts.is_empty());
        let keys = used.map(|((service, _), _)| service);
        let without_id = self.services.ensure_ids(&mut self.maps, &mut self.ledger, keys);
        for ((service, family), group) in ordered {
            match without_id.get(service) {
                // Of both families.
                Some(error) => group.fail_with(error),
                None => self.write_group(service, *family, group, pass),
            }
            self.close_failed(group, pass);
        }
        self.insert_created(&mut groups, pass);
        // After all flips, as frontends may have moved between these service ports.
        for ((service, family), group) in groups {
            self.finish_group(service, family, group, pass);
        }
        self.maps.release();
    }

    /// The changes by service port: the one that gets a frontend, and the one that loses it. And removals of
    /// frontends without an owner.
    fn groups(
        &self,
        changes: impl IntoIterator<Item = (FrontendKey, Option<Frontend>)>,
        pass: &mut Pass,
    ) -> (Groups, Vec<FrontendKey>) {
        let (mut groups, mut unowned) = (Groups::new(), Vec::new());
        for (key, change) in changes {
            let family = key.address.family();
            let owner = match self.owner(key) {
                Ok(owner) => owner,
                Err(error) => {
                    pass.failed.push((key, Arc::new(error)));
                    pass.retry.push(key);
                    continue;
                }
            };
            match change {
                Some(frontend) => {
                    if let Some(old) = owner.filter(|owner| **owner != frontend.service) {
                        group_of(&mut groups, old.clone(), family).leaving.push(key);
                    }
                    group_of(&mut groups, frontend.service.clone(), family).puts.push(frontend);
                }
                None => match owner {
                    Some(owner) => group_of(&mut groups, owner.clone(), family).removals.push(key),
                    None => unowned.push(key),
                },
            }
        }
        // Before the first write, which may move frontends between service ports.
        for ((service, family), group) in &mut groups {
            group.is_complete = self.covers(service, *family, group);
        }
        (groups, unowned)
    }

    /// Removes frontends that are not published, or whose service port has no readable label: another version
    /// may have used another format.
    fn remove_unowned(&mut self, unowned: Vec<FrontendKey>, pass: &mut Pass) {
        for key in unowned {
            let mut failures = Vec::new();
            record(key, self.remove(key), pass, &mut failures);
            pass.retry.extend(failures.iter().map(|(key, _)| *key));
            pass.failed.extend(failures);
        }
    }

    /// Like `apply`, and removes every other frontend. Frontends of one Service must be adjacent: they are
    /// written in batches, so that not all of them are in memory at a time.
    pub fn apply_all(&mut self, frontends: impl IntoIterator<Item = Frontend>) -> Pass {
        let mut pass = Pass::default();
        let mut gone: HashSet<FrontendKey> = self.frontends.keys().copied().collect();
        let mut batch = Vec::new();
        for frontend in frontends {
            let is_next =
                batch.last().is_none_or(|last: &Frontend| last.service.service != frontend.service.service);
            if is_next && batch.len() >= BATCH {
                self.apply_batch(batch.drain(..).map(|frontend| (frontend.key, Some(frontend))), &mut pass);
            }
            gone.remove(&frontend.key);
            batch.push(frontend);
        }
        // Additions first: if a map is full, an obsolete frontend does less harm than a missing one.
        let last = batch.into_iter().map(|frontend| (frontend.key, Some(frontend)));
        self.apply_batch(last.chain(gone.into_iter().map(|key| (key, None))), &mut pass);
        self.remove_unused_services();
        pass.retry.extend(self.take_incomplete());
        pass.grace = self.close_epoch();
        pass
    }

    /// The frontends of the incomplete service ports, to be applied together. Clears the list.
    fn take_incomplete(&mut self) -> Vec<FrontendKey> {
        let incomplete = std::mem::take(&mut self.incomplete);
        if incomplete.is_empty() {
            return Vec::new();
        }
        let is_incomplete = |key: &FrontendKey| {
            match self.owner(*key) {
                Ok(owner) => {
                    owner.is_some_and(|owner| incomplete.contains(&(owner.clone(), key.address.family())))
                }
                // Applying a frontend in vain is harmless.
                Err(_) => true,
            }
        };
        self.frontends.keys().copied().filter(is_incomplete).collect()
    }

    /// Frees the entries that passes up to this one retired; a grace period that began after this pass is
    /// over. Returns whether that makes room for frontends: a set of ranges that was written for a frontend
    /// that then failed does not.
    pub fn reclaim(&mut self, epoch: Epoch) -> bool {
        let later = self.waiting.split_off(&epoch.next());
        let mut makes_room = false;
        for retired in std::mem::replace(&mut self.waiting, later).into_values().flatten() {
            makes_room |= !matches!(retired, Retired::Ranges { was_published: false, .. });
            match retired {
                Retired::Frontend(index) => self.frontend_ids.free(index),
                Retired::Descriptor(index) => self.descriptor_ids.free(index),
                Retired::Slots { offset, length } => self.blocks.free(offset, length),
                Retired::Backend(family, index) => self.services.free_backend(family, index),
                Retired::Service(id) => self.services.free_service(id),
                Retired::Ranges { set, content, .. } => self.ranges.free(&mut self.maps, set, content),
            }
        }
        makes_room
    }

    /// Number of published frontends.
    pub fn len(&self) -> usize {
        self.frontends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// The fill of each map.
    pub fn fill(&self) -> Vec<Fill> {
        let ids = |map, ids: &Ids| Fill { map, used: ids.used(), capacity: ids.capacity() };
        let mut fill = vec![
            ids("FRONTENDS", &self.frontend_ids),
            ids("DESCRIPTORS", &self.descriptor_ids),
            self.blocks.fill(),
        ];
        fill.extend(self.services.fill());
        fill.extend(self.ranges.fill());
        fill
    }

    pub fn maps(&self) -> &M {
        &self.maps
    }

    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// The service port under which a frontend is published.
    fn owner(&self, key: FrontendKey) -> Result<Option<&ServicePortKey>, MapError> {
        let Some(index) = self.frontends.get(&key) else { return Ok(None) };
        Ok(self.services.key(self.current(*index)?.descriptor.service))
    }

    fn current(&self, index: u32) -> Result<Written, MapError> {
        let index = self.maps.published(index)?;
        Ok(Written { index, descriptor: self.maps.descriptor(index)? })
    }

    /// Writes the backends and frontends of a service port, up to the flips.
    fn write_group(
        &mut self,
        service: &ServicePortKey,
        family: IpFamily,
        group: &mut Group,
        pass: &mut Pass,
    ) {
        group.required = group.puts.iter().flat_map(encode::backends).collect();
        let is_complete = group.is_complete;
        // A service port without an id has removals only.
        let id = self.services.id(service).unwrap_or_default();
        group.id = Some(id);
        let books = (&mut self.maps, &mut self.ledger);
        match self.services.prepare(books, id, family, &group.required, is_complete) {
            Ok(references) => {
                group.references = references;
                for frontend in &group.puts {
                    let result = self.put(frontend, id, &group.references);
                    record(frontend.key, result, pass, &mut group.failures);
                }
            }
            Err(error) => group.fail(error),
        }
        for key in &group.removals {
            let result = self.remove(*key);
            record(*key, result, pass, &mut group.failures);
        }
    }

    /// Inserts the new frontends of this pass, so that look-ups find them.
    fn insert_created(&mut self, groups: &mut Groups, pass: &mut Pass) {
        let mut created = std::mem::take(&mut self.created);
        // One map per family: in batches.
        created.sort_by_key(|created| created.key.address.family());
        let mut rest = created.as_slice();
        while !rest.is_empty() {
            let entries: Vec<_> = rest.iter().map(|created| (created.key, created.index)).collect();
            let result = self.maps.insert_frontends(&entries);
            let count = result.as_ref().map_or_else(|failure| failure.inserted, |()| rest.len());
            let (inserted, left) = rest.split_at(count.min(rest.len()));
            for Created { key, index, published } in inserted {
                self.frontends.insert(*key, *index);
                self.count_frontend(&published.descriptor, 1);
                pass.changed += 1;
            }
            rest = left;
            if let Err(BatchError { error, .. }) = result
                && let Some((failed, left)) = rest.split_first()
            {
                self.abort_insert(*failed, error, groups);
                rest = left;
            }
        }
    }

    /// Retires a frontend whose key could not be inserted.
    fn abort_insert(&mut self, created: Created, error: MapError, groups: &mut Groups) {
        let Created { key, index, published } = created;
        // It cannot fail after the frontend was published in this pass. If it did, the entries would be kept
        // until adoption.
        self.charge(published.descriptor.service, Table::Frontends, -1);
        self.count_ranges(&published.descriptor, -1);
        if self.maps.publish(index, 0).is_ok() {
            self.retired.push(Retired::Frontend(index));
            self.retire_descriptor(&published);
        }
        let owner = self.services.key(published.descriptor.service).cloned();
        if let Some(group) = owner.and_then(|owner| groups.get_mut(&(owner, key.address.family()))) {
            group.failures.push((key, Arc::new(error)));
        }
    }

    /// Updates the backends after the flips. Backends are retired only if the changes cover all remaining
    /// frontends of the service port.
    fn finish_group(&mut self, service: ServicePortKey, family: IpFamily, mut group: Group, pass: &mut Pass) {
        let mut has_failed = !group.failures.is_empty();
        let id = group.id.or_else(|| self.services.id(&service)).unwrap_or_default();
        let is_complete = !has_failed && self.services.frontend_count(id, family) == group.puts.len();
        if !group.references.are_current {
            let books = (&mut self.maps, &mut self.ledger);
            match self.services.update_backends(books, id, family, &group.required, is_complete) {
                Ok(retired) => self.retired.extend(retired),
                Err(error) if group.puts.is_empty() => {
                    // To be retired by the next pass, if no frontend is left, else by one over all of the
                    // service port.
                    self.has_unused_backends |= is_complete;
                    group.fail_gone(error);
                    pass.retry.extend(group.leaving.iter().copied());
                }
                Err(_) if has_failed => {}
                Err(error) => {
                    group.fail(error);
                    has_failed = true;
                }
            }
        }
        self.remove_service_if_unused(id);
        if !group.failures.is_empty() {
            let puts = group.puts.iter().map(|frontend| frontend.key);
            pass.retry.extend(puts.chain(group.removals.iter().copied()));
            pass.failed.extend(group.failures);
        }
        let at = (service, family);
        if is_complete || has_failed {
            self.incomplete.remove(&at);
        } else {
            self.incomplete.insert(at);
        }
    }

    fn remove_service_if_unused(&mut self, service: u32) {
        match self.services.remove_if_unused(&mut self.maps, &mut self.ledger, service) {
            Ok(retired) => self.retired.extend(retired),
            // The label stays until the next full pass, which is harmless.
            Err(error) => tracing::debug!(id = service, error = %error, "label kept"),
        }
    }

    /// Whether the changes cover all frontends of the service port.
    fn covers(&self, service: &ServicePortKey, family: IpFamily, group: &Group) -> bool {
        let owned = |key: &FrontendKey| self.owner(*key).is_ok_and(|owner| owner == Some(service));
        let puts = group.puts.iter().map(|frontend| &frontend.key);
        let named = puts.chain(&group.removals).filter(|key| owned(key)).count();
        let id = self.services.id(service);
        named + group.leaving.len() == id.map_or(0, |id| self.services.frontend_count(id, family))
    }

    fn put(&mut self, frontend: &Frontend, service: u32, references: &BackendRefs) -> Result<bool, MapError> {
        let mut target = target(frontend, service, references);
        target.descriptor.source_ranges = self.ranges.ensure_set(&mut self.maps, &self.ledger, frontend)?;
        match self.frontends.get(&frontend.key).copied() {
            Some(index) if self.is_current(index, &target)? => Ok(false),
            Some(index) => self.replace(index, target).map(|()| true),
            // Counted once its key is inserted.
            None => self.create(frontend.key, target).map(|()| false),
        }
    }

    /// Removes the frontends that could not be written and still admit sources that their ranges exclude by now: a
    /// frontend whose ranges find no room must not stay open.
    fn close_failed(&mut self, group: &mut Group, pass: &mut Pass) {
        let failed: HashSet<FrontendKey> = group.failures.iter().map(|(key, _)| *key).collect();
        for frontend in group.puts.iter().filter(|frontend| failed.contains(&frontend.key)) {
            match self.close_unless_within(frontend) {
                Ok(is_closed) => pass.changed += usize::from(is_closed),
                Err(error) => group.failures.push((frontend.key, Arc::new(error))),
            }
        }
    }

    fn close_unless_within(&mut self, frontend: &Frontend) -> Result<bool, MapError> {
        let Some(index) = self.frontends.get(&frontend.key).copied() else { return Ok(false) };
        if frontend.source_ranges.is_empty() {
            return Ok(false);
        }
        let published = self.current(index)?.descriptor.source_ranges;
        if self.ranges.is_within(published, frontend) { Ok(false) } else { self.remove(frontend.key) }
    }

    /// Whether the maps already hold this state, so that a pass over unchanged objects writes nothing.
    fn is_current(&self, index: u32, target: &Target) -> Result<bool, MapError> {
        let current = self.current(index)?.descriptor;
        let target_descriptor = Descriptor {
            frontend: index,
            internal: Block { offset: current.internal.offset, ..target.descriptor.internal },
            external: Block { offset: current.external.offset, ..target.descriptor.external },
            ..target.descriptor
        };
        Ok(current == target_descriptor
            && self.maps.slots(current.internal)? == target.internal
            && self.maps.slots(current.external)? == target.external)
    }

    fn replace(&mut self, index: u32, target: Target) -> Result<(), MapError> {
        let old = self.current(index)?;
        let (from, to) = (old.descriptor.service, target.descriptor.service);
        if from != to {
            self.check(to, Table::Frontends, 1)?;
        }
        let credit = owned_runs(&old.descriptor).map(|(_, length)| length).sum();
        let new = self.write(index, &target, if from == to { credit } else { 0 })?;
        self.publish(index, &new)?;
        self.charge(from, Table::Frontends, -1);
        self.charge(to, Table::Frontends, 1);
        self.count_descriptor(&old.descriptor, -1);
        self.count_descriptor(&new.descriptor, 1);
        self.retire_descriptor(&old);
        Ok(())
    }

    fn create(&mut self, key: FrontendKey, target: Target) -> Result<(), MapError> {
        let service = target.descriptor.service;
        self.check(service, Table::Frontends, 1)?;
        let full = MapError::Full { map: "FRONTENDS", capacity: self.frontend_ids.capacity() };
        let index = self.frontend_ids.allocate().ok_or(full)?;
        let written = self.write(index, &target, 0);
        let published = written.and_then(|new| self.publish(index, &new).map(|()| new));
        match published {
            Ok(published) => {
                self.charge(service, Table::Frontends, 1);
                self.count_ranges(&published.descriptor, 1);
                self.created.push(Created { key, index, published });
            }
            Err(_) => self.frontend_ids.free(index),
        }
        published.map(drop)
    }

    /// Flips a frontend to a new descriptor, which is freed after an error.
    fn publish(&mut self, frontend: u32, new: &Written) -> Result<(), MapError> {
        self.maps.publish(frontend, new.index).inspect_err(|_| {
            self.descriptor_ids.free(new.index);
            self.abandon_blocks(&new.descriptor);
        })
    }

    fn remove(&mut self, key: FrontendKey) -> Result<bool, MapError> {
        let Some(index) = self.frontends.get(&key).copied() else { return Ok(false) };
        // Before the removal: all that follows it must succeed.
        let old = self.current(index)?;
        self.maps.remove_frontend(key)?;
        self.frontends.remove(&key);
        self.count_descriptor(&old.descriptor, -1);
        self.charge(old.descriptor.service, Table::Frontends, -1);
        self.maps.publish(index, 0)?;
        self.retired.push(Retired::Frontend(index));
        self.retire_descriptor(&old);
        Ok(true)
    }

    /// Writes the blocks and the descriptor, which are not reachable yet. `credit` is the number of slots that the
    /// frontend gives back in return.
    fn write(&mut self, frontend: u32, target: &Target, credit: u32) -> Result<Written, MapError> {
        let full = MapError::Full { map: "DESCRIPTORS", capacity: self.descriptor_ids.capacity() };
        let index = self.descriptor_ids.allocate().ok_or(full)?;
        let written = self.write_blocks(target).and_then(|(added, internal, external)| {
            let descriptor = Descriptor { frontend, internal, external, ..target.descriptor };
            let within_budget = self.check_slots(target.descriptor.service, added, credit);
            let written = within_budget.and_then(|()| self.maps.write_descriptor(index, &descriptor));
            written.inspect_err(|_| self.abandon_blocks(&descriptor))?;
            Ok(Written { index, descriptor })
        });
        written.inspect_err(|_| self.descriptor_ids.free(index))
    }

    /// The blocks of both views, and the number of slots that were added for them.
    fn write_blocks(&mut self, target: &Target) -> Result<(u32, Block, Block), MapError> {
        let (descriptor, views) = (&target.descriptor, (&*target.internal, &*target.external));
        let before = self.blocks.referenced();
        let (internal, external) =
            self.with_blocks(descriptor.service, |blocks, maps| blocks.ensure_both(maps, descriptor, views))?;
        Ok((self.blocks.referenced() - before, internal, external))
    }

    /// The added slots are counted already.
    fn check_slots(&self, service: u32, added: u32, credit: u32) -> Result<(), MapError> {
        let Some(key) = self.services.key(service).filter(|_| added > credit) else { return Ok(()) };
        self.ledger.check_present(&key.service, Table::Slots)
    }

    fn abandon_blocks(&mut self, descriptor: &Descriptor) {
        self.with_blocks(descriptor.service, |blocks, _| blocks.abandon(descriptor));
    }

    /// Counts the slots that `change` adds or frees.
    pub(super) fn with_blocks<T>(
        &mut self,
        service: u32,
        change: impl FnOnce(&mut Blocks, &mut M) -> T,
    ) -> T {
        let before = self.blocks.referenced();
        let result = change(&mut self.blocks, &mut self.maps);
        let by = i64::from(self.blocks.referenced()) - i64::from(before);
        self.charge(service, Table::Slots, by);
        result
    }

    fn check(&self, service: u32, table: Table, more: u32) -> Result<(), MapError> {
        let key = self.services.key(service);
        key.map_or(Ok(()), |key| self.ledger.check(&key.service, table, more))
    }

    /// Counts entries of a service port; without a label they are nobody's.
    pub(super) fn charge(&mut self, service: u32, table: Table, by: i64) {
        if let Some(key) = self.services.key(service) {
            self.ledger.charge(&key.service, table, by);
        }
    }

    /// The entries that are free for what failed for lack of them.
    pub fn room(&self, error: &MapError) -> u32 {
        match error {
            MapError::Full { map, .. } => {
                // Of both families if the name has none.
                let fill = self.fill().into_iter().filter(|fill| fill.map.starts_with(map));
                fill.map(|fill| fill.capacity.saturating_sub(fill.used)).sum()
            }
            MapError::OverBudget { table, tenant, .. } => self.ledger.room(tenant, *table),
            MapError::Refused { .. } => 0,
        }
    }

    fn retire_descriptor(&mut self, old: &Written) {
        if old.index == 0 {
            return;
        }
        self.retired.push(Retired::Descriptor(old.index));
        let unused = self.with_blocks(old.descriptor.service, |blocks, _| blocks.release(&old.descriptor));
        self.retired.extend(unused);
    }

    /// Counts a descriptor that was published (`by` is 1) or is no longer (-1) with its ranges and its
    /// service port.
    pub(super) fn count_descriptor(&mut self, descriptor: &Descriptor, by: i32) {
        self.count_ranges(descriptor, by);
        self.count_frontend(descriptor, by);
    }

    fn count_ranges(&mut self, descriptor: &Descriptor, by: i32) {
        let service = self.services.key(descriptor.service).map(|key| &key.service);
        self.ranges.count_user(&mut self.ledger, descriptor.source_ranges, service, by);
    }

    fn count_frontend(&mut self, descriptor: &Descriptor, by: i32) {
        let Descriptor { address, port, protocol, service, .. } = *descriptor;
        if let Some(key) = encode::frontend_key(address, port, protocol) {
            self.services.count_frontend(service, key.address.family(), by);
        }
    }

    /// Removes service ports without frontends: left by an agent that died, or by a conflict between
    /// Services.
    fn remove_unused_services(&mut self) {
        for id in self.services.without_frontends() {
            for family in IpFamily::BOTH {
                if self.services.frontend_count(id, family) > 0 {
                    continue;
                }
                let none = RequiredBackends::default();
                let books = (&mut self.maps, &mut self.ledger);
                match self.services.update_backends(books, id, family, &none, true) {
                    Ok(retired) => self.retired.extend(retired),
                    Err(error) => {
                        tracing::debug!(id, error = %error, "unused backends kept");
                        self.has_unused_backends = true;
                    }
                }
            }
            self.remove_service_if_unused(id);
        }
        self.maps.release();
    }

    fn close_epoch(&mut self) -> Option<Epoch> {
        self.retired.extend(self.ranges.retire_unused());
        if self.retired.is_empty() {
            return None;
        }
        let epoch = self.epoch;
        self.epoch = epoch.next();
        self.waiting.insert(epoch, std::mem::take(&mut self.retired));
        Some(epoch)
    }
}

impl Group {
    /// Fails all of its frontends with the same error.
    fn fail(&mut self, error: MapError) {
        self.fail_with(&Arc::new(error));
    }

    fn fail_with(&mut self, error: &Arc<MapError>) {
        let puts = self.puts.iter().map(|frontend| (frontend.key, Arc::clone(error)));
        self.failures.extend(puts);
    }

    /// Fails the frontends that it has lost with the same error.
    fn fail_gone(&mut self, error: MapError) {
        let error = Arc::new(error);
        let gone = self.removals.iter().chain(&self.leaving).map(|key| (*key, Arc::clone(&error)));
        self.failures.extend(gone);
    }
}

fn group_of(groups: &mut Groups, service: ServicePortKey, family: IpFamily) -> &mut Group {
    let position = groups.len();
    groups.entry((service, family)).or_insert_with(|| Group { position, ..Group::default() })
}

/// Records the result of one frontend.
fn record(
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

fn target(frontend: &Frontend, service: u32, references: &BackendRefs) -> Target {
    let internal = references.of(offered(frontend, &frontend.internal));
    let is_shared = encode::shares_backends(frontend);
    let external =
        if is_shared { internal.clone() } else { references.of(offered(frontend, &frontend.external)) };
    let own = usize::from(frontend.served_here.is_some());
    let descriptor = Descriptor {
        service,
        internal: block(internal.len(), own + frontend.internal.local),
        external: block(external.len(), own + frontend.external.local),
        ..encode::descriptor(frontend)
    };
    Target { descriptor, internal, external }
}

/// The addresses of a block: first the node's own name server, if it serves the frontend.
fn offered<'a>(frontend: &Frontend, view: &'a View) -> impl Iterator<Item = SocketAddr> + 'a {
    frontend.served_here.into_iter().chain(view.backends.iter().map(|backend| backend.address))
}

fn block(count: usize, local: usize) -> Block {
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    Block { offset: 0, count: number(count), local: number(local) }
}
