//! The service ports in the maps, each with its backends.
//!
//! A backend belongs to one service port: the same pod behind two of them is two backends, so that it can be
//! removed from one and stay in the other. The families of a service port share its id and no other state.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use proxy_ebpf::abi::{BackendFlags, BackendRef, ServiceName};

use super::{
    budget::Ledger,
    ids::Ids,
    maps::{BackendEntry, Fill, LbMaps, MapError},
    retired::Retired,
    tenant::Table,
};
use crate::model::{
    address::{IpFamily, PerFamily, Protocol},
    service::{ServiceKey, ServicePortKey},
};

/// The backends that the frontends of one service port in one family require, with their flags, sorted by
/// address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredBackends(Vec<(SocketAddr, BackendFlags)>);

impl FromIterator<(SocketAddr, BackendFlags)> for RequiredBackends {
    /// Combines the flags of a backend that occurs more than once.
    fn from_iter<I: IntoIterator<Item = (SocketAddr, BackendFlags)>>(backends: I) -> Self {
        let mut backends: Vec<_> = backends.into_iter().collect();
        backends.sort_unstable_by_key(|(address, _)| *address);
        backends.dedup_by(|(address, flags), (kept, all)| {
            let is_same = address == kept;
            if is_same {
                *all = all.with(*flags, true);
            }
            is_same
        });
        Self(backends)
    }
}

impl RequiredBackends {
    /// How many more backends there will be than are known now. Those no longer required are retired if `is_complete`.
    fn growth(&self, known: &[(u32, BackendEntry)], is_complete: bool) -> u32 {
        let kept = known.iter().filter(|(_, entry)| self.get(entry.address).is_some()).count();
        let gone = if is_complete { known.len() - kept } else { 0 };
        u32::try_from((self.0.len() - kept).saturating_sub(gone)).unwrap_or(u32::MAX)
    }

    fn get(&self, address: SocketAddr) -> Option<BackendFlags> {
        let at = self.0.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        self.0.get(at).map(|(_, flags)| *flags)
    }
}

/// The required backends of a service port as blocks reference them.
#[derive(Clone, Debug, Default)]
pub struct BackendRefs {
    /// Sorted by address.
    by_address: Vec<(SocketAddr, BackendRef)>,
    /// All backends of the service port are required, and have all flags required.
    pub are_current: bool,
}

impl BackendRefs {
    pub fn of(&self, backends: impl Iterator<Item = SocketAddr>) -> Vec<BackendRef> {
        let mut references = Vec::with_capacity(backends.size_hint().0);
        references.extend(backends.filter_map(|address| self.get(address)));
        references
    }

    fn get(&self, address: SocketAddr) -> Option<BackendRef> {
        let at = self.by_address.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        self.by_address.get(at).map(|(_, reference)| *reference)
    }
}

/// Increment by which the table of service ports grows.
const GROWTH: usize = 4096;

/// All service ports that have an id in the maps.
#[derive(Debug)]
pub struct Services {
    /// By id; `None` if the id is free.
    ports: Vec<Option<PortEntry>>,
    ids_by_key: HashMap<Arc<ServicePortKey>, u32>,
    service_ids: Ids,
    backend_ids: PerFamily<Ids>,
}

#[derive(Debug)]
struct PortEntry {
    key: Arc<ServicePortKey>,
    families: PerFamily<PortFamily>,
}

#[derive(Debug, Default)]
struct PortFamily {
    /// Number of published frontends of this service port.
    frontends: u32,
    /// Backend ids, sorted by address; only the maps hold the addresses.
    backends: Box<[u32]>,
}

impl PortFamily {
    fn is_unused(&self) -> bool {
        self.frontends == 0 && self.backends.is_empty()
    }
}

impl Services {
    /// The service ports that `adopt` found; no backend and no frontend yet.
    pub fn new(ports: HashMap<u32, ServicePortKey>, services: u32, backend_ids: PerFamily<Ids>) -> Self {
        let service_ids = Ids::new(1, services, ports.keys().copied());
        let mut new = Self { ports: Vec::new(), ids_by_key: HashMap::new(), service_ids, backend_ids };
        ports.into_iter().for_each(|(id, key)| new.register(id, key));
        new
    }

