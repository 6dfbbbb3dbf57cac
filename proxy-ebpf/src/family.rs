//! What differs between IPv4 and IPv6 for the decision: the maps and the width of an address.

use proxy_ebpf::abi::{BackendFlags, BackendRef, mapped};

use crate::{backend, frontend};

/// One of the two address families.
pub trait Family {
    /// An address in wire order.
    type Address: Copy;

    /// The index published for a frontend.
    fn frontend(address: Self::Address, port: [u8; 2], protocol: u8) -> Option<u32>;

    /// The backend a reference means, if it is still the same one.
    fn backend(reference: BackendRef) -> Option<Backend<Self::Address>>;

    /// The address as an IPv6 one.
    fn mapped(address: Self::Address) -> [u8; 16];
}

/// A backend that was alive when it was read.
#[derive(Clone, Copy)]
pub struct Backend<A> {
    pub address: A,
    pub port: [u8; 2],
    pub flags: BackendFlags,
    pub service: u32,
}

pub struct V4;
pub struct V6;

impl Family for V4 {
    type Address = [u8; 4];

    #[inline(always)]
    fn frontend(address: [u8; 4], port: [u8; 2], protocol: u8) -> Option<u32> {
        frontend::index_v4(address, port, protocol)
    }

    #[inline(always)]
    fn backend(reference: BackendRef) -> Option<Backend<[u8; 4]>> {
        backend::v4(reference)
    }

    #[inline(always)]
    fn mapped(address: [u8; 4]) -> [u8; 16] {
        mapped(address)
    }
}

impl Family for V6 {
    type Address = [u8; 16];

    #[inline(always)]
    fn frontend(address: [u8; 16], port: [u8; 2], protocol: u8) -> Option<u32> {
        frontend::index_v6(address, port, protocol)
    }

    #[inline(always)]
    fn backend(reference: BackendRef) -> Option<Backend<[u8; 16]>> {
        backend::v6(reference)
    }

    #[inline(always)]
    fn mapped(address: [u8; 16]) -> [u8; 16] {
        address
    }
}
