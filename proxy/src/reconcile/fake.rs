//! The maps without a kernel: the same contract in memory, with injected failures.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::{BackendFlags, BackendRef, Block, Descriptor, ServiceName, Unclaimed};

use super::maps::{BackendEntry, Capacity, LbMaps, MapError};
use crate::model::{address::IpFamily, frontend::FrontendKey};

/// Maps in memory.
#[derive(Clone, Debug)]
pub struct FakeMaps {
    capacity: Capacity,
    frontends: BTreeMap<FrontendKey, u32>,
    services: BTreeMap<u32, ServiceName>,
    state: HashMap<u32, u32>,
    descriptors: HashMap<u32, Descriptor>,
    slots: HashMap<u32, BackendRef>,
    backends: HashMap<(IpFamily, u32), BackendEntry>,
    source_ranges: BTreeSet<(u32, IpNetwork)>,
    service_networks: BTreeMap<IpNetwork, Unclaimed>,
    /// Number of system calls that succeed before all others fail; `None`: no limit.
    pub calls_left: Option<u32>,
    /// How many parts of arrays can be mapped before mapping fails.
    pub mappings_left: Cell<Option<u32>>,
    /// Parts of arrays that are mapped: the array, and the index of the part.
    mapped: RefCell<BTreeSet<(&'static str, u32)>>,
}

/// Elements in each part of an array.
const WINDOW: u32 = 4;

impl FakeMaps {
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            frontends: BTreeMap::new(),
            services: BTreeMap::new(),
            state: HashMap::new(),
            descriptors: HashMap::new(),
            slots: HashMap::new(),
            backends: HashMap::new(),
            source_ranges: BTreeSet::new(),
            service_networks: BTreeMap::new(),
            calls_left: None,
            mappings_left: Cell::new(None),
            mapped: RefCell::default(),
        }
    }

    /// Ends all injected failures.
    pub fn stop_failing(&mut self) {
        self.calls_left = None;
        self.mappings_left.set(None);
    }

    /// Inspects the maps without failures, and without mapping anything.
    pub fn unlimited<T>(&self, inspect: impl FnOnce(&Self) -> T) -> T {
        let (left, mapped) = (self.mappings_left.take(), self.mapped.borrow().clone());
        let result = inspect(self);
        self.mappings_left.set(left);
        self.mapped.replace(mapped);
        result
    }

    fn call(&mut self, map: &'static str) -> Result<(), MapError> {
        match &mut self.calls_left {
            Some(0) => Err(MapError::Refused { action: "write to", map, source: "injected failure".into() }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Accesses an element of an array: maps its part, unless it is mapped already.
    fn access(&self, map: &'static str, index: u32) -> Result<(), MapError> {
        let part = (map, index / WINDOW);
        if self.mapped.borrow().contains(&part) {
            return Ok(());
        }
        match self.mappings_left.get() {
            Some(0) => Err(MapError::Refused { action: "map", map, source: "injected failure".into() }),
            left => {
                self.mappings_left.set(left.map(|left| left - 1));
                self.mapped.borrow_mut().insert(part);
                Ok(())
            }
        }
    }
}

/// The name of the array of backends.
fn backends(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "BACKENDS_V4",
        IpFamily::V6 => "BACKENDS_V6",
    }
}

/// An entry before its first write.
fn blank(family: IpFamily) -> BackendEntry {
    let address = match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    BackendEntry {
        address: SocketAddr::new(address, 0),
        protocol: 0,
        flags: BackendFlags::default(),
        service: 0,
        generation: 0,
    }
}

impl LbMaps for FakeMaps {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError> {
        Ok(self.frontends.iter().map(|(key, index)| (*key, *index)).collect())
    }

    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), MapError> {
        self.call("FRONTENDS")?;
        self.frontends.insert(key, index);
        Ok(())
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError> {
        self.call("FRONTENDS")?;
        self.frontends.remove(&key);
        Ok(())
    }

    fn services(&self) -> Result<Vec<(u32, ServiceName)>, MapError> {
        Ok(self.services.iter().map(|(index, name)| (*index, *name)).collect())
    }

    fn insert_service(&mut self, index: u32, name: ServiceName) -> Result<(), MapError> {
        self.call("SERVICES")?;
        self.services.insert(index, name);
        Ok(())
    }

    fn remove_service(&mut self, index: u32) -> Result<(), MapError> {
        self.call("SERVICES")?;
        self.services.remove(&index);
        Ok(())
    }

    fn published(&self, frontend: u32) -> Result<u32, MapError> {
        self.access("FRONTEND_STATE", frontend)?;
        Ok(self.state.get(&frontend).copied().unwrap_or_default())
    }

    fn publish(&mut self, frontend: u32, descriptor: u32) -> Result<(), MapError> {
        self.access("FRONTEND_STATE", frontend)?;
        self.state.insert(frontend, descriptor);
        Ok(())
    }

    fn descriptor(&self, index: u32) -> Result<Descriptor, MapError> {
        self.access("DESCRIPTORS", index)?;
        Ok(self.descriptors.get(&index).copied().unwrap_or_default())
    }

    fn write_descriptor(&mut self, index: u32, descriptor: &Descriptor) -> Result<(), MapError> {
        self.access("DESCRIPTORS", index)?;
        self.descriptors.insert(index, *descriptor);
        Ok(())
    }

    fn slots(&self, block: Block) -> Result<Vec<BackendRef>, MapError> {
        let slot = |at| {
            self.access("SLOTS", at)?;
            Ok(self.slots.get(&at).copied().unwrap_or_default())
        };
        (block.offset..block.offset + block.count).map(slot).collect()
    }

    fn write_slots(&mut self, offset: u32, slots: &[BackendRef]) -> Result<(), MapError> {
        for (at, slot) in (offset..).zip(slots) {
            self.access("SLOTS", at)?;
            self.slots.insert(at, *slot);
        }
        Ok(())
    }

    fn source_ranges(&self) -> Result<Vec<(u32, IpNetwork)>, MapError> {
        Ok(self.source_ranges.iter().copied().collect())
    }

    fn insert_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError> {
        self.call("SOURCE_RANGES")?;
        self.source_ranges.insert((set, network));
        Ok(())
    }

    fn remove_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError> {
        self.call("SOURCE_RANGES")?;
        self.source_ranges.remove(&(set, network));
        Ok(())
    }

    fn service_networks(&self) -> Result<Vec<(IpNetwork, Unclaimed)>, MapError> {
        Ok(self.service_networks.iter().map(|(network, unclaimed)| (*network, *unclaimed)).collect())
    }

    fn insert_service_network(&mut self, network: IpNetwork, unclaimed: Unclaimed) -> Result<(), MapError> {
        self.call("SERVICE_NETWORKS")?;
        self.service_networks.insert(network, unclaimed);
        Ok(())
    }

    fn remove_service_network(&mut self, network: IpNetwork) -> Result<(), MapError> {
        self.call("SERVICE_NETWORKS")?;
        self.service_networks.remove(&network);
        Ok(())
    }

    fn backend(&self, family: IpFamily, index: u32) -> Result<BackendEntry, MapError> {
        self.access(backends(family), index)?;
        Ok(self.backends.get(&(family, index)).copied().unwrap_or_else(|| blank(family)))
    }

    fn write_backend(&mut self, index: u32, entry: &BackendEntry) -> Result<(), MapError> {
        let family = IpFamily::of(entry.address.ip());
        self.access(backends(family), index)?;
        self.backends.insert((family, index), *entry);
        Ok(())
    }

    fn raise_generation(&mut self, family: IpFamily, index: u32, generation: u32) -> Result<(), MapError> {
        self.access(backends(family), index)?;
        self.backends.entry((family, index)).or_insert_with(|| blank(family)).generation = generation;
        Ok(())
    }

    fn set_backend_flags(
        &mut self,
        family: IpFamily,
        index: u32,
        flags: BackendFlags,
    ) -> Result<(), MapError> {
        self.access(backends(family), index)?;
        self.backends.entry((family, index)).or_insert_with(|| blank(family)).flags = flags;
        Ok(())
    }

    fn release(&mut self) {
        self.mapped.get_mut().clear();
    }
}
