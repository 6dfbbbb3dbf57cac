//! Taking over maps that an earlier agent left, at whatever instant it died.
//!
//! What programs can reach stays as it is and in use; everything else is free. Nothing is written but the removal of
//! what cannot be understood, of what leads nowhere, and of backends that no service port owns.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arcstr::ArcStr;
use proxy_ebpf::abi::{BackendFlags, Descriptor};

use super::{
    Epoch, Reconciler, Retired,
    ids::{Ids, Runs},
    maps::{Extent, LbMaps, MapError},
    owned_runs, plan,
    ranges::RangeSets,
    services::{Services, parse_label, retire},
};
use crate::model::{
    address::{IpFamily, PerFamily},
    frontend::FrontendKey,
    service::{ServiceKey, ServicePortKey},
};

/// Names that many service ports have in common, kept once: those of namespaces and of ports.
#[derive(Default)]
struct Repeated(HashSet<ArcStr>);

impl Repeated {
    fn share(&mut self, key: ServicePortKey) -> ServicePortKey {
        let ServicePortKey { service: ServiceKey { namespace, name }, port_name, protocol } = key;
        let service = ServiceKey { namespace: self.one(namespace), name };
        ServicePortKey { service, port_name: self.one(port_name), protocol }
    }

    fn one(&mut self, name: ArcStr) -> ArcStr {
        if let Some(known) = self.0.get(&name) {
            return known.clone();
        }
        self.0.insert(name.clone());
        name
    }
}

impl<M: LbMaps> Reconciler<M> {
    /// Reads back everything the maps hold. Call it after a grace period: what is unreachable here may still be in
    /// the hands of a program that began under the previous agent.
    pub fn adopt(mut maps: M) -> Result<Self, MapError> {
        let capacity = maps.capacity();
        let extent = maps.extent()?;
        let frontends = adopt_frontends(&mut maps, extent)?;
        let published: Vec<u32> = frontends.values().map(|index| maps.published(*index)).collect();
        let descriptors: Vec<Descriptor> = published.iter().map(|index| maps.descriptor(*index)).collect();
        let (services, orphans) = adopt_services(&mut maps, extent)?;
        let mut reconciler = Self {
            services,
            frontend_ids: Ids::new(0, capacity.frontends, frontends.values().copied()),
            // Descriptor 0 means none.
            descriptor_ids: Ids::new(1, capacity.descriptors, published.iter().copied()),
            slots: Runs::new(capacity.slots, descriptors.iter().flat_map(owned_runs)),
            frontends,
            ranges: RangeSets::adopt(&maps)?,
            maps,
            retired: orphans,
            created: Vec::new(),
            unsettled: BTreeSet::new(),
            waiting: BTreeMap::new(),
            epoch: Epoch::default(),
        };
        for descriptor in published {
            reconciler.count(descriptor, 1);
        }
        reconciler.maps.release();
        Ok(reconciler)
    }
}

/// Every frontend whose descriptor is its own; the others are taken away.
fn adopt_frontends(maps: &mut impl LbMaps, extent: Extent) -> Result<HashMap<FrontendKey, u32>, MapError> {
    let capacity = maps.capacity();
    let mut frontends = HashMap::new();
    for (key, index) in maps.frontends()? {
        let published = maps.published(index);
        let descriptor = maps.descriptor(published);
        let is_own = descriptor.frontend == index
            && plan::frontend_key(descriptor.address, descriptor.port, descriptor.protocol) == Some(key);
        let is_sound = published < capacity.descriptors
            && owned_runs(&descriptor)
                .all(|(offset, length)| offset.saturating_add(length) <= capacity.slots);
        if is_own && is_sound {
            frontends.insert(key, index);
        } else {
            tracing::warn!(frontend = %key, id = index, "frontend with a broken state removed");
            maps.remove_frontend(key)?;
        }
    }
    clear_unreachable(maps, extent, &frontends);
    Ok(frontends)
}

/// Indices that no key leads to, left by a death between the flip and the insertion, or after a removal.
fn clear_unreachable(maps: &mut impl LbMaps, extent: Extent, frontends: &HashMap<FrontendKey, u32>) {
    let reachable: HashSet<u32> = frontends.values().copied().collect();
    for index in 0..extent.frontends {
        if maps.published(index) != 0 && !reachable.contains(&index) {
            maps.publish(index, 0);
        }
    }
}

/// The service ports that have a readable label, and their backends; the backends nobody owns are on their way out.
fn adopt_services(maps: &mut impl LbMaps, extent: Extent) -> Result<(Services, Vec<Retired>), MapError> {
    let capacity = maps.capacity();
    let (mut keys, mut known, mut repeated) = (HashMap::new(), HashSet::new(), Repeated::default());
    for (id, name) in maps.services()? {
        match parse_label(&name).filter(|key| known.insert(key.clone())) {
            Some(key) => drop(keys.insert(id, repeated.share(key))),
            None => maps.remove_service(id)?,
        }
    }
    let mut alive = PerFamily { v4: Vec::new(), v6: Vec::new() };
    for family in IpFamily::BOTH {
        let is_alive = |index: &u32| maps.backend(family, *index).flags.contains(BackendFlags::ALIVE);
        *alive.get_mut(family) = (0..*extent.backends.get(family)).filter(is_alive).collect();
    }
    let ids = |family| Ids::new(0, capacity.backends, alive.get(family).iter().copied());
    let backend_ids = PerFamily { v4: ids(IpFamily::V4), v6: ids(IpFamily::V6) };
    let mut services = Services::new(keys, capacity.services, backend_ids);
    let mut orphans = Vec::new();
    for family in IpFamily::BOTH {
        for index in alive.get(family).iter().copied() {
            let entry = maps.backend(family, index);
            if !services.adopt_backend(maps, family, index, &entry) {
                orphans.push(retire(maps, family, index));
            }
        }
    }
    Ok((services, orphans))
}
