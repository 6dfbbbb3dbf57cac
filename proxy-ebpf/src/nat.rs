//! Rewriting a packet's ends, checksums included.
//!
//! Checksums change by the difference of what they cover (RFC 1624). The kernel's helpers know which of them the
//! packet really carries: one that its sender left to the hardware covers the addresses only.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use proxy_ebpf::{
    abi::DropReason,
    csum::{difference, fold},
};

use crate::{
    family::Family,
    icmp,
    packet::{Packet, SCTP, UDP},
    stage::Step,
};

/// From linux/bpf.h since Linux 6.16: the addresses are IPv6's, which no checksum of the network layer covers.
const BPF_F_IPV6: u64 = 1 << 7;

/// Both ends of a packet as they are to be.
#[derive(Clone, Copy)]
pub struct Ends<A> {
    pub source: A,
    pub destination: A,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
}

impl<A: Copy> Ends<A> {
    #[inline(always)]
    pub fn of(packet: &Packet<A>) -> Self {
        Self {
            source: packet.source,
            destination: packet.destination,
            source_port: packet.source_port,
            destination_port: packet.destination_port,
        }
    }
}

/// Gives a packet its ends.
#[inline(always)]
pub fn translate<F: Family>(ctx: &TcContext, packet: &Packet<F::Address>, ends: &Ends<F::Address>) -> Step {
    let rewritten = if packet.is_error() {
        icmp::rewrite::<F>(ctx, packet, ends)
    } else {
        rewrite::<F>(ctx, packet, ends)
    };
    match rewritten {
        Ok(()) => Step::PASS,
        Err(reason) => Step::refuse(reason, None),
    }
}

/// 1. The header's own checksum, 2. the transport's over the addresses, 3. over the ports, 4. the addresses, 5. the ports.
#[inline(always)]
fn rewrite<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    ends: &Ends<F::Address>,
) -> Result<(), DropReason> {
    let by_addresses = address_difference::<F>(packet, ends);
    let by_ports = ports_difference(packet, ends);
    if let Some(checksum) = F::NETWORK_CHECKSUM {
        ctx.l3_csum_replace(packet.network() + checksum, 0, by_addresses, 0).map_err(failed)?;
    }
    if packet.is_later_fragment() {
        return F::store_addresses(ctx, packet.network(), ends).map_err(failed);
    }
    if packet.protocol != SCTP {
        let checksum = packet.transport() + if packet.protocol == UDP { 6 } else { 16 };
        // A UDP datagram without a checksum stays without one, and one whose sum comes out as 0 says so in another way.
        let mangled = if packet.protocol == UDP { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        over_addresses::<F>(ctx, checksum, by_addresses, mangled | u64::from(BPF_F_PSEUDO_HDR))?;
        ctx.l4_csum_replace(checksum, 0, by_ports, mangled).map_err(failed)?;
    }
    let ports = [ends.source_port, ends.destination_port];
    F::store_addresses(ctx, packet.network(), ends).map_err(failed)?;
    ctx.store(packet.transport(), &ports, 0).map_err(failed)
}

#[inline(always)]
pub fn over_addresses<F: Family>(
    ctx: &TcContext,
    checksum: usize,
    difference: u64,
    flags: u64,
) -> Result<(), DropReason> {
    // A kernel that does not know the flag refuses it before it does anything.
    if F::NETWORK_CHECKSUM.is_none()
        && ctx.l4_csum_replace(checksum, 0, difference, flags | BPF_F_IPV6).is_ok()
    {
        return Ok(());
    }
    ctx.l4_csum_replace(checksum, 0, difference, flags).map_err(failed)
}

/// What the change of both addresses adds to a checksum.
#[inline(always)]
pub fn address_difference<F: Family>(packet: &Packet<F::Address>, ends: &Ends<F::Address>) -> u64 {
    let sum = F::difference(packet.source, ends.source) + F::difference(packet.destination, ends.destination);
    fold(sum).into()
}

/// What the change of both ports adds to a checksum.
#[inline(always)]
pub fn ports_difference<A>(packet: &Packet<A>, ends: &Ends<A>) -> u64 {
    let sum = port_difference(packet.source_port, ends.source_port)
        + port_difference(packet.destination_port, ends.destination_port);
    fold(sum).into()
}

#[inline(always)]
fn port_difference(old: [u8; 2], new: [u8; 2]) -> u64 {
    // As words, so that the complement has no bits of its own in the upper half.
    difference(u32::from(u16::from_ne_bytes(old)), u32::from(u16::from_ne_bytes(new)))
}

#[inline(always)]
pub fn failed(_: aya_ebpf::cty::c_long) -> DropReason {
    DropReason::RewriteFailed
}
