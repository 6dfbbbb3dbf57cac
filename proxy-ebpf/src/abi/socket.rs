//! Translations stored with sockets, so that applications see the frontend's address.

use super::{BackendRef, difference, map_type};

/// An address and a port, IPv4 as IPv4-mapped.
///
/// Aligned so that programs read words: BPF has no unaligned loads, and would read bytes.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, Eq)]
pub struct Endpoint {
    pub address: [u8; 16],
    pub port: [u8; 2],
    pub zero: [u8; 2],
}
map_type!(Endpoint, 16 + 2 + 2);

impl PartialEq for Endpoint {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let differ = difference(&self.address, &other.address);
        let ports = u16::from_ne_bytes(self.port) ^ u16::from_ne_bytes(other.port);
        // One branch instead of three: the verifier follows each of them.
        differ | u64::from(ports) == 0
    }
}

impl Endpoint {
    pub const fn new(address: [u8; 16], port: [u8; 2]) -> Self {
        Self { address, port, zero: [0; 2] }
    }
}

/// Value of `SOCKETS`, and a part of that of `TCP_SOCKETS`: frontend and backend of a connected socket.
///
/// Each connect overwrites it, or clears it if the destination is no frontend. A disconnect (connect to AF_UNSPEC) runs no program: until
/// the next connect the socket shows the frontend for datagrams from that backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketPair {
    pub frontend: Endpoint,
    pub backend: Endpoint,
    pub reference: BackendRef,
}
map_type!(SocketPair, 20 + 20 + 8);

/// A frontend to which an unconnected socket sends, and its backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnconnectedPair {
    pub frontend: Endpoint,
    pub backend: Endpoint,
    pub reference: BackendRef,
    /// The socket's clock when this frontend began to await its next reply. 0 if the pair is unused.
    pub since: u64,
    /// Datagrams to this frontend without a reply. Attributes replies if two frontends have the same backend.
    pub awaited: u32,
    pub zero: u32,
}
map_type!(UnconnectedPair, 20 + 20 + 8 + 8 + 4 + 4);

/// Pairs in the storage of an unconnected socket; more are in `SOCKET_OVERFLOW`.
pub const UNCONNECTED_PAIRS: usize = 8;

/// Value of `UNCONNECTED_SOCKETS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnconnectedPairs {
    pub pairs: [UnconnectedPair; UNCONNECTED_PAIRS],
    /// Counts datagrams and replies; orders the pairs.
    pub clock: u64,
    /// The number of pairs ever stored. Modulo `UNCONNECTED_PAIRS` it is the index of the next one.
    pub placed: u64,
}
map_type!(UnconnectedPairs, UNCONNECTED_PAIRS * 64 + 8 + 8);

/// The identity of an entry of `SOCKET_OVERFLOW`: frontend or backend of a pair beyond `UNCONNECTED_PAIRS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverflowKey {
    pub socket: u64,
    pub end: Endpoint,
    /// Whether `end` is the frontend (0) or the backend (1).
    pub kind: u32,
}
map_type!(OverflowKey, 8 + 20 + 4);

impl OverflowKey {
    /// The key for datagrams to a frontend.
    pub const fn frontend(socket: u64, end: Endpoint) -> Self {
        Self { socket, end, kind: 0 }
    }

    /// The key for replies of a backend.
    pub const fn backend(socket: u64, end: Endpoint) -> Self {
        Self { socket, end, kind: 1 }
    }
}

/// Value of `SOCKET_OVERFLOW`: the other one of the pair.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverflowEntry {
    /// Odd while a CPU writes the entry; 0 if it was never written.
    pub version: u64,
    pub key: OverflowKey,
    pub end: Endpoint,
    pub zero: u32,
    pub reference: BackendRef,
}
map_type!(OverflowEntry, 8 + 32 + 20 + 4 + 8);
