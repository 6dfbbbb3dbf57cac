//! The reconciler's maps on pinned eBPF maps.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::{
    Pod,
    maps::{HashMap, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use ipnetwork::IpNetwork;
use proxy_ebpf::abi::{
    AffinityEntry, AffinityKey, BackendConnections, BackendFlags, BackendRef, BackendV4, BackendV6, Block,
    Descriptor, FrontendKeyV4, FrontendKeyV6, NodeAddressFlags, ServiceConnections, ServiceName,
    ServiceStats, Unclaimed, XdpOutcome, map, unmapped,
};

use super::{
    batch::{BatchMap, Stopped},
    connections::Connections,
    health::Health,
    mmap_array::{Access, MmapArray},
    networks::{NetworkKey, PodRanges, ServiceNetworks, SourceRanges, network_key},
    open::{
        OpenError, absent_is_fine, batch, hash, is_full, lru_hash, mapped, per_cpu, refused, unmapped_array,
    },
};
use crate::{
    model::{
        address::{IpFamily, PerFamily},
        frontend::FrontendKey,
        health::Suspicion,
    },
    reconcile::{
        BackendEntry, BatchError, Capacity, Extent, LbMaps, MapError, frontend_key, one_by_one, wire_address,
    },
};

/// The maps of one pin directory.
pub struct KernelMaps {
    frontends_v4: HashMap<MapData, FrontendKeyV4, u32>,
    frontends_v6: HashMap<MapData, FrontendKeyV6, u32>,
    services: HashMap<MapData, u32, ServiceName>,
    service_stats: PerCpuArray<MapData, ServiceStats>,
    connections: Connections,
    health: Health,
    drops: PerCpuArray<MapData, u64>,
    xdp: PerCpuArray<MapData, u64>,
    affinity_v4: HashMap<MapData, AffinityKey, AffinityEntry>,
    affinity_v6: HashMap<MapData, AffinityKey, AffinityEntry>,
    new_affinity_v4: HashMap<MapData, AffinityKey, AffinityEntry>,
    new_affinity_v6: HashMap<MapData, AffinityKey, AffinityEntry>,
    node_addresses_v4: HashMap<MapData, [u8; 4], NodeAddressFlags>,
    node_addresses_v6: HashMap<MapData, [u8; 16], NodeAddressFlags>,
    pod_ranges: PodRanges,
    source_ranges: SourceRanges,
    service_networks: ServiceNetworks,
    state: MmapArray<u64>,
    descriptors: MmapArray<Descriptor>,
    slots: MmapArray<BackendRef>,
    backends_v4: MmapArray<BackendV4>,
    backends_v6: MmapArray<BackendV6>,
    capacity: Capacity,
    batches: Batches,
    cpus: usize,
}

/// The maps with batched writes.
struct Batches {
    frontends_v4: BatchMap,
    frontends_v6: BatchMap,
    services: BatchMap,
    service_stats: BatchMap,
    service_networks_v4: BatchMap,
    service_networks_v6: BatchMap,
}

impl KernelMaps {
    /// Opens the maps of a directory for writing, which requires the lock on the pin directory.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let mut maps = Self::with_access(dir, Access::Write)?;
        maps.adopt_connections().map_err(|error| OpenError::Adopt(error.into()))?;
        Ok(maps)
    }

    /// Lets the counters belong to the present backends: an earlier agent may have had none, or have died before it wrote them.
    fn adopt_connections(&mut self) -> Result<(), MapError> {
        let extent = self.extent()?.backends;
        for family in IpFamily::BOTH {
            for index in 0..*extent.get(family) {
                let entry = self.backend(family, index)?;
                if entry.flags.contains(BackendFlags::ALIVE) {
                    self.connections.adopt_backend(family, index, entry.generation)?;
                }
            }
        }
        self.release();
        Ok(())
    }

    /// Opens the maps read-only.
    pub fn inspect(dir: &Path) -> Result<Self, OpenError> {
        Self::with_access(dir, Access::Read)
    }

    fn with_access(dir: &Path, access: Access) -> Result<Self, OpenError> {
        let state = mapped(dir, map::FRONTEND_STATE, access)?;
        let descriptors = mapped(dir, map::DESCRIPTORS, access)?;
        let slots = mapped(dir, map::SLOTS, access)?;
        let backends_v4 = mapped::<BackendV4>(dir, map::BACKENDS_V4, access)?;
        let backends_v6 = mapped::<BackendV6>(dir, map::BACKENDS_V6, access)?;
        let services = hash(dir, map::SERVICES)?;
        let service_stats = per_cpu(dir, map::SERVICE_STATS)?;
        let source_ranges = SourceRanges::open_ranges(dir)?;
        let capacity = Capacity {
            frontends: state.capacity(),
            descriptors: descriptors.capacity(),
            slots: slots.capacity(),
            backends: backends_v4.capacity().min(backends_v6.capacity()),
            services: service_stats.len(),
            source_ranges: source_ranges.capacity(),
        };
        Ok(Self {
            frontends_v4: hash(dir, map::FRONTENDS_V4)?,
            frontends_v6: hash(dir, map::FRONTENDS_V6)?,
            services,
            service_stats,
            connections: Connections::open(dir, access)?,
            health: Health::open(dir)?,
            drops: per_cpu(dir, map::DROPS)?,
            xdp: per_cpu(dir, map::XDP_OUTCOMES)?,
            affinity_v4: lru_hash(dir, map::AFFINITY_V4)?,
            affinity_v6: lru_hash(dir, map::AFFINITY_V6)?,
            new_affinity_v4: lru_hash(dir, map::NEW_AFFINITY_V4)?,
            new_affinity_v6: lru_hash(dir, map::NEW_AFFINITY_V6)?,
            node_addresses_v4: hash(dir, map::NODE_ADDRESSES_V4)?,
            node_addresses_v6: hash(dir, map::NODE_ADDRESSES_V6)?,
            pod_ranges: PodRanges::open(dir, access)?,
            source_ranges,
            service_networks: ServiceNetworks::open_networks(dir)?,
            state,
            descriptors,
            slots,
            backends_v4,
            backends_v6,
            capacity,
            batches: Batches {
                frontends_v4: batch(dir, map::FRONTENDS_V4)?,
                frontends_v6: batch(dir, map::FRONTENDS_V6)?,
                services: batch(dir, map::SERVICES)?,
                service_stats: batch(dir, map::SERVICE_STATS)?,
                service_networks_v4: batch(dir, map::SERVICE_NETWORKS_V4)?,
                service_networks_v6: batch(dir, map::SERVICE_NETWORKS_V6)?,
            },
            cpus: nr_cpus().map_err(|(_, error)| OpenError::Cpus(error))?,
        })
    }

    /// Writes exactly these as the node's addresses; the value tells whether an address serves NodePorts.
    pub fn set_node_addresses(&mut self, addresses: &BTreeMap<IpAddr, bool>) -> Result<(), MapError> {
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        for (address, serves) in addresses {
            let flags = NodeAddressFlags::default()
                .with(NodeAddressFlags::NODE_PORTS, *serves)
                .with(NodeAddressFlags::HOST_NETNS_ONLY, address.is_loopback());
            match address {
                IpAddr::V4(ip) => drop(v4.insert(ip.octets(), flags)),
                IpAddr::V6(ip) => drop(v6.insert(ip.octets(), flags)),
            }
        }
        set_addresses(&mut self.node_addresses_v4, map::NODE_ADDRESSES_V4, &v4)?;
        set_addresses(&mut self.node_addresses_v6, map::NODE_ADDRESSES_V6, &v6)
    }

    /// The addresses of this node that serve NodePorts.
    pub fn node_port_addresses(&self) -> Result<Vec<IpAddr>, MapError> {
        let all = self.node_addresses()?.into_iter();
        Ok(all.filter_map(|(address, serves_node_ports)| serves_node_ports.then_some(address)).collect())
    }

    /// All addresses of this node, and whether each serves NodePorts.
    pub fn node_addresses(&self) -> Result<BTreeMap<IpAddr, bool>, MapError> {
        let v4 = known_addresses(&self.node_addresses_v4, map::NODE_ADDRESSES_V4)?;
        let v6 = known_addresses(&self.node_addresses_v6, map::NODE_ADDRESSES_V6)?;
        Ok(v4.chain(v6).collect())
    }

    /// Writes the ranges of pods' source addresses.
    pub fn set_pod_ranges(&mut self, ranges: &PerFamily<Option<IpNetwork>>) -> Result<(), MapError> {
        self.pod_ranges.set(ranges)
    }

    /// The counters of a service port, summed over all CPUs.
    pub fn service_stats(&self, service: u32) -> Result<ServiceStats, MapError> {
        let values = self.service_stats.get(&service, 0).map_err(refused("read", map::SERVICE_STATS))?;
        Ok(values.iter().fold(ServiceStats::default(), |sum, cpu| ServiceStats {
            translated: sum.translated.wrapping_add(cpu.translated),
            refused: sum.refused.wrapping_add(cpu.refused),
        }))
    }

    /// The connections of sockets to a service port.
    pub fn service_connections(&self, service: u32) -> Result<ServiceConnections, MapError> {
        self.connections.of_service(service)
    }

    /// The connections of sockets to a backend. Those of another generation of its index are not its own.
    pub fn backend_connections(
        &self,
        family: IpFamily,
        reference: BackendRef,
    ) -> Result<BackendConnections, MapError> {
        self.connections.of_backend(family, reference)
    }

    /// The suspicion of a backend, if connections have found a fault of it.
    pub fn backend_health(
        &self,
        family: IpFamily,
        reference: BackendRef,
    ) -> Result<Option<Suspicion>, MapError> {
        self.health.of_backend(family, reference)
    }

    /// Whether some backend may be suspected now.
    pub fn is_any_suspected(&self) -> Result<bool, MapError> {
        self.health.is_current()
    }

    /// The number of changes of backends' health, by the index in `HealthChange`.
    pub fn health_changes(&self, at: u32) -> Result<u64, MapError> {
        self.health.changes(at)
    }

    /// The drop counter of a reason.
    pub fn drops(&self, reason: u32) -> Result<u64, MapError> {
        let values = self.drops.get(&reason, 0).map_err(refused("read", map::DROPS))?;
        Ok(values.iter().fold(0, |sum, cpu| sum.wrapping_add(*cpu)))
    }

    /// The number of packets with an XDP outcome.
    pub fn xdp_outcomes(&self, outcome: XdpOutcome) -> Result<u64, MapError> {
        let values = self.xdp.get(&(outcome as u32), 0).map_err(refused("read", map::XDP_OUTCOMES))?;
        Ok(values.iter().fold(0, |sum, cpu| sum.wrapping_add(*cpu)))
    }

    /// All affinity entries of one family, including expired ones. Of a client with two, the one that
    /// applies.
    pub fn affinity(&self, family: IpFamily) -> Result<Vec<(AffinityKey, AffinityEntry)>, MapError> {
        let tables = match family {
            IpFamily::V4 => {
                [(&self.new_affinity_v4, map::NEW_AFFINITY_V4), (&self.affinity_v4, map::AFFINITY_V4)]
            }
            IpFamily::V6 => {
                [(&self.new_affinity_v6, map::NEW_AFFINITY_V6), (&self.affinity_v6, map::AFFINITY_V6)]
            }
        };
        // Iteration restarts if its current key was evicted, so it may return an entry twice, and would not
        // end while programs evict faster than it reads.
        let most = 2 * map::MAX_AFFINITY as usize;
        let mut found = std::collections::HashMap::new();
        for (table, name) in tables {
            for entry in table.iter().take(most) {
                let (key, entry) = entry.map_err(refused("read", name))?;
                found.insert(key, entry);
            }
        }
        Ok(found.into_iter().collect())
    }
}

