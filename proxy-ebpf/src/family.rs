//! The two address families: addresses, and their conversions between registers, maps and IPv4-mapped form.

use core::mem::transmute;

/// An IPv6 address in network byte order.
pub type Words = [u32; 4];

/// An address family. The maps of a family are reached through traits beside the maps (`lb::Frontends`, `ct::Flows`, ..).
pub trait Family: Sized {
    /// An address in network byte order.
    type Address: Copy;

    /// The same in a map.
    type Bytes: Copy + 'static;

    const IS_V6: bool;

    /// The address of the frontends of NodePorts.
    const UNSPECIFIED: Self::Address;

    /// The address in IPv6 form, IPv4 as IPv4-mapped.
    fn mapped(address: Self::Address) -> Words;

    /// The address from its form in fields that serve both families.
    fn from_mapped(bytes: [u8; 16]) -> Self::Address;

    /// The address that a connect really reaches: the unspecified address means loopback.
    fn effective(address: Self::Address) -> Self::Address;

    fn bytes(address: Self::Address) -> Self::Bytes;

    fn address(bytes: Self::Bytes) -> Self::Address;

    #[inline(always)]
    fn is_same(a: Self::Bytes, b: Self::Bytes) -> bool {
        same(Self::mapped(Self::address(a)), Self::mapped(Self::address(b)))
    }
}

pub struct V4;
pub struct V6;

impl Family for V4 {
    type Address = u32;
    type Bytes = [u8; 4];

    const IS_V6: bool = false;
    const UNSPECIFIED: u32 = 0;

    #[inline(always)]
    fn mapped(address: u32) -> Words {
        mapped(address)
    }

    #[inline(always)]
    fn from_mapped(address: [u8; 16]) -> u32 {
        let [.., v4] = words(address);
        v4
    }

    #[inline(always)]
    fn effective(address: u32) -> u32 {
        if address == Self::UNSPECIFIED { LOOPBACK_V4 } else { address }
    }

    #[inline(always)]
    fn bytes(address: u32) -> [u8; 4] {
        address.to_ne_bytes()
    }

    #[inline(always)]
    fn address(bytes: [u8; 4]) -> u32 {
        u32::from_ne_bytes(bytes)
    }
}

impl Family for V6 {
    type Address = Words;
    type Bytes = [u8; 16];

    const IS_V6: bool = true;
    const UNSPECIFIED: Words = [0; 4];

    #[inline(always)]
    fn mapped(address: Words) -> Words {
        address
    }

    #[inline(always)]
    fn from_mapped(address: [u8; 16]) -> Words {
        words(address)
    }

    #[inline(always)]
    fn effective(address: Words) -> Words {
        if same(address, Self::UNSPECIFIED) { LOOPBACK_V6 } else { address }
    }

    #[inline(always)]
    fn bytes(address: Words) -> [u8; 16] {
        bytes(address)
    }

    #[inline(always)]
    fn address(bytes: [u8; 16]) -> Words {
        words(bytes)
    }
}

pub const LOOPBACK_V4: u32 = u32::from_be(0x7f00_0001);
const LOOPBACK_V6: Words = [0, 0, 0, u32::from_be(1)];
const MAPPED_PREFIX: u32 = u32::from_be(0xffff);

/// An IPv4 address as IPv4-mapped.
#[inline(always)]
pub fn mapped(address: u32) -> Words {
    [0, 0, MAPPED_PREFIX, address]
}

/// The IPv4 address of an IPv4-mapped one.
#[inline(always)]
pub fn unmapped(words: Words) -> Option<u32> {
    let [a, b, c, address] = words;
    (a | b | (c ^ MAPPED_PREFIX) == 0).then_some(address)
}

/// Whether two addresses are equal, in one branch: the verifier follows each branch.
#[inline(always)]
pub fn same([a, b, c, d]: Words, [e, f, g, h]: Words) -> bool {
    (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
}

/// The address as in maps.
#[inline(always)]
pub fn bytes(words: Words) -> [u8; 16] {
    // SAFETY: both are 16 bytes without padding, of which every pattern is valid.
    unsafe { transmute(words) }
}

/// The address from a map.
#[inline(always)]
pub fn words(bytes: [u8; 16]) -> Words {
    // SAFETY: as in `bytes`; a transmutation copies, so alignment does not matter.
    unsafe { transmute(bytes) }
}
