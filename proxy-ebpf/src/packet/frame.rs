//! Frames at XDP: fields that routing needs, and rewriting in place.
//!
//! Frames with IP options or extension headers go to the stack, so each field has a fixed offset per family.

use aya_ebpf::programs::XdpContext;
use proxy_ebpf::{
    abi::XdpOutcome,
    csum::{adjusted, checksum, difference, sum},
};

use super::{
    header::{
        ETHERNET, Headers, IPV4_ADDRESSES, IPV4_HEADER, IPV4_TTL, IPV6_ADDRESSES, IPV6_HEADER,
        IPV6_HOP_LIMIT, Ipv4, Ipv6, PacketData, TCP, UDP, read,
    },
    parse::Packet,
    rewrite::{Translation, address_difference, ports_difference},
};
use crate::family::{V4, V6, Words};

/// The Ethernet addresses of a frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MacAddresses {
    pub destination: [u8; 6],
    pub source: [u8; 6],
}

impl MacAddresses {
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> Result<Self, XdpOutcome> {
        read(ctx, 0).ok_or(XdpOutcome::NeedsStack)
    }
}

/// The fields of a frame that a FIB lookup needs.
pub struct ForwardFields {
    /// Length of the packet, without the link-layer header.
    pub total: u16,
    /// TOS, or IPv6 traffic class and flow label, as `bpf_fib_lookup` takes them.
    pub tos: u32,
}

/// The IP header of a family in a frame.
pub trait FrameHeader: Headers {
    /// Length without options.
    const LENGTH: usize;

    /// Returns `None` if only the node's stack may forward the packet: IP options, TTL of 1, wrong header checksum, truncated.
    fn forward_fields(ctx: &XdpContext) -> Option<ForwardFields>;

    /// Decrements TTL or hop limit and replaces the addresses. Returns `false` for a truncated frame, which is not changed.
    fn forward(ctx: &XdpContext, to: &Translation<Self::Address>, by_addresses: u64) -> bool;
}

impl FrameHeader for V4 {
    const LENGTH: usize = IPV4_HEADER;

    #[inline(always)]
    fn forward_fields(ctx: &XdpContext) -> Option<ForwardFields> {
        const WITHOUT_OPTIONS: u8 = 0x45;
        let words = read::<[u32; IPV4_HEADER / 4]>(ctx, ETHERNET)?;
        let header = read::<Ipv4>(ctx, ETHERNET)?;
        let total = u16::from_be_bytes(header.total);
        let is_fit =
            header.version_and_length == WITHOUT_OPTIONS && header.ttl > 1 && checksum(sum(&words)) == 0;
        (is_fit && is_linear(ctx, total)).then_some(ForwardFields { total, tos: header.tos.into() })
    }

    #[inline(always)]
    fn forward(ctx: &XdpContext, to: &Translation<u32>, by_addresses: u64) -> bool {
        /// TTL, protocol and header checksum, the fields before the addresses.
        type Middle = ([u8; 2], u16);
        let Some(middle) = write_at::<Middle>(ctx, ETHERNET + IPV4_TTL) else { return false };
        let Some(addresses) = write_at::<[u32; 2]>(ctx, ETHERNET + IPV4_ADDRESSES) else { return false };
        // SAFETY: both lie in the frame, as `write_at` checked, and nothing moved it since.
        unsafe {
            let ([ttl, protocol], checksum) = middle.read_unaligned();
            let decremented = [ttl.wrapping_sub(1), protocol];
            let by_ttl = difference(half([ttl, protocol]), half(decremented));
            middle.write_unaligned((decremented, adjusted(checksum, by_addresses + by_ttl)));
            addresses.write_unaligned([to.source, to.destination]);
        }
        true
    }
}

impl FrameHeader for V6 {
    const LENGTH: usize = IPV6_HEADER;

    #[inline(always)]
    fn forward_fields(ctx: &XdpContext) -> Option<ForwardFields> {
        /// Traffic class and flow label.
        const FLOW: u32 = u32::from_be(0x0fff_ffff);
        let header = read::<Ipv6>(ctx, ETHERNET)?;
        let total = u16::from_be_bytes(header.payload).checked_add(IPV6_HEADER as u16)?;
        let tos = u32::from_ne_bytes(header.version) & FLOW;
        (header.hop_limit > 1 && is_linear(ctx, total)).then_some(ForwardFields { total, tos })
    }

    #[inline(always)]
    fn forward(ctx: &XdpContext, to: &Translation<Words>, _: u64) -> bool {
        let Some(hop_limit) = write_at::<u8>(ctx, ETHERNET + IPV6_HOP_LIMIT) else { return false };
        let Some(addresses) = write_at::<[Words; 2]>(ctx, ETHERNET + IPV6_ADDRESSES) else { return false };
        // SAFETY: as in `V4::forward`.
        unsafe {
            hop_limit.write(hop_limit.read().wrapping_sub(1));
            addresses.write_unaligned([to.source, to.destination]);
        }
        true
    }
}

/// Whether the whole packet is in the linear part.
#[inline(always)]
fn is_linear(frame: &impl PacketData, total: u16) -> bool {
    frame.start() + ETHERNET + usize::from(total) <= frame.end()
}

/// Translates and forwards a frame. Returns `None` for a truncated frame, which is not changed.
///
/// 1. The MAC addresses, 2. TTL, addresses and checksum of the IP header, 3. the transport checksum, 4. the ports.
#[inline(always)]
pub fn rewrite<F: FrameHeader>(
    ctx: &XdpContext,
    packet: &Packet<F::Address>,
    to: &Translation<F::Address>,
    mac: MacAddresses,
) -> Option<()> {
    let transport = ETHERNET + F::LENGTH;
    let by_addresses = address_difference::<F>(packet, to);
    let by_both = by_addresses + ports_difference(packet, to);
    let frame = write_at::<MacAddresses>(ctx, 0)?;
    let ports = write_at::<[[u8; 2]; 2]>(ctx, transport)?;
    let checksum = match packet.protocol {
        TCP => Some(write_at::<u16>(ctx, transport + 16)?),
        UDP => Some(write_at::<u16>(ctx, transport + 6)?),
        _ => None,
    };
    if !F::forward(ctx, to, by_addresses) {
        return None;
    }
    // SAFETY: all of them lie in the frame, as `write_at` checked, and nothing moved it since.
    unsafe {
        frame.write_unaligned(mac);
        if let Some(checksum) = checksum {
            checksum.write_unaligned(updated_checksum(packet.protocol, checksum.read_unaligned(), by_both));
        }
        ports.write_unaligned([to.source_port, to.destination_port]);
    }
    Some(())
}

/// The updated transport checksum. UDP without checksum stays without, and a UDP checksum of 0 is written as 0xffff (RFC 768).
#[inline(always)]
fn updated_checksum(protocol: u8, old: u16, by: u64) -> u16 {
    if protocol == UDP && old == 0 {
        return 0;
    }
    match adjusted(old, by) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    }
}

/// Two bytes as a summand of a checksum.
#[inline(always)]
fn half(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes).into()
}

/// A pointer for writing at an offset. The one bounds check for writes. Returns `None` outside the linear part.
#[inline(always)]
fn write_at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.start() + offset;
    (start + size_of::<T>() <= ctx.end()).then_some(start as *mut T)
}