impl LbMaps for KernelMaps {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn extent(&self) -> Result<Extent, MapError> {
        let is_alive = |flags: BackendFlags| flags.contains(BackendFlags::ALIVE);
        let (v4, v6) = (&self.backends_v4, &self.backends_v6);
        Ok(Extent {
            frontends: self.state.extent(|word| *word != 0).map_err(unmapped_array(map::FRONTEND_STATE))?,
            backends: PerFamily {
                v4: v4.extent(|entry| is_alive(entry.flags)).map_err(unmapped_array(map::BACKENDS_V4))?,
                v6: v6.extent(|entry| is_alive(entry.flags)).map_err(unmapped_array(map::BACKENDS_V6))?,
            },
        })
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError> {
        let mut found = Vec::new();
        for entry in self.frontends_v4.iter() {
            let (key, index) = entry.map_err(refused("read", map::FRONTENDS_V4))?;
            let address = proxy_ebpf::abi::mapped(key.address);
            found.extend(frontend_key(address, key.port, key.protocol).map(|key| (key, index)));
        }
        for entry in self.frontends_v6.iter() {
            let (key, index) = entry.map_err(refused("read", map::FRONTENDS_V6))?;
            found.extend(frontend_key(key.address, key.port, key.protocol).map(|key| (key, index)));
        }
        Ok(found)
    }

    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), MapError> {
        match wire_key(key) {
            WireKey::V4(key) => {
                self.frontends_v4.insert(key, index, 0).map_err(refused("write", map::FRONTENDS_V4))
            }
            WireKey::V6(key) => {
                self.frontends_v6.insert(key, index, 0).map_err(refused("write", map::FRONTENDS_V6))
            }
        }
    }

