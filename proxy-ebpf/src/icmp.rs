//! Translating ICMP errors: what they quote, and whom they come from and go to.
//!
//! An error was read as an answer to the packet it quotes, so the quoted packet's ends are the answer's turned round.
//! Like Linux's own NAT, an error about a translated packet comes from the other end as the client knows it, whichever
//! router found the fault.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::{
    abi::DropReason,
    csum::{adjusted, difference, fold},
};

use crate::{
    dissect::ICMP_HEADER,
    family::Family,
    nat::{Ends, address_difference, failed, over_addresses, ports_difference},
    packet::{Packet, TCP, UDP, at},
};

/// Where ICMP's checksum stands in its header.
const CHECKSUM: usize = 2;

/// 1. What is quoted, 2. the error's own addresses, 3. its checksum over both.
#[inline(always)]
pub fn rewrite<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    ends: &Ends<F::Address>,
) -> Result<(), DropReason> {
    let icmp = packet.transport() + CHECKSUM;
    let by_quoted = quoted::<F>(ctx, packet, ends)?;
    let by_own = own::<F>(ctx, packet, ends)?;
    ctx.l4_csum_replace(icmp, 0, by_quoted, 0).map_err(failed)?;
    if F::NETWORK_CHECKSUM.is_none() {
        // ICMPv6 covers the addresses it is sent between.
        over_addresses::<F>(ctx, icmp, by_own, aya_ebpf::bindings::BPF_F_PSEUDO_HDR.into())?;
    }
    Ok(())
}

/// Translates what is quoted; what that adds to a sum over it.
#[inline(always)]
fn quoted<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    ends: &Ends<F::Address>,
) -> Result<u64, DropReason> {
    let network = packet.transport() + ICMP_HEADER;
    let by_addresses = address_difference::<F>(packet, ends);
    let by_ports = ports_difference(packet, ends);
    let mut changed = by_addresses + by_ports;
    if let Some(checksum) = F::NETWORK_CHECKSUM {
        changed += adjust(ctx, network + checksum, by_addresses)?;
    }
    if let Some(checksum) = checksum_of(ctx, packet) {
        changed += adjust(ctx, checksum, by_addresses + by_ports)?;
    }
    let turned = Ends {
        source: ends.destination,
        source_port: ends.destination_port,
        destination: ends.source,
        destination_port: ends.source_port,
    };
    F::store_addresses(ctx, network, &turned).map_err(failed)?;
    ctx.store(packet.quoted(), &[turned.source_port, turned.destination_port], 0).map_err(failed)?;
    Ok(fold(changed).into())
}

/// Where the quoted packet's own checksum stands, if it has one and that much of it is quoted.
#[inline(always)]
fn checksum_of<A: Copy>(ctx: &TcContext, packet: &Packet<A>) -> Option<usize> {
    let offset = match packet.protocol {
        UDP => 6,
        TCP => 16,
        _ => return None,
    };
    let at_offset = packet.quoted() + offset;
    // Of UDP, 0 says that there is none (RFC 768); of TCP it is a sum like any other.
    let has_checksum =
        at::<[u8; 2]>(ctx, at_offset).is_some_and(|sum| packet.protocol == TCP || sum != [0; 2]);
    has_checksum.then_some(at_offset)
}

/// Adjusts a checksum in the packet; what that adds to a sum over it.
#[inline(always)]
fn adjust(ctx: &TcContext, offset: usize, differences: u64) -> Result<u64, DropReason> {
    let old = at::<[u8; 2]>(ctx, offset).map(u16::from_ne_bytes).ok_or(DropReason::RewriteFailed)?;
    // One that comes out as 0 is written the other way, which sums up the same and is a checksum of UDP as well.
    let new = match adjusted(old, differences) {
        0 => u16::MAX,
        new => new,
    };
    ctx.store(offset, &new, 0).map_err(failed)?;
    Ok(difference(old.into(), new.into()))
}

/// Translates whom an error comes from and goes to; what that adds to a sum over both.
#[inline(always)]
fn own<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    ends: &Ends<F::Address>,
) -> Result<u64, DropReason> {
    let sender = packet.sender;
    let is_renamed = !F::is_same(F::bytes(ends.source), F::bytes(packet.source));
    let own = Ends { source: if is_renamed { ends.source } else { sender }, ..*ends };
    let by_own = u64::from(fold(
        F::difference(sender, own.source) + F::difference(packet.destination, own.destination),
    ));
    if let Some(checksum) = F::NETWORK_CHECKSUM {
        ctx.l3_csum_replace(packet.network() + checksum, 0, by_own, 0).map_err(failed)?;
    }
    F::store_addresses(ctx, packet.network(), &own).map_err(failed)?;
    Ok(by_own)
}
