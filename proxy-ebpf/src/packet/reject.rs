//! Rejects: a TCP reset, or ICMP port unreachable (rule G1).
//!
//! The packet itself is rewritten to its reject and sent back.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_redirect, bpf_skb_change_tail},
    macros::btf_map,
    programs::TcContext,
};
use proxy_ebpf::csum::{checksum, sum};

use super::{
    header::{ETHERNET, Headers, PacketData, TCP, read},
    hook::ClientLocation,
    parse::Packet,
    vlan,
};
use crate::{
    clock, config,
    family::{V4, V6, Words},
};

/// Lengths of the headers of rejects, in words.
const IPV4: usize = 5;
const IPV6: usize = 10;
const RESET: usize = 5;
/// The ICMP header, followed by the rejected packet's IP header and the first 8 bytes after that (RFC 792).
const ICMP: usize = 2;
const QUOTE: usize = 2;

const TTL: u8 = 64;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
/// A token bucket of ICMP errors, per CPU.
#[repr(C)]
struct Sent {
    /// The current tick.
    tick: u32,
    count: u32,
}

#[btf_map]
static ICMP_ERRORS: PerCpuArray<Sent, 1> = PerCpuArray::new();

/// Whether the rate limit permits one more ICMP error. An error is longer than the shortest packet that causes it, which would
/// amplify traffic with forged source addresses (RFC 1812, 4.3.2.8; RFC 4443, 2.4 f).
#[inline(always)]
fn is_within_rate_limit() -> bool {
    let Some(sent) = ICMP_ERRORS.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own; every pattern of its plain values is valid, and it lives as long as the program.
    let sent = unsafe { &mut *sent };
    let tick = clock::ticks();
    if sent.tick != tick {
        *sent = Sent { tick, count: 0 };
    }
    if sent.count >= config::icmp_errors() {
        return false;
    }
    sent.count = sent.count.wrapping_add(1);
    true
}

/// The reject of a family.
pub trait Reject: Headers {
    /// Rewrites a packet to its reject. Returns `false` if that is impossible.
    fn rewrite_to_reject(ctx: &TcContext, packet: &Packet<Self::Address>) -> bool;
}

impl Reject for V4 {
    #[inline(always)]
    fn rewrite_to_reject(ctx: &TcContext, packet: &Packet<u32>) -> bool {
        reject_v4(ctx, packet)
    }
}

impl Reject for V6 {
    #[inline(always)]
    fn rewrite_to_reject(ctx: &TcContext, packet: &Packet<Words>) -> bool {
        reject_v6(ctx, packet)
    }
}

/// Sends the reject. Returns the kernel's redirect verdict, or `None` if no reject can be made or the rate limit is exceeded.
#[inline(always)]
pub fn reject<F: Reject>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    client: ClientLocation,
) -> Option<i32> {
    // The first fragment was rejected already. ICMP errors are never rejected (RFC 1122, 3.2.2).
    if packet.is_later_fragment()
        || packet.is_icmp_error()
        || (packet.protocol != TCP && !is_within_rate_limit())
    {
        return None;
    }
    if !F::rewrite_to_reject(ctx, packet) {
        return None;
    }
    swap_mac_addresses(ctx, packet.network())?;
    vlan::remove_priority_tag(ctx).ok()?;
    // SAFETY: plain numbers; the kernel's own context.
    Some(unsafe {
        let flags = if client == ClientLocation::OnNode { BPF_F_INGRESS } else { 0 };
        bpf_redirect((*ctx.skb.skb).ifindex, flags.into()) as i32
    })
}

/// The reject returns to the sender of the frame.
#[inline(always)]
fn swap_mac_addresses(ctx: &TcContext, network: usize) -> Option<()> {
    if network != ETHERNET {
        return Some(());
    }
    let [to, from] = read::<[[u8; 6]; 2]>(ctx, 0)?;
    ctx.store(0, &[from, to], 0).ok()
}

/// Resizes the packet.
#[inline(always)]
fn resize(ctx: &TcContext, length: usize) -> Option<()> {
    // SAFETY: the kernel's own context; nothing read from the packet before is used after this.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb, length as u32, 0) } == 0).then_some(())
}

#[inline(never)]
fn reject_v4(ctx: &TcContext, packet: &Packet<u32>) -> bool {
    if packet.protocol == TCP { reset_v4(ctx, packet) } else { unreachable_v4(ctx, packet) }.is_some()
}

#[inline(never)]
fn reject_v6(ctx: &TcContext, packet: &Packet<Words>) -> bool {
    if packet.protocol == TCP { reset_v6(ctx, packet) } else { unreachable_v6(ctx, packet) }.is_some()
}

#[inline(always)]
fn reset_v4(ctx: &TcContext, packet: &Packet<u32>) -> Option<()> {
    // IP options would have to be removed; SYNs do not carry any in practice.
    if packet.transport() != packet.network() + IPV4 * 4 {
        return None;
    }
    let sequence = sequence(ctx, packet.transport())?;
    let header = ipv4_header(packet, (IPV4 + RESET) as u16 * 4, TCP);
    let tcp = reset(packet.source_port, packet.destination_port, sequence, sum(&header[3..5]));
    resize(ctx, packet.network() + (IPV4 + RESET) * 4)?;
    ctx.store(packet.network(), &header, 0).ok()?;
    ctx.store(packet.transport(), &tcp, 0).ok()
}

