//! The service ports the kernel knows, each with its backends.
//!
//! A backend belongs to one service port: the same pod behind two of them is two backends, so that it can go from
//! one and stay in the other. The families of a service port share its number and nothing else.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use proxy_ebpf::abi::{BackendFlags, BackendRef, ServiceName};

use super::{
    Fill, Retired,
    ids::Ids,
    maps::{BackendEntry, LbMaps, MapError},
    plan,
};
use crate::model::{
    address::{IpFamily, PerFamily, Protocol},
    backend::Backend,
    service::{ServiceKey, ServicePortKey},
};

/// What the frontends of one service port in one family ask of its backends, by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted(Vec<(SocketAddr, BackendFlags)>);

impl FromIterator<(SocketAddr, BackendFlags)> for Wanted {
    /// Of a backend that is named more than once, everything that is asked counts.
    fn from_iter<I: IntoIterator<Item = (SocketAddr, BackendFlags)>>(wishes: I) -> Self {
        let mut wishes: Vec<_> = wishes.into_iter().collect();
        wishes.sort_unstable_by_key(|(address, _)| *address);
        wishes.dedup_by(|(address, flags), (kept, all)| {
            let is_same = address == kept;
            if is_same {
                *all = all.with(*flags, true);
            }
            is_same
        });
        Self(wishes)
    }
}

impl Wanted {
    fn get(&self, address: SocketAddr) -> Option<BackendFlags> {
        let at = self.0.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        self.0.get(at).map(|(_, flags)| *flags)
    }
}

/// The table of service ports grows by so many.
const ROOM: usize = 4096;

/// Every service port the kernel has a number for.
#[derive(Debug)]
pub struct Services {
    /// By number; none where a number is free.
    ports: Vec<Option<Port>>,
    numbers: HashMap<Arc<ServicePortKey>, u32>,
    ids: Ids,
    backend_ids: PerFamily<Ids>,
}

#[derive(Debug)]
struct Port {
    key: Arc<ServicePortKey>,
    families: PerFamily<Family>,
}

#[derive(Debug, Default)]
struct Family {
    /// Published frontends of this service port.
    frontends: u32,
    /// By their addresses, which only the maps hold.
    backends: Box<[u32]>,
}

impl Family {
    fn is_unused(&self) -> bool {
        self.frontends == 0 && self.backends.is_empty()
    }
}

impl Services {
    /// Nothing is in use but what `adopt` is told.
    pub fn new(ports: HashMap<u32, ServicePortKey>, services: u32, backend_ids: PerFamily<Ids>) -> Self {
        let ids = Ids::new(1, services, ports.keys().copied());
        let mut new = Self { ports: Vec::new(), numbers: HashMap::new(), ids, backend_ids };
        ports.into_iter().for_each(|(id, key)| new.place(id, key));
        new
    }

    fn place(&mut self, id: u32, key: ServicePortKey) {
        let at = id as usize;
        if self.ports.len() <= at {
            // Not twice as much each time: it is never moved often enough for that to pay.
            let room = (at + 1).next_multiple_of(ROOM) - self.ports.len();
            self.ports.reserve_exact(room);
            self.ports.resize_with(at + 1, || None);
        }
        let key = Arc::new(key);
        self.numbers.insert(key.clone(), id);
        if let Some(place) = self.ports.get_mut(at) {
            *place = Some(Port { key, families: PerFamily::default() });
        }
    }

    fn port(&self, key: &ServicePortKey) -> Option<&Port> {
        self.by_number(*self.numbers.get(key)?)
    }

    fn port_mut(&mut self, key: &ServicePortKey) -> Option<(u32, &mut Port)> {
        let id = *self.numbers.get(key)?;
        let port = self.ports.get_mut(id as usize)?.as_mut()?;
        Some((id, port))
    }

    fn by_number(&self, id: u32) -> Option<&Port> {
        self.ports.get(id as usize)?.as_ref()
    }

    pub fn name(&self, id: u32) -> Option<&ServicePortKey> {
        self.by_number(id).map(|port| &*port.key)
    }

    /// The service ports that have no frontend in some family.
    pub fn without_frontends(&self) -> Vec<Arc<ServicePortKey>> {
        let lacks =
            |port: &&Port| IpFamily::BOTH.iter().any(|family| port.families.get(*family).frontends == 0);
        self.ports.iter().flatten().filter(lacks).map(|port| port.key.clone()).collect()
    }

