//! A backend is one serving address of one service port. Its index is reused only under a new generation, so a
//! remembered choice never comes to mean another backend.

use super::{flags, map_type};

/// One slot: which backend, and which state of that index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendRef {
    pub index: u32,
    pub generation: u32,
}
map_type!(BackendRef, 4 + 4);

/// Value of `BACKENDS_V4`.
///
/// Rewritten only after its generation was raised and every reader of the old one has gone; in place change only
/// the generation (the backend is gone) and the flags, each a single aligned store.
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
    /// What is true of a backend at this instant.
    BackendFlags(u8) {
        /// The index is in use; without this flag it is free.
        ALIVE = 0;
        /// In the cluster set of its service port: remembered choices of scopes that offer it may go on.
        IN_CLUSTER_SET = 1;
        /// In the local set of its service port.
        IN_LOCAL_SET = 2;
        /// Terminating but serving.
        TERMINATING = 3;
        /// On this node: what it dials through a frontend can lead back to itself.
        LOCAL = 4;
        /// This node's own name server: it counts only while that lives.
        NAME_SERVER = 5;
    }
}