#[inline(always)]
fn reset_v6(ctx: &TcContext, packet: &Packet<Words>) -> Option<()> {
    let sequence = sequence(ctx, packet.transport())?;
    let header = ipv6_header(packet, RESET as u16 * 4, TCP);
    let tcp = reset(packet.source_port, packet.destination_port, sequence, sum(&header[2..10]));
    resize(ctx, packet.network() + (IPV6 + RESET) * 4)?;
    ctx.store(packet.network(), &header, 0).ok()?;
    ctx.store(packet.network() + IPV6 * 4, &tcp, 0).ok()
}

#[inline(always)]
fn unreachable_v4(ctx: &TcContext, packet: &Packet<u32>) -> Option<()> {
    const DESTINATION_UNREACHABLE: u8 = 3;
    const PORT: u8 = 3;
    if packet.transport() != packet.network() + IPV4 * 4 {
        return None;
    }
    let quote: [u32; IPV4 + QUOTE] = read(ctx, packet.network())?;
    let header = ipv4_header(packet, ((IPV4 + ICMP) * 4 + size_of_val(&quote)) as u16, ICMP_V4);
    let kind = u32::from_ne_bytes([DESTINATION_UNREACHABLE, PORT, 0, 0]);
    let [kind_high, kind_low] = checksum(sum(&quote) + u64::from(kind)).to_ne_bytes();
    let icmp = [u32::from_ne_bytes([DESTINATION_UNREACHABLE, PORT, kind_high, kind_low]), 0];
    resize(ctx, packet.network() + (IPV4 + ICMP) * 4 + size_of_val(&quote))?;
    ctx.store(packet.network(), &header, 0).ok()?;
    ctx.store(packet.network() + IPV4 * 4, &icmp, 0).ok()?;
    ctx.store(packet.network() + (IPV4 + ICMP) * 4, &quote, 0).ok()
}

/// RFC 4443 asks for a quote as long as fits; applications need the first bytes only.
#[inline(always)]
fn unreachable_v6(ctx: &TcContext, packet: &Packet<Words>) -> Option<()> {
    const DESTINATION_UNREACHABLE: u8 = 1;
    const PORT: u8 = 4;
    let quote: [u32; IPV6 + QUOTE] = read(ctx, packet.network())?;
    let length = (ICMP * 4 + size_of_val(&quote)) as u16;
    let header = ipv6_header(packet, length, ICMP_V6);
    let kind = u32::from_ne_bytes([DESTINATION_UNREACHABLE, PORT, 0, 0]);
    let pseudo =
        sum(&header[2..10]) + u64::from((u32::from(length)).to_be()) + u64::from(u32::from(ICMP_V6).to_be());
    let [high, low] = checksum(pseudo + sum(&quote) + u64::from(kind)).to_ne_bytes();
    let icmp = [u32::from_ne_bytes([DESTINATION_UNREACHABLE, PORT, high, low]), 0];
    resize(ctx, packet.network() + IPV6 * 4 + usize::from(length))?;
    ctx.store(packet.network(), &header, 0).ok()?;
    ctx.store(packet.network() + IPV6 * 4, &icmp, 0).ok()?;
    ctx.store(packet.network() + (IPV6 + ICMP) * 4, &quote, 0).ok()
}

/// The client's sequence number, in host order.
#[inline(always)]
fn sequence(ctx: &impl PacketData, transport: usize) -> Option<u32> {
    read::<[u8; 4]>(ctx, transport + 4).map(u32::from_be_bytes)
}

#[inline(always)]
fn ipv4_header(packet: &Packet<u32>, length: u16, protocol: u8) -> [u32; IPV4] {
    let [high, low] = length.to_be_bytes();
    let first = u32::from_ne_bytes([0x45, 0, high, low]);
    let [source, destination] = [packet.destination, packet.source];
    let unsummed = [first, 0, u32::from_ne_bytes([TTL, protocol, 0, 0]), source, destination];
    let [high, low] = checksum(sum(&unsummed)).to_ne_bytes();
    [first, 0, u32::from_ne_bytes([TTL, protocol, high, low]), source, destination]
}

#[inline(always)]
fn ipv6_header(packet: &Packet<Words>, payload: u16, next: u8) -> [u32; IPV6] {
    let [high, low] = payload.to_be_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (packet.destination, packet.source);
    [u32::from_ne_bytes([0x60, 0, 0, 0]), u32::from_ne_bytes([high, low, next, TTL]), a, b, c, d, e, f, g, h]
}

/// A reset that acknowledges the SYN (RFC 9293, 3.10.7.1). `addresses` is the checksum of the pseudo header's addresses.
#[inline(always)]
fn reset(client: [u8; 2], frontend: [u8; 2], sequence: u32, addresses: u64) -> [u32; RESET] {
    const HEADER: u8 = 5 << 4;
    const RST_ACK: u8 = 0x14;
    let ports = u32::from_ne_bytes([frontend[0], frontend[1], client[0], client[1]]);
    let acknowledged = sequence.wrapping_add(1).to_be();
    let kind = u32::from_ne_bytes([HEADER, RST_ACK, 0, 0]);
    let length = (RESET as u32 * 4).to_be();
    let pseudo = addresses + u64::from(u32::from(TCP).to_be()) + u64::from(length);
    let [high, low] = checksum(pseudo + sum(&[ports, 0, acknowledged, kind])).to_ne_bytes();
    [ports, 0, acknowledged, kind, u32::from_ne_bytes([high, low, 0, 0])]
}
