//! The interface of the reconciler to the maps, which are the kernel's or a test's.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::{BackendFlags, BackendRef, Block, Descriptor, ServiceName, Unclaimed};

use super::tenant::{Table, Tenant};
use crate::model::{
    address::{IpFamily, PerFamily},
    frontend::FrontendKey,
};

/// The capacity of each map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub frontends: u32,
    pub descriptors: u32,
    pub slots: u32,
    /// Per family.
    pub backends: u32,
    pub services: u32,
    /// Per family.
    pub source_ranges: u32,
}

/// An entry of `BACKENDS_V4` or `BACKENDS_V6`; the family is the address's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    pub address: SocketAddr,
    /// IANA protocol number.
    pub protocol: u8,
    pub flags: BackendFlags,
    /// Id of its service port.
    pub service: u32,
    pub generation: u32,
}

/// A map that is full, a share that is used up, or a system call that failed.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("{map} is full ({capacity} entries)")]
    Full { map: &'static str, capacity: u32 },
    #[error("{tenant} has used up its share of {map} ({share} entries)")]
    OverBudget { map: &'static str, table: Table, tenant: Tenant, share: u32 },
    #[error("cannot {action} {map}")]
    Refused {
        action: &'static str,
        map: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The failure of an insertion of entries in order.
#[derive(Debug)]
pub struct BatchError {
    /// Number of entries inserted before the one that failed.
    pub inserted: usize,
    pub error: MapError,
}

/// The fill of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pub map: &'static str,
    pub used: u32,
    pub capacity: u32,
}

/// Upper bounds of the indices in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Of published frontends.
    pub frontends: u32,
    /// Of backends in use.
    pub backends: PerFamily<u32>,
}

/// The maps of services, frontends and backends.
///
/// Accesses to hash maps and tries are system calls and may fail. The arrays are mapped memory: the first
/// access to a part of one since `release` maps it, which may fail; after it has succeeded, every access to
/// the same element does. Writes beyond an array are ignored, reads beyond it return zeroes; the callers stay
/// below `capacity`.
pub trait LbMaps {
    fn capacity(&self) -> Capacity;

    /// Bounds of the indices in use. Reads all entries; called once.
    fn extent(&self) -> Result<Extent, MapError> {
        let Capacity { frontends, backends, .. } = self.capacity();
        Ok(Extent { frontends, backends: PerFamily { v4: backends, v6: backends } })
    }

    /// Every published frontend and its index.
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError>;
    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), MapError>;
    /// In batches if the kernel supports them.
    fn insert_frontends(&mut self, entries: &[(FrontendKey, u32)]) -> Result<(), BatchError> {
        one_by_one(entries, |(key, index)| self.insert_frontend(*key, *index))
    }
    /// Success if the entry does not exist.
    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError>;

    /// Every named service port and its index.
    fn services(&self) -> Result<Vec<(u32, ServiceName)>, MapError>;
    fn insert_service(&mut self, index: u32, name: ServiceName) -> Result<(), MapError>;
    fn insert_services(&mut self, entries: &[(u32, ServiceName)]) -> Result<(), BatchError> {
        one_by_one(entries, |(index, name)| self.insert_service(*index, *name))
    }
    fn remove_service(&mut self, index: u32) -> Result<(), MapError>;

    /// The descriptor index published for a frontend; 0 if none is.
    fn published(&self, frontend: u32) -> Result<u32, MapError>;
    /// The flip: one aligned 64-bit store, ordered after every write before it.
    fn publish(&mut self, frontend: u32, descriptor: u32) -> Result<(), MapError>;

    fn descriptor(&self, index: u32) -> Result<Descriptor, MapError>;
    fn write_descriptor(&mut self, index: u32, descriptor: &Descriptor) -> Result<(), MapError>;

    fn slots(&self, block: Block) -> Result<Vec<BackendRef>, MapError>;
    fn write_slots(&mut self, offset: u32, slots: &[BackendRef]) -> Result<(), MapError>;

    /// Every entry of `SOURCE_RANGES_*`: its set and its network.
    fn source_ranges(&self) -> Result<Vec<(u32, IpNetwork)>, MapError>;
    fn insert_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError>;
    /// Success if the entry does not exist.
    fn remove_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError>;

    /// Every entry of `SERVICE_NETWORKS_*`.
    fn service_networks(&self) -> Result<Vec<(IpNetwork, Unclaimed)>, MapError>;
    fn insert_service_network(&mut self, network: IpNetwork, unclaimed: Unclaimed) -> Result<(), MapError>;
    fn insert_service_networks(&mut self, entries: &[(IpNetwork, Unclaimed)]) -> Result<(), BatchError> {
        one_by_one(entries, |(network, unclaimed)| self.insert_service_network(*network, *unclaimed))
    }
    /// Success if the entry does not exist.
    fn remove_service_network(&mut self, network: IpNetwork) -> Result<(), MapError>;

    fn backend(&self, family: IpFamily, index: u32) -> Result<BackendEntry, MapError>;
    /// Writes an entry that no program can reach.
    fn write_backend(&mut self, index: u32, entry: &BackendEntry) -> Result<(), MapError>;
    /// Changes the generation of an entry in use, so that every reference to it becomes stale.
    fn raise_generation(&mut self, family: IpFamily, index: u32, generation: u32) -> Result<(), MapError>;
    /// Changes the flags of an entry in use.
    fn set_backend_flags(
        &mut self,
        family: IpFamily,
        index: u32,
        flags: BackendFlags,
    ) -> Result<(), MapError>;

    /// Releases memory that many reads or writes needed; it is allocated again on demand.
    fn release(&mut self) {}
}

/// Inserts the entries with one system call each.
pub fn one_by_one<T>(
    entries: &[T],
    mut insert: impl FnMut(&T) -> Result<(), MapError>,
) -> Result<(), BatchError> {
    for (inserted, entry) in entries.iter().enumerate() {
        insert(entry).map_err(|error| BatchError { inserted, error })?;
    }
    Ok(())
}
