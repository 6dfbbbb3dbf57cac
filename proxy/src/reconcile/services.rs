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

/// The wanted backends of a service port, as blocks refer to them.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// By address.
    of: Vec<(SocketAddr, BackendRef)>,
    /// Every backend the service port has is wanted, and may be all that it is wanted for.
    pub are_settled: bool,
}

impl References {
    pub fn of(&self, backends: impl Iterator<Item = SocketAddr>) -> Vec<BackendRef> {
        let mut references = Vec::with_capacity(backends.size_hint().0);
        references.extend(backends.filter_map(|address| self.get(address)));
        references
    }

    fn get(&self, address: SocketAddr) -> Option<BackendRef> {
        let at = self.of.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        self.of.get(at).map(|(_, reference)| *reference)
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

    fn by_number(&self, id: u32) -> Option<&Port> {
        self.ports.get(id as usize)?.as_ref()
    }

    pub fn name(&self, id: u32) -> Option<&ServicePortKey> {
        self.by_number(id).map(|port| &*port.key)
    }

    /// The service ports that have no frontend in some family.
    pub fn without_frontends(&self) -> Vec<u32> {
        // What has neither frontends nor backends in one family only is as it should be.
        let is_left = |family: &Family| family.frontends == 0 && !family.backends.is_empty();
        let lacks = |Port { families, .. }: &Port| {
            is_left(&families.v4)
                || is_left(&families.v6)
                || families.v4.is_unused() && families.v6.is_unused()
        };
        let numbered = (0..).zip(&self.ports);
        numbered.filter(|(_, port)| port.as_ref().is_some_and(lacks)).map(|(id, _)| id).collect()
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

    pub fn frontends(&self, id: u32, family: IpFamily) -> usize {
        self.by_number(id).map_or(0, |port| port.families.get(family).frontends as usize)
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
        id: u32,
        family: IpFamily,
        wanted: &Wanted,
        is_complete: bool,
    ) -> Result<References, MapError> {
        let Some(Some(port)) = self.ports.get_mut(id as usize) else { return Ok(References::default()) };
        let ids = self.backend_ids.get_mut(family);
        let backends = &mut port.families.get_mut(family).backends;
        let entry = |index: &u32| (*index, maps.backend(family, *index));
        let known: Vec<(u32, BackendEntry)> = backends.iter().map(entry).collect();
        if is_complete {
            withdraw(maps, family, &known, wanted);
        }
        let mut references = References { of: Vec::with_capacity(wanted.0.len()), are_settled: true };
        let mut all = Vec::with_capacity(wanted.0.len().max(known.len()));
        let mut known = known.into_iter().peekable();
        let mut result = Ok(());
        for (address, flags) in &wanted.0 {
            while let Some((index, _)) = known.next_if(|(_, entry)| entry.address < *address) {
                references.are_settled = false;
                all.push(index);
            }
            let reference = match known.next_if(|(_, entry)| entry.address == *address) {
                Some((index, entry)) => {
                    references.are_settled &= entry.flags.contains(*flags);
                    BackendRef { index, generation: entry.generation }
                }
                None => match ids.allocate() {
                    Some(index) => create(maps, index, &port.key, id, *address, *flags),
                    None => {
                        result = Err(MapError::Full { map: "BACKENDS", capacity: ids.capacity() });
                        break;
                    }
                },
            };
            all.push(reference.index);
            references.of.push((*address, reference));
        }
        references.are_settled &= known.peek().is_none();
        all.extend(known.map(|(index, _)| index));
        *backends = all.into();
        result.map(|()| references)
    }

    /// After the flips: permissions that were gained, and the end of what no frontend wants. `is_complete` says
    /// that `wanted` holds the wishes of every frontend the service port has; without it nothing may go.
    pub fn settle(
        &mut self,
        maps: &mut impl LbMaps,
        id: u32,
        family: IpFamily,
        wanted: &Wanted,
        is_complete: bool,
    ) -> Vec<Retired> {
        let Some(Some(port)) = self.ports.get_mut(id as usize) else { return Vec::new() };
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
    pub fn forget_if_unused(&mut self, maps: &mut impl LbMaps, id: u32) -> Result<Option<Retired>, MapError> {
        let Some(place) = self.ports.get_mut(id as usize) else { return Ok(None) };
        let is_unused = |port: &mut Port| port.families.v4.is_unused() && port.families.v6.is_unused();
        if !place.as_mut().is_some_and(is_unused) {
            return Ok(None);
        }
        maps.remove_service(id)?;
        if let Some(Port { key, .. }) = place.take() {
            self.numbers.remove(&key);
        }
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

/// Writes a backend that nobody refers to yet.
fn create(
    maps: &mut impl LbMaps,
    index: u32,
    key: &ServicePortKey,
    service: u32,
    address: SocketAddr,
    flags: BackendFlags,
) -> BackendRef {
    let family = IpFamily::of(address.ip());
    // References start at generation 1, so that a zeroed slot means no backend.
    let generation = maps.backend(family, index).generation.max(1);
    let protocol = plan::protocol_number(key.protocol);
    maps.write_backend(index, &BackendEntry { address, protocol, flags, service, generation });
    BackendRef { index, generation }
}

/// Takes from backends the permissions that they are about to lose.
fn withdraw(maps: &mut impl LbMaps, family: IpFamily, backends: &[(u32, BackendEntry)], wanted: &Wanted) {
    for (index, entry) in backends {
        let kept = wanted.get(entry.address).unwrap_or(BackendFlags::ALIVE);
        let restricted = BackendFlags(entry.flags.0 & kept.0);
        if restricted != entry.flags {
            maps.set_backend_flags(family, *index, restricted);
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