    fn register(&mut self, id: u32, key: ServicePortKey) {
        let at = id as usize;
        if self.ports.len() <= at {
            // Linear growth saves memory, and the table is reallocated rarely enough.
            let room = (at + 1).next_multiple_of(GROWTH) - self.ports.len();
            self.ports.reserve_exact(room);
            self.ports.resize_with(at + 1, || None);
        }
        let key = Arc::new(key);
        self.ids_by_key.insert(key.clone(), id);
        if let Some(entry) = self.ports.get_mut(at) {
            *entry = Some(PortEntry { key, families: PerFamily::default() });
        }
    }

    fn by_id(&self, id: u32) -> Option<&PortEntry> {
        self.ports.get(id as usize)?.as_ref()
    }

    pub fn key(&self, id: u32) -> Option<&ServicePortKey> {
        self.by_id(id).map(|port| &*port.key)
    }

    /// The service ports without a frontend in some family, though they have backends there, and those
    /// without any.
    pub fn without_frontends(&self) -> Vec<u32> {
        // A service port may have neither frontends nor backends in one of the families.
        let has_leftovers = |family: &PortFamily| family.frontends == 0 && !family.backends.is_empty();
        let lacks = |PortEntry { families, .. }: &PortEntry| {
            has_leftovers(&families.v4)
                || has_leftovers(&families.v6)
                || families.v4.is_unused() && families.v6.is_unused()
        };
        let by_id = (0..).zip(&self.ports);
        by_id.filter(|(_, port)| port.as_ref().is_some_and(lacks)).map(|(id, _)| id).collect()
    }

    /// Returns `None` if the service port has no id.
    pub fn id(&self, key: &ServicePortKey) -> Option<u32> {
        self.ids_by_key.get(key).copied()
    }