    fn insert_frontends(&mut self, entries: &[(FrontendKey, u32)]) -> Result<(), BatchError> {
        let (mut inserted, capacity) = (0, self.capacity.frontends);
        for run in entries.chunk_by(|(a, _), (b, _)| a.address.family() == b.address.family()) {
            let result = match self.insert_run(run) {
                Err((stopped, _)) if stopped.is_unsupported() => {
                    one_by_one(run, |(key, index)| self.insert_frontend(*key, *index))
                }
                result => result.map_err(|(stopped, map)| batch_error(stopped, map, capacity)),
            };
            result.map_err(|failure| BatchError { inserted: inserted + failure.inserted, ..failure })?;
            inserted += run.len();
        }
        Ok(())
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError> {
        match wire_key(key) {
            WireKey::V4(key) => absent_is_fine(self.frontends_v4.remove(&key), map::FRONTENDS_V4),
            WireKey::V6(key) => absent_is_fine(self.frontends_v6.remove(&key), map::FRONTENDS_V6),
        }
    }

    fn services(&self) -> Result<Vec<(u32, ServiceName)>, MapError> {
        self.services.iter().map(|entry| entry.map_err(refused("read", map::SERVICES))).collect()
    }

    fn insert_service(&mut self, index: u32, name: ServiceName) -> Result<(), MapError> {
        // The counters belong to the previous owner of this id.
        let zeroes = PerCpuValues::try_from(vec![ServiceStats::default(); self.cpus])
            .map_err(|error| refused("write", map::SERVICE_STATS)(error.into()))?;
        self.service_stats.set(index, zeroes, 0).map_err(refused("write", map::SERVICE_STATS))?;
        self.connections.clear_services(&[index])?;
        self.services.insert(index, name, 0).map_err(refused("write", map::SERVICES))
    }

    fn insert_services(&mut self, entries: &[(u32, ServiceName)]) -> Result<(), BatchError> {
        let (indices, names): (Vec<u32>, Vec<ServiceName>) = entries.iter().copied().unzip();
        self.connections.clear_services(&indices).map_err(|error| BatchError { inserted: 0, error })?;
        let zeroes = vec![ServiceStats::default(); indices.len() * self.cpus];
        // The counters belong to the previous owners of these ids.
        let cleared = self.batches.service_stats.write(&indices, &zeroes);
        let cleared = cleared.map_err(|stopped| Stopped { written: 0, ..stopped });
        let written = cleared.and_then(|()| self.batches.services.write(&indices, &names));
        match written {
            Err(stopped) if stopped.is_unsupported() => {
                one_by_one(entries, |(index, name)| self.insert_service(*index, *name))
            }
            written => written.map_err(|stopped| batch_error(stopped, map::SERVICES, self.capacity.services)),
        }
    }

    fn remove_service(&mut self, index: u32) -> Result<(), MapError> {
        absent_is_fine(self.services.remove(&index), map::SERVICES)
    }

    fn published(&self, frontend: u32) -> Result<u32, MapError> {
        let state = self.state.read(frontend).map_err(unmapped_array(map::FRONTEND_STATE))?;
        Ok(state.unwrap_or_default() as u32)
    }

    fn publish(&mut self, frontend: u32, descriptor: u32) -> Result<(), MapError> {
        self.state.publish(frontend, descriptor.into()).map_err(unmapped_array(map::FRONTEND_STATE))
    }

    fn descriptor(&self, index: u32) -> Result<Descriptor, MapError> {
        let descriptor = self.descriptors.read(index).map_err(unmapped_array(map::DESCRIPTORS))?;
        Ok(descriptor.unwrap_or_default())
    }

    fn write_descriptor(&mut self, index: u32, descriptor: &Descriptor) -> Result<(), MapError> {
        self.descriptors.write(index, *descriptor).map_err(unmapped_array(map::DESCRIPTORS))
    }

    fn slots(&self, block: Block) -> Result<Vec<BackendRef>, MapError> {
        let slots = (block.offset..block.offset.saturating_add(block.count)).map(|at| self.slots.read(at));
        slots.map_while(Result::transpose).collect::<Result<_, _>>().map_err(unmapped_array(map::SLOTS))
    }

    fn write_slots(&mut self, offset: u32, slots: &[BackendRef]) -> Result<(), MapError> {
        for (at, slot) in (offset..).zip(slots) {
            self.slots.write(at, *slot).map_err(unmapped_array(map::SLOTS))?;
        }
        Ok(())
    }

    fn source_ranges(&self) -> Result<Vec<(u32, IpNetwork)>, MapError> {
        self.source_ranges.all()
    }

    fn insert_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError> {
        self.source_ranges.insert(set, network)
    }

    fn remove_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError> {
        self.source_ranges.remove(set, network)
    }

    fn service_networks(&self) -> Result<Vec<(IpNetwork, Unclaimed)>, MapError> {
        self.service_networks.all()
    }

    fn insert_service_network(&mut self, network: IpNetwork, unclaimed: Unclaimed) -> Result<(), MapError> {
        self.service_networks.insert(network, unclaimed)
    }

    fn insert_service_networks(&mut self, entries: &[(IpNetwork, Unclaimed)]) -> Result<(), BatchError> {
        let (mut inserted, capacity) = (0, self.service_networks.capacity());
        for run in entries.chunk_by(|(a, _), (b, _)| a.is_ipv4() == b.is_ipv4()) {
            let result = match self.insert_networks_run(run) {
                Err((stopped, _)) if stopped.is_unsupported() => {
                    one_by_one(run, |(network, unclaimed)| self.insert_service_network(*network, *unclaimed))
                }
                result => result.map_err(|(stopped, map)| batch_error(stopped, map, capacity)),
            };
            result.map_err(|failure| BatchError { inserted: inserted + failure.inserted, ..failure })?;
            inserted += run.len();
        }
        Ok(())
    }

    fn remove_service_network(&mut self, network: IpNetwork) -> Result<(), MapError> {
        self.service_networks.remove(network)
    }

    fn backend(&self, family: IpFamily, index: u32) -> Result<BackendEntry, MapError> {
        let entry = match family {
            IpFamily::V4 => self.backends_v4.read(index).map(|entry| entry_v4(entry.unwrap_or_default())),
            IpFamily::V6 => self.backends_v6.read(index).map(|entry| entry_v6(entry.unwrap_or_default())),
        };
        entry.map_err(unmapped_array(backends(family)))
    }

    fn write_backend(&mut self, index: u32, entry: &BackendEntry) -> Result<(), MapError> {
        let BackendEntry { address, protocol, flags, service, generation } = *entry;
        self.connections.clear_backend(IpFamily::of(address.ip()), index, generation)?;
        let port = address.port().to_be_bytes();
        let written = match address.ip() {
            IpAddr::V4(ip) => {
                let address = ip.octets();
                let entry = BackendV4 { address, port, protocol, flags, service, generation };
                self.backends_v4.write(index, entry)
            }
            IpAddr::V6(ip) => {
                let address = ip.octets();
                let entry = BackendV6 { address, port, protocol, flags, service, generation };
                self.backends_v6.write(index, entry)
            }
        };
        written.map_err(unmapped_array(backends(IpFamily::of(address.ip()))))
    }

    fn raise_generation(&mut self, family: IpFamily, index: u32, generation: u32) -> Result<(), MapError> {
        let stored = match family {
            IpFamily::V4 => self.backends_v4.store_u32(index, offset_of!(BackendV4, generation), generation),
            IpFamily::V6 => self.backends_v6.store_u32(index, offset_of!(BackendV6, generation), generation),
        };
        stored.map_err(unmapped_array(backends(family)))?;
        // From now on no socket counts for it; its counters are cleared a grace period later, with the next backend.
        self.connections.raise_generation(family, index, generation)
    }

    fn set_backend_flags(
        &mut self,
        family: IpFamily,
        index: u32,
        flags: BackendFlags,
    ) -> Result<(), MapError> {
        let stored = match family {
            IpFamily::V4 => self.backends_v4.store_u8(index, offset_of!(BackendV4, flags), flags.0),
            IpFamily::V6 => self.backends_v6.store_u8(index, offset_of!(BackendV6, flags), flags.0),
        };
        stored.map_err(unmapped_array(backends(family)))
    }

    fn release(&mut self) {
        self.state.release();
        self.descriptors.release();
        self.slots.release();
        self.backends_v4.release();
        self.backends_v6.release();
        self.connections.release();
        self.health.release();
    }
}

impl KernelMaps {
    /// Frontends of one family.
    fn insert_run(&self, run: &[(FrontendKey, u32)]) -> Result<(), (Stopped, &'static str)> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (key, _) in run {
            match wire_key(*key) {
                WireKey::V4(key) => v4.push(key),
                WireKey::V6(key) => v6.push(key),
            }
        }
        let indices: Vec<u32> = run.iter().map(|(_, index)| *index).collect();
        let Batches { frontends_v4, frontends_v6, .. } = &self.batches;
        frontends_v4.write(&v4, &indices).map_err(|stopped| (stopped, map::FRONTENDS_V4))?;
        frontends_v6.write(&v6, &indices).map_err(|stopped| (stopped, map::FRONTENDS_V6))
    }

