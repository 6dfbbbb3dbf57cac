//! A backend is one serving address of one service port. Its index is reused only with a new generation, so a stored
//! reference never resolves to another backend.

use super::{flags, map_type};

/// Value of a slot: the index of a backend, and its generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendRef {
    pub index: u32,
    pub generation: u32,
}
map_type!(BackendRef, 4 + 4);

impl BackendRef {
    /// Packed into one register, as functions with external linkage return it.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// Value of `BACKENDS_V4`.
///
/// Rewritten only after its generation was raised and a grace period passed. Only the generation (when the backend is removed)
/// and the flags change in place, each by a single aligned store.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendV4 {
    pub address: [u8; 4],
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub flags: BackendFlags,
    /// The service port this backend serves.
    pub service: u32,
    pub generation: u32,
}
map_type!(BackendV4, 4 + 2 + 1 + 1 + 4 + 4);

/// Value of `BACKENDS_V6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendV6 {
    pub address: [u8; 16],
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub flags: BackendFlags,
    /// The service port this backend serves.
    pub service: u32,
    pub generation: u32,
}
map_type!(BackendV6, 16 + 2 + 1 + 1 + 4 + 4);

flags! {
    /// The current state of a backend.
    BackendFlags(u8) {
        /// The index is in use, else free.
        ALIVE = 0;
        /// In the cluster set of its service port: affinity to it holds in scopes with that set.
        IN_CLUSTER_SET = 1;
        /// In the local set of its service port.
        IN_LOCAL_SET = 2;
        /// Terminating but serving.
        TERMINATING = 3;
        /// On this node, so that a connection of it through a frontend may come back to it (hairpin).
        LOCAL = 4;
        /// This node's name server: eligible only while its heartbeat is current.
        NAME_SERVER = 5;
    }
}