    /// Allocates ids for the service ports that have none. Returns those for which that failed, with the
    /// error.
    pub fn ensure_ids<'a>(
        &mut self,
        maps: &mut impl LbMaps,
        ledger: &mut Ledger,
        keys: impl Iterator<Item = &'a ServicePortKey>,
    ) -> HashMap<ServicePortKey, Arc<MapError>> {
        let mut seen = HashSet::new();
        let without_id: Vec<&ServicePortKey> =
            keys.filter(|key| !self.ids_by_key.contains_key(*key) && seen.insert(*key)).collect();
        let mut failures = HashMap::new();
        let mut new = Vec::new();
        for key in without_id {
            match self.allocate_id(ledger, &key.service) {
                Ok(id) => new.push((id, key)),
                Err(error) => _ = failures.insert(key.clone(), Arc::new(error)),
            }
        }
        let mut rest = new.as_slice();
        while !rest.is_empty() {
            let labels: Vec<_> = rest.iter().map(|(id, key)| (*id, label(key))).collect();
            let inserted = maps.insert_services(&labels);
            let count = inserted.as_ref().map_or_else(|failure| failure.inserted, |()| rest.len());
            let (done, left) = rest.split_at(count.min(rest.len()));
            done.iter().for_each(|(id, key)| self.register(*id, (*key).clone()));
            rest = left;
            if let Err(failure) = inserted
                && let Some(((id, key), left)) = rest.split_first()
            {
                self.service_ids.free(*id);
                ledger.charge(&key.service, Table::Services, -1);
                failures.insert((*key).clone(), Arc::new(failure.error));
                rest = left;
            }
        }
        failures
    }

    fn allocate_id(&mut self, ledger: &mut Ledger, service: &ServiceKey) -> Result<u32, MapError> {
        ledger.check(service, Table::Services, 1)?;
        let full = MapError::Full { map: "SERVICES", capacity: self.service_ids.capacity() };
        let id = self.service_ids.allocate().ok_or(full)?;
        ledger.charge(service, Table::Services, 1);
        Ok(id)
    }

    /// Counts a frontend that was published under this service port (`by` is 1), or is no longer (-1).
    pub fn count_frontend(&mut self, id: u32, family: IpFamily, by: i32) {
        if let Some(Some(port)) = self.ports.get_mut(id as usize) {
            let frontends = &mut port.families.get_mut(family).frontends;
            *frontends = frontends.saturating_add_signed(by);
        }
    }

    pub fn frontend_count(&self, id: u32, family: IpFamily) -> usize {
        self.by_id(id).map_or(0, |port| port.families.get(family).frontends as usize)
    }

    /// Adopts a backend of a previous agent. Returns `false` if the service port is unknown, or has a backend
    /// with that address already.
    pub fn adopt_backend(
        &mut self,
        maps: &impl LbMaps,
        ledger: &mut Ledger,
        family: IpFamily,
        index: u32,
        entry: &BackendEntry,
    ) -> Result<bool, MapError> {
        let Some(Some(port)) = self.ports.get_mut(entry.service as usize) else { return Ok(false) };
        let backends = &mut port.families.get_mut(family).backends;
        let Err(position) = position_of(maps, family, backends, entry.address)? else { return Ok(false) };
        let mut longer = std::mem::take(backends).into_vec();
        longer.insert(position, index);
        *backends = longer.into();
        ledger.charge(&port.key.service, Table::backends(family), 1);
        Ok(true)
    }

    /// Before the flips: creates the required backends, and clears flags that a backend is about to lose, so
    /// that no program reuses a remembered choice that the new state forbids.
    pub fn prepare(
        &mut self,
        (maps, ledger): (&mut impl LbMaps, &mut Ledger),
        id: u32,
        family: IpFamily,
        required: &RequiredBackends,
        is_complete: bool,
    ) -> Result<BackendRefs, MapError> {
        let Some(Some(port)) = self.ports.get_mut(id as usize) else { return Ok(BackendRefs::default()) };
        let ids = self.backend_ids.get_mut(family);
        let backends = &mut port.families.get_mut(family).backends;
        let entry = |index: &u32| Ok((*index, maps.backend(family, *index)?));
        let known: Vec<(u32, BackendEntry)> = backends.iter().map(entry).collect::<Result<_, MapError>>()?;
        let (service, table) = (&port.key.service, Table::backends(family));
        ledger.check(service, table, required.growth(&known, is_complete))?;
        if is_complete {
            clear_flags(maps, family, &known, required)?;
        }
        let before = known.len();
        let mut references =
            BackendRefs { by_address: Vec::with_capacity(required.0.len()), are_current: true };
        let mut all = Vec::with_capacity(required.0.len().max(known.len()));
        let mut known = known.into_iter().peekable();
        let mut result = Ok(());
        for (address, flags) in &required.0 {
            while let Some((index, _)) = known.next_if(|(_, entry)| entry.address < *address) {
                references.are_current = false;
                all.push(index);
            }
            let reference = match known.next_if(|(_, entry)| entry.address == *address) {
                Some((index, entry)) => {
                    references.are_current &= entry.flags.contains(*flags);
                    BackendRef { index, generation: entry.generation }
                }
                None => match create_backend(maps, ids, &port.key, id, *address, *flags) {
                    Ok(reference) => reference,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                },
            };
            all.push(reference.index);
            references.by_address.push((*address, reference));
        }
        references.are_current &= known.peek().is_none();
        all.extend(known.map(|(index, _)| index));
        ledger.charge(service, table, all.len() as i64 - before as i64);
        *backends = all.into();
        result.map(|()| references)
    }

    /// After the flips: sets flags that a backend gained, and retires backends that no frontend requires. The
    /// latter only if
    /// `is_complete`: `required` covers all frontends of the service port.
    pub fn update_backends(
        &mut self,
        (maps, ledger): (&mut impl LbMaps, &mut Ledger),
        id: u32,
        family: IpFamily,
        required: &RequiredBackends,
        is_complete: bool,
    ) -> Result<Vec<Retired>, MapError> {
        let Some(Some(port)) = self.ports.get_mut(id as usize) else { return Ok(Vec::new()) };
        let backends = &mut port.families.get_mut(family).backends;
        let mut gone = HashSet::new();
        for index in backends.iter().copied() {
            let entry = maps.backend(family, index)?;
            match required.get(entry.address) {
                Some(flags) if entry.flags.contains(flags) => {}
                Some(flags) => maps.set_backend_flags(family, index, entry.flags.with(flags, true))?,
                None if is_complete => _ = gone.insert(index),
                None => {}
            }
        }
        // After an error the service port keeps all of them, to be retired again.
        let retired =
            gone.iter().map(|index| retire_backend(maps, family, *index)).collect::<Result<_, _>>()?;
        if !gone.is_empty() {
            *backends = backends.iter().copied().filter(|index| !gone.contains(index)).collect();
            ledger.charge(&port.key.service, Table::backends(family), -(gone.len() as i64));
        }
        Ok(retired)
    }

    /// Removes a service port that has neither frontends nor backends.
    pub fn remove_if_unused(
        &mut self,
        maps: &mut impl LbMaps,
        ledger: &mut Ledger,
        id: u32,
    ) -> Result<Option<Retired>, MapError> {
        let Some(entry) = self.ports.get_mut(id as usize) else { return Ok(None) };
        let is_unused = |port: &mut PortEntry| port.families.v4.is_unused() && port.families.v6.is_unused();
        if !entry.as_mut().is_some_and(is_unused) {
            return Ok(None);
        }
        maps.remove_service(id)?;
        if let Some(PortEntry { key, .. }) = entry.take() {
            self.ids_by_key.remove(&key);
            ledger.charge(&key.service, Table::Services, -1);
        }
        Ok(Some(Retired::Service(id)))
    }

    pub fn free_backend(&mut self, family: IpFamily, index: u32) {
        self.backend_ids.get_mut(family).free(index);
    }

    pub fn free_service(&mut self, id: u32) {
        self.service_ids.free(id);
    }

    pub fn fill(&self) -> [Fill; 3] {
        let fill = |map, ids: &Ids| Fill { map, used: ids.used(), capacity: ids.capacity() };
        [
            fill("SERVICES", &self.service_ids),
            fill("BACKENDS_V4", &self.backend_ids.v4),
            fill("BACKENDS_V6", &self.backend_ids.v6),
        ]
    }
}