    /// Networks of one family.
    fn insert_networks_run(&self, run: &[(IpNetwork, Unclaimed)]) -> Result<(), (Stopped, &'static str)> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, _) in run {
            match network_key(*network) {
                NetworkKey::V4(key) => v4.push(key),
                NetworkKey::V6(key) => v6.push(key),
            }
        }
        let values: Vec<u32> = run.iter().map(|(_, unclaimed)| *unclaimed as u32).collect();
        let Batches { service_networks_v4, service_networks_v6, .. } = &self.batches;
        service_networks_v4.write(&v4, &values).map_err(|stopped| (stopped, map::SERVICE_NETWORKS_V4))?;
        service_networks_v6.write(&v6, &values).map_err(|stopped| (stopped, map::SERVICE_NETWORKS_V6))
    }
}

fn batch_error(stopped: Stopped, map: &'static str, capacity: u32) -> BatchError {
    let Stopped { written, error } = stopped;
    let error = if is_full(&error) {
        MapError::Full { map, capacity }
    } else {
        MapError::Refused { action: "write", map, source: error.into() }
    };
    BatchError { inserted: written, error }
}

enum WireKey {
    V4(FrontendKeyV4),
    V6(FrontendKeyV6),
}

fn wire_key(key: FrontendKey) -> WireKey {
    let (address, port) = (wire_address(key.address), key.port.to_be_bytes());
    let protocol = key.protocol.number();
    match unmapped(address) {
        Some(v4) => WireKey::V4(FrontendKeyV4::new(v4, port, protocol)),
        None => WireKey::V6(FrontendKeyV6::new(address, port, protocol)),
    }
}

