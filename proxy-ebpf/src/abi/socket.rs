//! What a socket remembers of its translation, so that the application sees the address it dialled.

use super::map_type;

/// An address and a port, IPv4 as IPv4-mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub address: [u8; 16],
    pub port: [u8; 2],
    pub zero: [u8; 2],
}
map_type!(Endpoint, 16 + 2 + 2);

impl Endpoint {
    pub const fn new(address: [u8; 16], port: [u8; 2]) -> Self {
        Self { address, port, zero: [0; 2] }
    }
}

/// Value of `SOCKETS`: the frontend a socket is connected to, and the backend that stands for it.
///
/// Every connect overwrites it, or clears it when it goes to something that is no frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketPair {
    pub frontend: Endpoint,
    pub backend: Endpoint,
}
map_type!(SocketPair, 20 + 20);