    /// The number of a service port that has one.
    pub fn number(&self, key: &ServicePortKey) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    /// Gives numbers to the service ports that have none. Who has none afterwards can have none: why.
    pub fn ensure<'a>(
        &mut self,
        maps: &mut impl LbMaps,
        keys: impl Iterator<Item = &'a ServicePortKey>,
    ) -> HashMap<ServicePortKey, MapError> {
        let unnumbered: HashSet<&ServicePortKey> =
            keys.filter(|key| !self.numbers.contains_key(*key)).collect();
        let mut failures = HashMap::new();
        let mut new = Vec::new();
        for key in unnumbered {
            match self.ids.allocate() {
                Some(id) => new.push((id, key)),
                None => {
                    let full = MapError::Full { map: "SERVICES", capacity: self.ids.capacity() };
                    failures.insert(key.clone(), full);
                }
            }
        }
        let mut rest = new.as_slice();
        while !rest.is_empty() {
            let labels: Vec<_> = rest.iter().map(|(id, key)| (*id, label(key))).collect();
            let inserted = maps.insert_services(&labels);
            let count = inserted.as_ref().map_or_else(|failure| failure.inserted, |()| rest.len());
            let (done, left) = rest.split_at(count.min(rest.len()));
            done.iter().for_each(|(id, key)| self.place(*id, (*key).clone()));
            rest = left;
            if let Err(failure) = inserted
                && let Some(((id, key), left)) = rest.split_first()
            {
                self.ids.free(*id);
                failures.insert((*key).clone(), failure.error);
                rest = left;
            }
        }
        failures
    }

    /// A frontend was published under this service port, or is no longer (`by` is 1 or -1).
    pub fn count_frontend(&mut self, id: u32, family: IpFamily, by: i32) {
        if let Some(Some(port)) = self.ports.get_mut(id as usize) {
            let frontends = &mut port.families.get_mut(family).frontends;
            *frontends = frontends.saturating_add_signed(by);
        }
    }

    pub fn frontends(&self, key: &ServicePortKey, family: IpFamily) -> usize {
        self.port(key).map_or(0, |port| port.families.get(family).frontends as usize)
    }

    /// Takes over a backend that a previous agent left, unless the service port has one with that address.
    pub fn adopt_backend(
        &mut self,
        maps: &impl LbMaps,
        family: IpFamily,
        index: u32,
        entry: &BackendEntry,
    ) -> bool {
        let Some(Some(port)) = self.ports.get_mut(entry.service as usize) else { return false };
        let backends = &mut port.families.get_mut(family).backends;
        let Err(place) = place_of(maps, family, backends, entry.address) else { return false };
        let mut longer = std::mem::take(backends).into_vec();
        longer.insert(place, index);
        *backends = longer.into();
        true
    }

    /// Before the flips: every wanted backend exists, and none keeps a permission that it is about to lose.
    pub fn prepare(
        &mut self,
        maps: &mut impl LbMaps,
        key: &ServicePortKey,
        family: IpFamily,
        wanted: &Wanted,
        is_complete: bool,
    ) -> Result<(), MapError> {
        let Some(id) = self.number(key) else { return Ok(()) };
        let Some(Some(port)) = self.ports.get_mut(id as usize) else { return Ok(()) };
        let ids = self.backend_ids.get_mut(family);
        let backends = &mut port.families.get_mut(family).backends;
        if is_complete {
            withdraw(maps, family, backends, wanted);
        }
        let mut all = std::mem::take(backends).into_vec();
        let mut result = Ok(());
        for (address, flags) in &wanted.0 {
            let Err(place) = place_of(maps, family, &all, *address) else { continue };
            let Some(index) = ids.allocate() else {
                result = Err(MapError::Full { map: "BACKENDS", capacity: ids.capacity() });
                break;
            };
            // References start at generation 1, so that a zeroed slot means no backend.
            let generation = maps.backend(family, index).generation.max(1);
            let protocol = plan::protocol_number(key.protocol);
            let entry = BackendEntry { address: *address, protocol, flags: *flags, service: id, generation };
            maps.write_backend(index, &entry);
            all.insert(place, index);
        }
        *backends = all.into();
        result
    }

    /// The references a block holds for these backends.
    pub fn references(
        &self,
        maps: &impl LbMaps,
        key: &ServicePortKey,
        backends: &[Backend],
    ) -> Vec<BackendRef> {
        let Some(port) = self.port(key) else { return Vec::new() };
        let reference = |backend: &Backend| {
            let family = IpFamily::of(backend.address.ip());
            let known = &port.families.get(family).backends;
            let index = *known.get(place_of(maps, family, known, backend.address).ok()?)?;
            Some(BackendRef { index, generation: maps.backend(family, index).generation })
        };
        backends.iter().filter_map(reference).collect()
    }

    /// After the flips: permissions that were gained, and the end of what no frontend wants. `is_complete` says
    /// that `wanted` holds the wishes of every frontend the service port has; without it nothing may go.
    pub fn settle(
        &mut self,
        maps: &mut impl LbMaps,
        key: &ServicePortKey,
        family: IpFamily,
        wanted: &Wanted,
        is_complete: bool,
    ) -> Vec<Retired> {
        let Some((_, port)) = self.port_mut(key) else { return Vec::new() };
        let backends = &mut port.families.get_mut(family).backends;
        let mut gone = Vec::new();
        for index in backends.iter().copied() {
            let entry = maps.backend(family, index);
            match wanted.get(entry.address) {
                Some(flags) if entry.flags.contains(flags) => {}
                Some(flags) => maps.set_backend_flags(family, index, entry.flags.with(flags, true)),
                None if is_complete => gone.push(index),
                None => {}
            }
        }
        if !gone.is_empty() {
            *backends = backends.iter().copied().filter(|index| !gone.contains(index)).collect();
        }
        gone.into_iter().map(|index| retire(maps, family, index)).collect()
    }

    /// Forgets a service port that has neither frontends nor backends.
    pub fn forget_if_unused(
        &mut self,
        maps: &mut impl LbMaps,
        key: &ServicePortKey,
    ) -> Result<Option<Retired>, MapError> {
        let Some((id, port)) = self.port_mut(key) else { return Ok(None) };
        if !port.families.v4.is_unused() || !port.families.v6.is_unused() {
            return Ok(None);
        }
        maps.remove_service(id)?;
        if let Some(place) = self.ports.get_mut(id as usize) {
            *place = None;
        }
        self.numbers.remove(key);
        Ok(Some(Retired::Service(id)))
    }

    pub fn free_backend(&mut self, family: IpFamily, index: u32) {
        self.backend_ids.get_mut(family).free(index);
    }

    pub fn free_service(&mut self, id: u32) {
        self.ids.free(id);
    }

    pub fn fill(&self) -> [Fill; 3] {
        let fill = |map, ids: &Ids| Fill { map, used: ids.used(), capacity: ids.capacity() };
        [
            fill("SERVICES", &self.ids),
            fill("BACKENDS_V4", &self.backend_ids.v4),
            fill("BACKENDS_V6", &self.backend_ids.v6),
        ]
    }
}