/// Writes a backend that is not referenced yet.
fn create_backend(
    maps: &mut impl LbMaps,
    ids: &mut Ids,
    key: &ServicePortKey,
    service: u32,
    address: SocketAddr,
    flags: BackendFlags,
) -> Result<BackendRef, MapError> {
    let family = IpFamily::of(address.ip());
    let full = MapError::Full { map: "BACKENDS", capacity: ids.capacity() };
    let index = ids.allocate().ok_or(full)?;
    let written = maps.backend(family, index).and_then(|entry| {
        // Generations in use start at 1, so that a zeroed slot references no backend.
        let generation = entry.generation.max(1);
        let protocol = key.protocol.number();
        maps.write_backend(index, &BackendEntry { address, protocol, flags, service, generation })?;
        Ok(BackendRef { index, generation })
    });
    written.inspect_err(|_| ids.free(index))
}

/// Clears the flags that backends are about to lose.
fn clear_flags(
    maps: &mut impl LbMaps,
    family: IpFamily,
    backends: &[(u32, BackendEntry)],
    required: &RequiredBackends,
) -> Result<(), MapError> {
    for (index, entry) in backends {
        let kept = required.get(entry.address).unwrap_or(BackendFlags::ALIVE);
        let restricted = BackendFlags(entry.flags.0 & kept.0);
        if restricted != entry.flags {
            maps.set_backend_flags(family, *index, restricted)?;
        }
    }
    Ok(())
}

/// The position of the backend with this address, or `Err` with the position at which it would be.
fn position_of(
    maps: &impl LbMaps,
    family: IpFamily,
    backends: &[u32],
    address: SocketAddr,
) -> Result<Result<usize, usize>, MapError> {
    // Adoption has read all of them, so an error here would have ended it.
    let (mut low, mut high) = (0, backends.len());
    while let Some(index) = backends.get(low..high).and_then(|range| range.get(range.len() / 2)) {
        let middle = low + (high - low) / 2;
        match maps.backend(family, *index)?.address.cmp(&address) {
            Ordering::Less => low = middle + 1,
            Ordering::Equal => return Ok(Ok(middle)),
            Ordering::Greater => high = middle,
        }
    }
    Ok(Err(low))
}

/// Makes every reference to the backend stale; its index is free after a grace period.
pub fn retire_backend(maps: &mut impl LbMaps, family: IpFamily, index: u32) -> Result<Retired, MapError> {
    let generation = maps.backend(family, index)?.generation;
    // Generation 0 is that of an entry never written, so that a zeroed slot references no backend.
    maps.raise_generation(family, index, generation.wrapping_add(1).max(1))?;
    maps.set_backend_flags(family, index, BackendFlags::default())?;
    Ok(Retired::Backend(family, index))
}

/// The label `namespace/name:port/PROTOCOL`. None of the parts can contain a separator.
pub fn label(key: &ServicePortKey) -> ServiceName {
    ServiceName::new(&format!("{}:{}/{}", key.service, key.port_name, key.protocol))
}

/// The service port of a label in the maps. Returns `None` if the label was truncated or has another format.
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
    fn labels_parse_to_the_service_port_they_were_made_from() {
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
