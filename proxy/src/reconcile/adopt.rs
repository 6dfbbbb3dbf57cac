//! Adoption of the maps of an earlier agent, which may have died at any instant.
//!
//! Entries that programs can reach are unchanged and in use; all others are free. The only writes remove
//! entries that cannot be parsed, frontends without a valid descriptor, and backends without a service port.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arcstr::ArcStr;
use proxy_ebpf::abi::{BackendFlags, Descriptor};

use super::{
    blocks::{Blocks, owned_runs},
    budget::{Budget, Ledger},
    encode,
    ids::Ids,
    maps::{Extent, LbMaps, MapError},
    ranges::RangeSets,
    reconciler::Reconciler,
    retired::{Epoch, Retired},
    services::{Services, parse_label, retire_backend},
    tenant::Table,
};
use crate::model::{
    address::{IpFamily, PerFamily},
    frontend::FrontendKey,
    service::{ServiceKey, ServicePortKey},
};

/// Shared copies of names that many service ports have in common: those of namespaces and of ports.
#[derive(Default)]
struct Interner(HashSet<ArcStr>);

impl Interner {
    fn intern_key(&mut self, key: ServicePortKey) -> ServicePortKey {
        let ServicePortKey { service: ServiceKey { namespace, name }, port_name, protocol } = key;
        let service = ServiceKey { namespace: self.intern(namespace), name };
        ServicePortKey { service, port_name: self.intern(port_name), protocol }
    }

    fn intern(&mut self, name: ArcStr) -> ArcStr {
        if let Some(known) = self.0.get(&name) {
            return known.clone();
        }
        self.0.insert(name.clone());
        name
    }
}

impl<M: LbMaps> Reconciler<M> {
    /// Reads back the state of the maps. Call it after a grace period: a program that started under the
    /// previous agent may still read entries that are unreachable here.
    ///
    /// Without budgets.
    pub fn adopt(maps: M) -> Result<Self, MapError> {
        Self::adopt_with(maps, None)
    }

    /// Like `adopt`, with budgets for what is written from now on.
    pub fn adopt_with(mut maps: M, budget: Option<Budget>) -> Result<Self, MapError> {
        let capacity = maps.capacity();
        let mut ledger = Ledger::new(capacity, budget);
        let extent = maps.extent()?;
        let frontends = adopt_frontends(&mut maps, extent)?;
        let published: Vec<u32> =
            frontends.values().map(|index| maps.published(*index)).collect::<Result<_, _>>()?;
        let descriptors: Vec<Descriptor> =
            published.iter().map(|index| maps.descriptor(*index)).collect::<Result<_, _>>()?;
        let (services, orphans) = adopt_services(&mut maps, extent, &mut ledger)?;
        let mut reconciler = Self {
            services,
            frontend_ids: Ids::new(0, capacity.frontends, frontends.values().copied()),
            // Descriptor 0 means no descriptor.
            descriptor_ids: Ids::new(1, capacity.descriptors, published.iter().copied()),
            blocks: Blocks::new(capacity.slots, descriptors.iter().flat_map(owned_runs)),
            ledger,
            frontends,
            ranges: RangeSets::adopt(&maps)?,
            maps,
            retired: orphans,
            created: Vec::new(),
            incomplete: BTreeSet::new(),
            has_unused_backends: false,
            waiting: BTreeMap::new(),
            epoch: Epoch::default(),
        };
        for descriptor in &descriptors {
            reconciler.count_descriptor(descriptor, 1);
            reconciler.charge(descriptor.service, Table::Frontends, 1);
            reconciler.with_blocks(descriptor.service, |blocks, maps| blocks.adopt(maps, descriptor))?;
        }
        reconciler.maps.release();
        Ok(reconciler)
    }
}

/// The frontends whose descriptors have their keys; the others are removed.
fn adopt_frontends(maps: &mut impl LbMaps, extent: Extent) -> Result<HashMap<FrontendKey, u32>, MapError> {
    let capacity = maps.capacity();
    let mut frontends = HashMap::new();
    for (key, index) in maps.frontends()? {
        let published = maps.published(index)?;
        let descriptor = maps.descriptor(published)?;
        let is_own = descriptor.frontend == index
            && encode::frontend_key(descriptor.address, descriptor.port, descriptor.protocol) == Some(key);
        let is_sound = published < capacity.descriptors
            && owned_runs(&descriptor)
                .all(|(offset, length)| offset.saturating_add(length) <= capacity.slots);
        if is_own && is_sound {
            frontends.insert(key, index);
        } else {
            tracing::warn!(frontend = %key, id = index, "removed frontend with invalid state");
            maps.remove_frontend(key)?;
        }
    }
    clear_unreachable(maps, extent, &frontends)?;
    Ok(frontends)
}

/// Clears indices that no key references, left by an agent that died between flip and insertion, or after a
/// removal.
fn clear_unreachable(
    maps: &mut impl LbMaps,
    extent: Extent,
    frontends: &HashMap<FrontendKey, u32>,
) -> Result<(), MapError> {
    let reachable: HashSet<u32> = frontends.values().copied().collect();
    for index in 0..extent.frontends {
        if maps.published(index)? != 0 && !reachable.contains(&index) {
            maps.publish(index, 0)?;
        }
    }
    Ok(())
}

/// The service ports with a readable label, and their backends. Backends without a service port are retired.
fn adopt_services(
    maps: &mut impl LbMaps,
    extent: Extent,
    ledger: &mut Ledger,
) -> Result<(Services, Vec<Retired>), MapError> {
    let capacity = maps.capacity();
    let (mut keys, mut known, mut interner) = (HashMap::new(), HashSet::new(), Interner::default());
    for (id, name) in maps.services()? {
        match parse_label(&name).filter(|key| known.insert(key.clone())) {
            Some(key) => {
                ledger.charge(&key.service, Table::Services, 1);
                keys.insert(id, interner.intern_key(key));
            }
            None => maps.remove_service(id)?,
        }
    }
    let mut alive = PerFamily { v4: Vec::new(), v6: Vec::new() };
    for family in IpFamily::BOTH {
        for index in 0..*extent.backends.get(family) {
            if maps.backend(family, index)?.flags.contains(BackendFlags::ALIVE) {
                alive.get_mut(family).push(index);
            }
        }
    }
    let ids = |family| Ids::new(0, capacity.backends, alive.get(family).iter().copied());
    let backend_ids = PerFamily { v4: ids(IpFamily::V4), v6: ids(IpFamily::V6) };
    let mut services = Services::new(keys, capacity.services, backend_ids);
    let mut orphans = Vec::new();
    for family in IpFamily::BOTH {
        for index in alive.get(family).iter().copied() {
            let entry = maps.backend(family, index)?;
            if !services.adopt_backend(maps, ledger, family, index, &entry)? {
                orphans.push(retire_backend(maps, family, index)?);
            }
        }
    }
    Ok((services, orphans))
}