/// Takes from backends the permissions that they are about to lose.
fn withdraw(maps: &mut impl LbMaps, family: IpFamily, backends: &[u32], wanted: &Wanted) {
    for index in backends.iter().copied() {
        let entry = maps.backend(family, index);
        let kept = wanted.get(entry.address).unwrap_or(BackendFlags::ALIVE);
        let restricted = BackendFlags(entry.flags.0 & kept.0);
        if restricted != entry.flags {
            maps.set_backend_flags(family, index, restricted);
        }
    }
}

/// Where a backend with this address is among these, or where it would be.
fn place_of(
    maps: &impl LbMaps,
    family: IpFamily,
    backends: &[u32],
    address: SocketAddr,
) -> Result<usize, usize> {
    backends.binary_search_by_key(&address, |index| maps.backend(family, *index).address)
}

/// From here on every reference to the backend is stale; its index is free after a grace period.
pub fn retire(maps: &mut impl LbMaps, family: IpFamily, index: u32) -> Retired {
    let generation = maps.backend(family, index).generation;
    // Generation 0 is what nobody has written yet, so that a zeroed slot means no backend.
    maps.raise_generation(family, index, generation.wrapping_add(1).max(1));
    maps.set_backend_flags(family, index, BackendFlags::default());
    Retired::Backend(family, index)
}

/// `namespace/name:port/PROTOCOL`, where none of the parts can hold a separator.
pub fn label(key: &ServicePortKey) -> ServiceName {
    ServiceName::new(&format!("{}:{}/{}", key.service, key.port_name, key.protocol))
}

/// The service port a label in the maps names; none where it was cut or is not ours.
pub fn parse_label(label: &ServiceName) -> Option<ServicePortKey> {
    let (name, protocol) = label.as_str().rsplit_once('/')?;
    let (service, port_name) = name.rsplit_once(':')?;
    let (namespace, name) = service.split_once('/')?;
    let protocol: Protocol = protocol.parse().ok()?;
    Some(ServicePortKey { service: ServiceKey::new(namespace, name), port_name: port_name.into(), protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_the_service_port_they_were_made_from() {
        for (namespace, name, port_name, protocol) in [
            ("shop", "web", "http", Protocol::Tcp),
            ("a", "b", "", Protocol::Udp),
            ("a", "b", "c-d", Protocol::Sctp),
        ] {
            let key = ServicePortKey {
                service: ServiceKey::new(namespace, name),
                port_name: port_name.into(),
                protocol,
            };
            assert_eq!(parse_label(&label(&key)), Some(key));
        }
        for text in ["", "a/b", "a/b:c/ICMP", "b:c/TCP"] {
            assert_eq!(parse_label(&ServiceName::new(text)), None, "{text:?}");
        }
    }
}
