//! Layout of the headers that are read and rewritten, and the one bounds check for reading them.

use core::{mem::offset_of, ptr};

use aya_ebpf::programs::{TcContext, XdpContext};
use proxy_ebpf::csum::difference;

use crate::family::{Family, V4, V6, Words};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// The linear part of a packet, which is open to direct packet access.
pub trait PacketData {
    fn start(&self) -> usize;
    fn end(&self) -> usize;
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    pub version_and_length: u8,
    pub tos: u8,
    pub total: [u8; 2],
    pub id: [u8; 2],
    pub fragment: [u8; 2],
    pub ttl: u8,
    pub protocol: u8,
    checksum: [u8; 2],
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    pub version: [u8; 4],
    pub payload: [u8; 2],
    pub next: u8,
    pub hop_limit: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

/// Offsets of the fields that a translation writes.
pub const IPV4_CHECKSUM: usize = offset_of!(Ipv4, checksum);
pub const IPV4_ADDRESSES: usize = offset_of!(Ipv4, source);
pub const IPV6_ADDRESSES: usize = offset_of!(Ipv6, source);
pub const IPV4_TTL: usize = offset_of!(Ipv4, ttl);
pub const IPV6_HOP_LIMIT: usize = offset_of!(Ipv6, hop_limit);
/// Length of the headers without options.
pub const IPV4_HEADER: usize = size_of::<Ipv4>();
pub const IPV6_HEADER: usize = size_of::<Ipv6>();

/// The IP header of a family.
pub trait Headers: Family {
    const ETHERTYPE: u16;

    /// The version in the first half of the header's first byte.
    const VERSION: u8;

    /// Offset of TTL or hop limit.
    const TTL: usize;

    /// ICMP's protocol number.
    const ICMP: u8;

    /// Offset of the header checksum, if the family has one.
    const CHECKSUM: Option<usize>;

    /// Whether an ICMP type is an error, which quotes a packet.
    fn is_icmp_error(kind: u8) -> bool;

    /// The checksum difference of a changed address.
    fn difference(old: Self::Address, new: Self::Address) -> u64;

    /// Writes source and destination into the IP header at offset `network`.
    fn store_addresses(
        ctx: &TcContext,
        network: usize,
        source: Self::Address,
        destination: Self::Address,
    ) -> Result<(), i64>;
}

impl Headers for V4 {
    const ETHERTYPE: u16 = 0x0800;
    const VERSION: u8 = 4;
    const TTL: usize = IPV4_TTL;
    const ICMP: u8 = 1;
    const CHECKSUM: Option<usize> = Some(IPV4_CHECKSUM);

    /// Destination unreachable, time exceeded, parameter problem (RFC 792).
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn difference(old: u32, new: u32) -> u64 {
        difference(old, new)
    }

    #[inline(always)]
    fn store_addresses(ctx: &TcContext, network: usize, source: u32, destination: u32) -> Result<(), i64> {
        ctx.store(network + IPV4_ADDRESSES, &[source, destination], 0)
    }
}

impl Headers for V6 {
    const ETHERTYPE: u16 = 0x86dd;
    const VERSION: u8 = 6;
    const TTL: usize = IPV6_HOP_LIMIT;
    const ICMP: u8 = 58;
    const CHECKSUM: Option<usize> = None;

    /// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443, 2.1).
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn difference([a, b, c, d]: Words, [e, f, g, h]: Words) -> u64 {
        difference(a, e) + difference(b, f) + difference(c, g) + difference(d, h)
    }

    #[inline(always)]
    fn store_addresses(
        ctx: &TcContext,
        network: usize,
        source: Words,
        destination: Words,
    ) -> Result<(), i64> {
        ctx.store(network + IPV6_ADDRESSES, &[source, destination], 0)
    }
}

impl PacketData for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

impl PacketData for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

/// Reads a copy at an offset. Returns `None` outside the linear part. The one bounds check for reads: no reference into the
/// packet survives a helper that may move it.
#[inline(always)]
pub fn read<T: Copy>(packet: &impl PacketData, offset: usize) -> Option<T> {
    let start = packet.start() + offset;
    if start + size_of::<T>() > packet.end() {
        return None;
    }
    // SAFETY: inside the packet, as just checked; unaligned, because headers are.
    Some(unsafe { ptr::read_unaligned(start as *const T) })
}
