//! What differs between IPv4 and IPv6 for the decision: the maps and the width of an address.
//!
//! Programs hold addresses as words in wire order: BPF has no unaligned loads, and copies byte arrays byte by byte.

use core::mem::transmute;

use proxy_ebpf::abi::{AffinityEntry, AffinityKey, BackendFlags, BackendRef, ConfigFlags, NodeAddressFlags};

use crate::{affinity, backend, frontend, node};

/// An IPv6 address in wire order.
pub type Words = [u32; 4];

/// One of the two address families.
pub trait Family {
    /// An address in wire order.
    type Address: Copy;

    /// The address of every NodePort frontend.
    const UNSPECIFIED: Self::Address;

    /// The switch of the configuration that concerns this family.
    const PODS_ARE_EXTERNAL: ConfigFlags;

    /// The address as an IPv6 one.
    fn mapped(address: Self::Address) -> Words;

    /// Where a connection really goes: to the unspecified address means to the loopback.
    fn effective(address: Self::Address) -> Self::Address;

    /// The index published for a frontend.
    fn frontend(address: Self::Address, port: [u8; 2], protocol: u8) -> Option<u32>;

    /// The backend a reference means, if it is still the same one.
    fn backend(reference: BackendRef) -> Option<Backend<Self::Address>>;

    /// What an address of this node serves; none for other addresses.
    fn node_address(address: Self::Address) -> Option<NodeAddressFlags>;

    fn affinity(key: &AffinityKey) -> Option<AffinityEntry>;

    fn set_affinity(key: &AffinityKey, entry: &AffinityEntry);
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

macro_rules! family {
    ($family:ty, $address:ty, $tables:ident, $mapped:expr, $unspecified:expr, $loopback:expr, $external:expr) => {
        impl Family for $family {
            type Address = $address;

            const UNSPECIFIED: $address = $unspecified;
            const PODS_ARE_EXTERNAL: ConfigFlags = $external;

            #[inline(always)]
            fn mapped(address: $address) -> Words {
                $mapped(address)
            }

            #[inline(always)]
            fn effective(address: $address) -> $address {
                if same($mapped(address), $mapped(Self::UNSPECIFIED)) { $loopback } else { address }
            }

            #[inline(always)]
            fn frontend(address: $address, port: [u8; 2], protocol: u8) -> Option<u32> {
                frontend::$tables(address, port, protocol)
            }

            #[inline(always)]
            fn backend(reference: BackendRef) -> Option<Backend<$address>> {
                backend::$tables(reference)
            }

            #[inline(always)]
            fn node_address(address: $address) -> Option<NodeAddressFlags> {
                node::$tables(address)
            }

            #[inline(always)]
            fn affinity(key: &AffinityKey) -> Option<AffinityEntry> {
                affinity::$tables::get(key)
            }

            #[inline(always)]
            fn set_affinity(key: &AffinityKey, entry: &AffinityEntry) {
                affinity::$tables::set(key, entry);
            }
        }
    };
}

family!(V4, u32, v4, mapped, 0, LOOPBACK_V4, ConfigFlags::PODS_ARE_EXTERNAL_V4);
family!(V6, Words, v6, core::convert::identity, [0; 4], LOOPBACK_V6, ConfigFlags::PODS_ARE_EXTERNAL_V6);

const LOOPBACK_V4: u32 = u32::from_be(0x7f00_0001);
const LOOPBACK_V6: Words = [0, 0, 0, u32::from_be(1)];
const MAPPED_PREFIX: u32 = u32::from_be(0xffff);

/// An IPv4 address as an IPv4-mapped one.
#[inline(always)]
pub fn mapped(address: u32) -> Words {
    [0, 0, MAPPED_PREFIX, address]
}

/// The IPv4 address in an IPv4-mapped one.
#[inline(always)]
pub fn unmapped(words: Words) -> Option<u32> {
    let [a, b, c, address] = words;
    (a | b | (c ^ MAPPED_PREFIX) == 0).then_some(address)
}

/// Whether two addresses are the same, in one branch: the verifier follows each.
#[inline(always)]
pub fn same([a, b, c, d]: Words, [e, f, g, h]: Words) -> bool {
    (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
}

/// The address as maps hold it.
#[inline(always)]
pub fn bytes(words: Words) -> [u8; 16] {
    // SAFETY: both are 16 bytes without padding, of which every pattern is valid.
    unsafe { transmute(words) }
}

/// An address out of a map.
#[inline(always)]
pub fn words(bytes: [u8; 16]) -> Words {
    // SAFETY: as in `bytes`; a transmutation copies, so alignment does not matter.
    unsafe { transmute(bytes) }
}
