//! Rewriting addresses and ports of a packet at tc, including checksums.
//!
//! Checksums are updated incrementally (RFC 1624). The kernel's helpers handle packets with checksum offload, whose checksum
//! covers the pseudo header only.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use proxy_ebpf::{
    abi::DropReason,
    csum::{difference, fold},
};

use super::{
    header::{Headers, SCTP, UDP},
    parse::Packet,
};

/// From linux/bpf.h, since Linux 6.16: IPv6 addresses, which are not covered by a checksum of the network layer.
const BPF_F_IPV6: u64 = 1 << 7;

/// Addresses and ports of a packet after translation.
#[derive(Clone, Copy)]
pub struct Translation<A> {
    pub source: A,
    pub destination: A,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
}

impl<A: Copy> Translation<A> {
    /// The translation that changes nothing.
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

/// 1. The IP header checksum, 2. the transport checksum for the addresses, 3. for the ports, 4. the addresses, 5. the ports.
#[inline(always)]
pub fn rewrite<F: Headers>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    to: &Translation<F::Address>,
) -> Result<(), DropReason> {
    let by_addresses = address_difference::<F>(packet, to);
    let by_ports = ports_difference(packet, to);
    if let Some(checksum) = F::CHECKSUM {
        ctx.l3_csum_replace(packet.network() + checksum, 0, by_addresses, 0).map_err(failed)?;
    }
    if packet.is_later_fragment() {
        return F::store_addresses(ctx, packet.network(), to.source, to.destination).map_err(failed);
    }
    if packet.protocol != SCTP {
        let checksum = packet.transport() + if packet.protocol == UDP { 6 } else { 16 };
        // A UDP datagram without checksum stays without, and a computed checksum of 0 is written as 0xffff (RFC 768).
        let mangled = if packet.protocol == UDP { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        update_pseudo_header::<F>(ctx, checksum, by_addresses, mangled | u64::from(BPF_F_PSEUDO_HDR))?;
        ctx.l4_csum_replace(checksum, 0, by_ports, mangled).map_err(failed)?;
    }
    let ports = [to.source_port, to.destination_port];
    F::store_addresses(ctx, packet.network(), to.source, to.destination).map_err(failed)?;
    ctx.store(packet.transport(), &ports, 0).map_err(failed)
}

/// Updates a transport checksum by the difference of the addresses.
#[inline(always)]
pub fn update_pseudo_header<F: Headers>(
    ctx: &TcContext,
    checksum: usize,
    difference: u64,
    flags: u64,
) -> Result<(), DropReason> {
    // A kernel without the flag refuses it before any change.
    if F::CHECKSUM.is_none() && ctx.l4_csum_replace(checksum, 0, difference, flags | BPF_F_IPV6).is_ok() {
        return Ok(());
    }
    ctx.l4_csum_replace(checksum, 0, difference, flags).map_err(failed)
}

/// The checksum difference of both addresses.
#[inline(always)]
pub fn address_difference<F: Headers>(packet: &Packet<F::Address>, to: &Translation<F::Address>) -> u64 {
    let sum = F::difference(packet.source, to.source) + F::difference(packet.destination, to.destination);
    fold(sum).into()
}

/// The checksum difference of both ports.
#[inline(always)]
pub fn ports_difference<A>(packet: &Packet<A>, to: &Translation<A>) -> u64 {
    let sum = port_difference(packet.source_port, to.source_port)
        + port_difference(packet.destination_port, to.destination_port);
    fold(sum).into()
}

#[inline(always)]
fn port_difference(old: [u8; 2], new: [u8; 2]) -> u64 {
    // As words: the complement of a u16 would set the upper half.
    difference(u32::from(u16::from_ne_bytes(old)), u32::from(u16::from_ne_bytes(new)))
}

/// The drop reason of a failed helper.
#[inline(always)]
pub fn failed(_: aya_ebpf::cty::c_long) -> DropReason {
    DropReason::RewriteFailed
}
