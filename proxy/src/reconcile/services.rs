//! The service ports the kernel knows, each with its backends.
//!
//! A backend belongs to one service port: the same pod behind two of them is two backends, so that it can go from
//! one and stay in the other. The families of a service port share its number and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
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

/// What the frontends of one service port in one family ask of its backends.
pub type Wanted = BTreeMap<SocketAddr, BackendFlags>;

/// Every service port the kernel has a number for.
#[derive(Debug)]
pub struct Services {
    ports: HashMap<ServicePortKey, Port>,
    names: HashMap<u32, ServicePortKey>,
    ids: Ids,
    backend_ids: PerFamily<Ids>,
}

#[derive(Debug, Default)]
struct Port {
    id: u32,
    families: PerFamily<Family>,
}

#[derive(Debug, Default)]
struct Family {
    /// Published frontends of this service port.
    frontends: usize,
    backends: BTreeMap<SocketAddr, u32>,
}

impl Services {
    /// Nothing is in use but what `adopt` is told.
    pub fn new(ports: HashMap<u32, ServicePortKey>, services: u32, backend_ids: PerFamily<Ids>) -> Self {
        let ids = Ids::new(1, services, ports.keys().copied());
        let by_key =
            ports.iter().map(|(id, key)| (key.clone(), Port { id: *id, ..Port::default() })).collect();
        Self { ports: by_key, names: ports, ids, backend_ids }
    }

    pub fn name(&self, id: u32) -> Option<&ServicePortKey> {
        self.names.get(&id)
    }

    pub fn keys(&self) -> Vec<ServicePortKey> {
        self.ports.keys().cloned().collect()
    }

    /// The number of a service port, given now if it had none.
    pub fn ensure(&mut self, maps: &mut impl LbMaps, key: &ServicePortKey) -> Result<u32, MapError> {
        if let Some(port) = self.ports.get(key) {
            return Ok(port.id);
        }
        let full = MapError::Full { map: "SERVICES", capacity: self.ids.capacity() };
        let id = self.ids.allocate().ok_or(full)?;
        if let Err(error) = maps.insert_service(id, label(key)) {
            self.ids.free(id);
            return Err(error);
        }
        self.ports.insert(key.clone(), Port { id, ..Port::default() });
        self.names.insert(id, key.clone());
        Ok(id)
    }

    /// A frontend was published under this service port, or is no longer (`by` is 1 or -1).
    pub fn count_frontend(&mut self, id: u32, family: IpFamily, by: isize) {
        if let Some(port) = self.names.get(&id).and_then(|key| self.ports.get_mut(key)) {
            let frontends = &mut port.families.get_mut(family).frontends;
            *frontends = frontends.saturating_add_signed(by);
        }
    }

    pub fn frontends(&self, key: &ServicePortKey, family: IpFamily) -> usize {
        self.ports.get(key).map_or(0, |port| port.families.get(family).frontends)
    }

    /// Takes over a backend that a previous agent left, unless the service port has one with that address.
    pub fn adopt_backend(&mut self, family: IpFamily, index: u32, entry: &BackendEntry) -> bool {
        let Some(port) = self.names.get(&entry.service).and_then(|key| self.ports.get_mut(key)) else {
            return false;
        };
        *port.families.get_mut(family).backends.entry(entry.address).or_insert(index) == index
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
        let Some(port) = self.ports.get_mut(key) else { return Ok(()) };
        let ids = self.backend_ids.get_mut(family);
        let backends = &mut port.families.get_mut(family).backends;
        for (address, index) in backends.iter() {
            let flags = maps.backend(family, *index).flags;
            let kept = wanted.get(address).copied().unwrap_or(BackendFlags::ALIVE);
            let restricted = BackendFlags(flags.0 & kept.0);
            if is_complete && restricted != flags {
                maps.set_backend_flags(family, *index, restricted);
            }
        }
        for (address, flags) in wanted {
            if !backends.contains_key(address) {
                let full = MapError::Full { map: "BACKENDS", capacity: ids.capacity() };
                let index = ids.allocate().ok_or(full)?;
                // References start at generation 1, so that a zeroed slot means no backend.
                let generation = maps.backend(family, index).generation.max(1);
                let protocol = plan::protocol_number(key.protocol);
                maps.write_backend(
                    index,
                    &BackendEntry {
                        address: *address,
                        protocol,
                        flags: *flags,
                        service: port.id,
                        generation,
                    },
                );
                backends.insert(*address, index);
            }
        }
        Ok(())
    }

    /// The references a block holds for these backends.
    pub fn references(
        &self,
        maps: &impl LbMaps,
        key: &ServicePortKey,
        backends: &[Backend],
    ) -> Vec<BackendRef> {
        let Some(port) = self.ports.get(key) else { return Vec::new() };
        let reference = |backend: &Backend| {
            let family = IpFamily::of(backend.address.ip());
            let index = *port.families.get(family).backends.get(&backend.address)?;
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
        let Some(port) = self.ports.get_mut(key) else { return Vec::new() };
        let backends = &mut port.families.get_mut(family).backends;
        for (address, flags) in wanted {
            if let Some(index) = backends.get(address) {
                let flags = BackendFlags(flags.0 | maps.backend(family, *index).flags.0);
                maps.set_backend_flags(family, *index, flags);
            }
        }
        if !is_complete {
            return Vec::new();
        }
        let gone = backends.extract_if(.., |address, _| !wanted.contains_key(address));
        gone.map(|(_, index)| retire(maps, family, index)).collect()
    }

    /// Forgets a service port that has neither frontends nor backends.
    pub fn forget_if_unused(
        &mut self,
        maps: &mut impl LbMaps,
        key: &ServicePortKey,
    ) -> Result<Option<Retired>, MapError> {
        let is_unused = |family: &Family| family.frontends == 0 && family.backends.is_empty();
        let Some(port) = self.ports.get(key) else { return Ok(None) };
        if !is_unused(&port.families.v4) || !is_unused(&port.families.v6) {
            return Ok(None);
        }
        let id = port.id;
        maps.remove_service(id)?;
        self.names.remove(&id);
        self.ports.remove(key);
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
