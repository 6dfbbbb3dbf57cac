//! What the reconciler needs of the maps, whoever holds them: the kernel, or a test.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::{BackendFlags, BackendRef, Block, Descriptor, ServiceName, Unclaimed};

use crate::model::{
    address::{IpFamily, PerFamily},
    frontend::FrontendKey,
};

/// How many entries each map has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub frontends: u32,
    pub descriptors: u32,
    pub slots: u32,
    /// Of each family.
    pub backends: u32,
    pub services: u32,
}

/// An entry of `BACKENDS_V4` or `BACKENDS_V6`; the family is the address's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    pub address: SocketAddr,
    /// IANA protocol number.
    pub protocol: u8,
    pub flags: BackendFlags,
    /// The service port it serves.
    pub service: u32,
    pub generation: u32,
}

/// A write that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("{map} is full ({capacity} entries)")]
    Full { map: &'static str, capacity: u32 },
    #[error("cannot {action} {map}")]
    Refused {
        action: &'static str,
        map: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Of entries that are inserted in order, so many were, and then one could not be.
#[derive(Debug)]
pub struct Interrupted {
    pub inserted: usize,
    pub error: MapError,
}

/// How far into the arrays anything is in use: from these indices on nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Published frontends.
    pub frontends: u32,
    /// Backends alive.
    pub backends: PerFamily<u32>,
}

/// The maps of services, frontends and backends.
///
/// What can fail is a system call (hash maps); the arrays are memory, and an index outside of them is ignored on
/// writing and reads as zeroes, which the callers never ask for, as they stay below `capacity`.
pub trait LbMaps {
    fn capacity(&self) -> Capacity;

    /// A bound that may be asked for once, as it takes a look at everything.
    fn extent(&self) -> Result<Extent, MapError> {
        let Capacity { frontends, backends, .. } = self.capacity();
        Ok(Extent { frontends, backends: PerFamily { v4: backends, v6: backends } })
    }

    /// Every published frontend and its index.
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError>;
    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), MapError>;
    /// Many at a time, where the kernel can.
    fn insert_frontends(&mut self, entries: &[(FrontendKey, u32)]) -> Result<(), Interrupted> {
        one_by_one(entries, |(key, index)| self.insert_frontend(*key, *index))
    }
    /// Removing what is not there is no error.
    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError>;

    /// Every named service port and its index.
    fn services(&self) -> Result<Vec<(u32, ServiceName)>, MapError>;
    fn insert_service(&mut self, index: u32, name: ServiceName) -> Result<(), MapError>;
    fn insert_services(&mut self, entries: &[(u32, ServiceName)]) -> Result<(), Interrupted> {
        one_by_one(entries, |(index, name)| self.insert_service(*index, *name))
    }
    fn remove_service(&mut self, index: u32) -> Result<(), MapError>;

    /// The descriptor index published for a frontend; 0 is none.
    fn published(&self, frontend: u32) -> u32;
    /// The flip: one aligned 64-bit store, ordered after every write before it.
    fn publish(&mut self, frontend: u32, descriptor: u32);

    fn descriptor(&self, index: u32) -> Descriptor;
    fn write_descriptor(&mut self, index: u32, descriptor: &Descriptor);

    fn slots(&self, block: Block) -> Vec<BackendRef>;
    fn write_slots(&mut self, offset: u32, slots: &[BackendRef]);

    /// Every entry of `SOURCE_RANGES_*`: its set and its network.
    fn source_ranges(&self) -> Result<Vec<(u32, IpNetwork)>, MapError>;
    fn insert_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError>;
    /// Removing what is not there is no error.
    fn remove_source_range(&mut self, set: u32, network: IpNetwork) -> Result<(), MapError>;

    /// Every entry of `SERVICE_NETWORKS_*`.
    fn service_networks(&self) -> Result<Vec<(IpNetwork, Unclaimed)>, MapError>;
    fn insert_service_network(&mut self, network: IpNetwork, unclaimed: Unclaimed) -> Result<(), MapError>;
    fn insert_service_networks(&mut self, entries: &[(IpNetwork, Unclaimed)]) -> Result<(), Interrupted> {
        one_by_one(entries, |(network, unclaimed)| self.insert_service_network(*network, *unclaimed))
    }
    /// Removing what is not there is no error.
    fn remove_service_network(&mut self, network: IpNetwork) -> Result<(), MapError>;

    fn backend(&self, family: IpFamily, index: u32) -> BackendEntry;
    /// Writes a whole entry, of an index that no program can reach.
    fn write_backend(&mut self, index: u32, entry: &BackendEntry);
    /// Changes the generation of an entry in use, so that every reference to it is stale from now on.
    fn raise_generation(&mut self, family: IpFamily, index: u32, generation: u32);
    /// Changes the flags of an entry in use.
    fn set_backend_flags(&mut self, family: IpFamily, index: u32, flags: BackendFlags);

    /// Much was looked at or written: what that needed may be let go, and is got again when it is asked for.
    fn release(&mut self) {}
}

/// Inserts each entry by itself.
pub fn one_by_one<T>(
    entries: &[T],
    mut insert: impl FnMut(&T) -> Result<(), MapError>,
) -> Result<(), Interrupted> {
    for (inserted, entry) in entries.iter().enumerate() {
        insert(entry).map_err(|error| Interrupted { inserted, error })?;
    }
    Ok(())
}
