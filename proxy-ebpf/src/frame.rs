//! Frames as the early plane has them: read, and written in place.
//!
//! IP options and extension headers are the stack's, so every part has one place per family.

use aya_ebpf::programs::XdpContext;
use proxy_ebpf::{
    abi::XdpOutcome,
    csum::{adjusted, difference},
};

use crate::{
    family::{Family, V4, V6, Words},
    nat::{Ends, address_difference, ports_difference},
    packet::{
        self, ETHERNET, IPV4_ADDRESSES, IPV4_HEADER, IPV4_HOPS, IPV6_ADDRESSES, IPV6_HEADER, IPV6_HOPS,
        Packet, TCP, Transit, UDP, Window, at,
    },
};

impl Window for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

/// Both link-layer addresses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Link {
    pub destination: [u8; 6],
    pub source: [u8; 6],
}

impl Link {
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> Result<Self, XdpOutcome> {
        at(ctx, 0).ok_or(XdpOutcome::NeedsStack)
    }
}

/// The header of one family in a frame.
pub trait Header: Family {
    /// Bytes without options.
    const LENGTH: usize;

    /// What routing asks of the packet; none if only the node's stack may forward it.
    fn transit(ctx: &XdpContext) -> Option<Transit>;

    /// One hop less, and other addresses. `false`: nothing was changed, as it is not whole.
    fn hop(ctx: &XdpContext, ends: &Ends<Self::Address>, by_addresses: u64) -> bool;
}

impl Header for V4 {
    const LENGTH: usize = IPV4_HEADER;

    #[inline(always)]
    fn transit(ctx: &XdpContext) -> Option<Transit> {
        packet::transit_v4(ctx)
    }

    #[inline(always)]
    fn hop(ctx: &XdpContext, ends: &Ends<u32>, by_addresses: u64) -> bool {
        /// What stands from the hops on to the addresses.
        type Middle = ([u8; 2], u16);
        let Some(middle) = place::<Middle>(ctx, ETHERNET + IPV4_HOPS) else { return false };
        let Some(addresses) = place::<[u32; 2]>(ctx, ETHERNET + IPV4_ADDRESSES) else { return false };
        // SAFETY: both lie in the frame, as `place` checked, and nothing moved it since.
        unsafe {
            let ([hops, protocol], checksum) = middle.read_unaligned();
            let fewer = [hops.wrapping_sub(1), protocol];
            let by_hop = difference(half([hops, protocol]), half(fewer));
            middle.write_unaligned((fewer, adjusted(checksum, by_addresses + by_hop)));
            addresses.write_unaligned([ends.source, ends.destination]);
        }
        true
    }
}

impl Header for V6 {
    const LENGTH: usize = IPV6_HEADER;

    #[inline(always)]
    fn transit(ctx: &XdpContext) -> Option<Transit> {
        packet::transit_v6(ctx)
    }

    #[inline(always)]
    fn hop(ctx: &XdpContext, ends: &Ends<Words>, _: u64) -> bool {
        let Some(hops) = place::<u8>(ctx, ETHERNET + IPV6_HOPS) else { return false };
        let Some(addresses) = place::<[Words; 2]>(ctx, ETHERNET + IPV6_ADDRESSES) else { return false };
        // SAFETY: as in `V4::hop`.
        unsafe {
            hops.write(hops.read().wrapping_sub(1));
            addresses.write_unaligned([ends.source, ends.destination]);
        }
        true
    }
}

/// Gives a frame its ends and its next hop. `None`: it is not whole, and nothing of it was changed.
///
/// 1. The link's addresses, 2. the header's hops, addresses and checksum, 3. the transport's checksum, 4. the ports.
#[inline(always)]
pub fn rewrite<F: Header>(
    ctx: &XdpContext,
    packet: &Packet<F::Address>,
    ends: &Ends<F::Address>,
    link: Link,
) -> Option<()> {
    let transport = ETHERNET + F::LENGTH;
    let by_addresses = address_difference::<F>(packet, ends);
    let by_both = by_addresses + ports_difference(packet, ends);
    let frame = place::<Link>(ctx, 0)?;
    let ports = place::<[[u8; 2]; 2]>(ctx, transport)?;
    let checksum = match packet.protocol {
        TCP => Some(place::<u16>(ctx, transport + 16)?),
        UDP => Some(place::<u16>(ctx, transport + 6)?),
        _ => None,
    };
    if !F::hop(ctx, ends, by_addresses) {
        return None;
    }
    // SAFETY: all of them lie in the frame, as `place` checked, and nothing moved it since.
    unsafe {
        frame.write_unaligned(link);
        if let Some(checksum) = checksum {
            checksum.write_unaligned(translated(packet.protocol, checksum.read_unaligned(), by_both));
        }
        ports.write_unaligned([ends.source_port, ends.destination_port]);
    }
    Some(())
}

/// A UDP datagram without a checksum stays without one, and one whose sum comes out as 0 says so in another way (RFC 768).
#[inline(always)]
fn translated(protocol: u8, old: u16, by: u64) -> u16 {
    if protocol == UDP && old == 0 {
        return 0;
    }
    match adjusted(old, by) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    }
}

/// Two bytes as they add to a checksum.
#[inline(always)]
fn half(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes).into()
}

/// A place in the frame to write to; the one bounds check of those.
#[inline(always)]
fn place<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.start() + offset;
    (start + size_of::<T>() <= ctx.end()).then_some(start as *mut T)
}