/// The name of the array of backends.
fn backends(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => map::BACKENDS_V4,
        IpFamily::V6 => map::BACKENDS_V6,
    }
}

fn entry_v4(entry: BackendV4) -> BackendEntry {
    let BackendV4 { address, port, protocol, flags, service, generation } = entry;
    let address = SocketAddr::new(address.into(), u16::from_be_bytes(port));
    BackendEntry { address, protocol, flags, service, generation }
}

fn entry_v6(entry: BackendV6) -> BackendEntry {
    let BackendV6 { address, port, protocol, flags, service, generation } = entry;
    let address = SocketAddr::new(address.into(), u16::from_be_bytes(port));
    BackendEntry { address, protocol, flags, service, generation }
}

fn known_addresses<A: Pod + Into<IpAddr>>(
    table: &HashMap<MapData, A, NodeAddressFlags>,
    name: &'static str,
) -> Result<impl Iterator<Item = (IpAddr, bool)> + use<A>, MapError> {
    let known: Result<Vec<(A, NodeAddressFlags)>, _> = table.iter().collect();
    let known = known.map_err(refused("read", name))?.into_iter();
    Ok(known.map(|(address, flags)| (address.into(), flags.contains(NodeAddressFlags::NODE_PORTS))))
}

/// Additions come before removals, so an address that stays is in the map all the time.
fn set_addresses<A: Pod + Ord>(
    table: &mut HashMap<MapData, A, NodeAddressFlags>,
    name: &'static str,
    wanted: &BTreeMap<A, NodeAddressFlags>,
) -> Result<(), MapError> {
    let known: Result<BTreeMap<A, NodeAddressFlags>, _> = table.iter().collect();
    let known = known.map_err(refused("read", name))?;
    for (address, flags) in wanted.iter().filter(|(address, flags)| known.get(*address) != Some(*flags)) {
        table.insert(address, flags, 0).map_err(refused("write", name))?;
    }
    for address in known.keys().filter(|address| !wanted.contains_key(*address)) {
        absent_is_fine(table.remove(address), name)?;
    }
    Ok(())
}
