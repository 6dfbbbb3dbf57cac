//! Translation of ICMP errors: of the quoted packet, and of the error's own addresses.
//!
//! An error has the 5-tuple of a reply to the packet it quotes, so the translation of the quoted packet is that of the error with
//! source and destination swapped. As in Linux's NAT (`nf_nat_icmp_reply_translation`), an error about a translated packet gets
//! the translated source address, whichever router sent it.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::{
    abi::DropReason,
    csum::{adjusted, difference, fold},
};

use super::{
    dissect::ICMP_HEADER,
    header::{Headers, TCP, UDP, read},
    parse::Packet,
    rewrite::{Translation, address_difference, failed, ports_difference, update_pseudo_header},
};

/// Offset of the checksum in the ICMP header.
const CHECKSUM: usize = 2;

/// 1. The quoted packet, 2. the error's own addresses, 3. the ICMP checksum for both.
#[inline(always)]
pub fn rewrite<F: Headers>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    to: &Translation<F::Address>,
) -> Result<(), DropReason> {
    let icmp = packet.transport() + CHECKSUM;
    let by_quoted = rewrite_quoted::<F>(ctx, packet, to)?;
    let by_own = rewrite_own::<F>(ctx, packet, to)?;
    ctx.l4_csum_replace(icmp, 0, by_quoted, 0).map_err(failed)?;
    if F::CHECKSUM.is_none() {
        // The ICMPv6 checksum covers a pseudo header.
        update_pseudo_header::<F>(ctx, icmp, by_own, aya_ebpf::bindings::BPF_F_PSEUDO_HDR.into())?;
    }
    Ok(())
}

/// Translates the quoted packet. Returns the checksum difference of the quoted bytes.
#[inline(always)]
fn rewrite_quoted<F: Headers>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    to: &Translation<F::Address>,
) -> Result<u64, DropReason> {
    let network = packet.transport() + ICMP_HEADER;
    let by_addresses = address_difference::<F>(packet, to);
    let by_ports = ports_difference(packet, to);
    let mut changed = by_addresses + by_ports;
    if let Some(checksum) = F::CHECKSUM {
        changed += adjust(ctx, network + checksum, by_addresses)?;
    }
    if let Some(checksum) = checksum_of(ctx, packet) {
        changed += adjust(ctx, checksum, by_addresses + by_ports)?;
    }
    F::store_addresses(ctx, network, to.destination, to.source).map_err(failed)?;
    ctx.store(packet.quoted(), &[to.destination_port, to.source_port], 0).map_err(failed)?;
    Ok(fold(changed).into())
}

/// Offset of the quoted packet's transport checksum, if it has one and it is quoted.
#[inline(always)]
fn checksum_of<A: Copy>(ctx: &TcContext, packet: &Packet<A>) -> Option<usize> {
    let offset = match packet.protocol {
        UDP => 6,
        TCP => 16,
        _ => return None,
    };
    let at_offset = packet.quoted() + offset;
    // 0 means no checksum in UDP (RFC 768), and is a valid checksum in TCP.
    let has_checksum =
        read::<[u8; 2]>(ctx, at_offset).is_some_and(|sum| packet.protocol == TCP || sum != [0; 2]);
    has_checksum.then_some(at_offset)
}

/// Updates a checksum in the packet. Returns the checksum difference of the checksum field.
#[inline(always)]
fn adjust(ctx: &TcContext, offset: usize, differences: u64) -> Result<u64, DropReason> {
    let old = read::<[u8; 2]>(ctx, offset).map(u16::from_ne_bytes).ok_or(DropReason::RewriteFailed)?;
    // 0 is written as 0xffff, which is equal in ones' complement and valid for UDP as well.
    let new = match adjusted(old, differences) {
        0 => u16::MAX,
        new => new,
    };
    ctx.store(offset, &new, 0).map_err(failed)?;
    Ok(difference(old.into(), new.into()))
}

/// Translates the error's own addresses. Returns their checksum difference.
#[inline(always)]
fn rewrite_own<F: Headers>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    to: &Translation<F::Address>,
) -> Result<u64, DropReason> {
    let sender = packet.icmp_sender;
    let is_translated = !F::is_same(F::bytes(to.source), F::bytes(packet.source));
    let source = if is_translated { to.source } else { sender };
    let by_own =
        u64::from(fold(F::difference(sender, source) + F::difference(packet.destination, to.destination)));
    if let Some(checksum) = F::CHECKSUM {
        ctx.l3_csum_replace(packet.network() + checksum, 0, by_own, 0).map_err(failed)?;
    }
    F::store_addresses(ctx, packet.network(), source, to.destination).map_err(failed)?;
    Ok(by_own)
}
