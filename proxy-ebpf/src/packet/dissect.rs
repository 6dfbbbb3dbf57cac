//! Dissection of a packet at tc: a complete packet, a fragment, or an ICMP error about a packet, of TCP, UDP or SCTP.
//!
//! An ICMP error gets the 5-tuple of a reply to the packet it quotes, and so belongs to that packet's flow.

use super::{
    fragment,
    header::{Headers, Ipv4, Ipv6, PacketData, SCTP, TCP, UDP, read},
    parse::{Packet, PacketKind, parse_transport},
};
use crate::family::{Family, V4, V6, Words, words};

/// Limit of IPv6 extension headers that are skipped.
const EXTENSIONS: usize = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Limit of the transport header's offset, which has to fit in a byte.
const MAX_OFFSET: usize = 192;

/// Bytes that are pulled into the linear part before a dissection: more than all headers that are read.
pub const PULL_LENGTH: u32 = 128;

/// Length of the ICMP header; the quoted packet follows (RFC 792, RFC 4443).
pub const ICMP_HEADER: usize = 8;

/// The fields of an IP header.
pub struct IpFields<A> {
    source: A,
    destination: A,
    protocol: u8,
    /// Offset of the next header.
    transport: usize,
    /// Fragment identification, in network byte order.
    id: u32,
    is_first: bool,
    has_more: bool,
}

/// The result of a dissection.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dissected {
    /// The 5-tuple is known.
    Known = 0,
    /// The 5-tuple is known, and later fragments of the datagram may be queued.
    FirstFragment = 1,
    /// A fragment that arrived before the first of its datagram.
    EarlyFragment = 2,
    /// Not translatable.
    Other = 3,
}

impl Dissected {
    #[inline(always)]
    pub fn of(code: u32) -> Self {
        match code {
            0 => Self::Known,
            1 => Self::FirstFragment,
            2 => Self::EarlyFragment,
            _ => Self::Other,
        }
    }
}

/// Parsing of a family's IP header.
pub trait Dissect: Headers {
    /// Parses the header at an offset. Returns `false` if it is truncated or invalid.
    fn parse(packet: &impl PacketData, offset: usize, into: &mut IpFields<Self::Address>) -> bool;

    /// Advances to the transport header. Returns `false` if it cannot be reached.
    fn skip_extensions(packet: &impl PacketData, into: &mut IpFields<Self::Address>) -> bool;
}

/// Dissects the packet whose IP header is at an offset.
#[inline(always)]
pub fn dissect<F: Dissect>(
    packet: &impl PacketData,
    at_offset: usize,
    into: &mut Packet<F::Address>,
) -> Dissected {
    let mut outer = IpFields::new(F::UNSPECIFIED);
    if !F::parse(packet, at_offset, &mut outer) || !F::skip_extensions(packet, &mut outer) {
        return Dissected::Other;
    }
    into.source = outer.source;
    into.destination = outer.destination;
    into.id = outer.id;
    if !outer.is_first {
        return later::<F>(into, &outer, at_offset);
    }
    if outer.protocol == F::ICMP {
        return icmp_error::<F>(packet, into, &outer, at_offset);
    }
    if !parse_transport(packet, into, outer.protocol, at_offset, outer.transport) {
        return Dissected::Other;
    }
    if !outer.has_more {
        return Dissected::Known;
    }
    into.kind = PacketKind::FIRST_FRAGMENT;
    fragment::store_ports::<F>(into);
    Dissected::FirstFragment
}

/// A fragment without transport header.
#[inline(always)]
fn later<F: Family>(
    into: &mut Packet<F::Address>,
    outer: &IpFields<F::Address>,
    network: usize,
) -> Dissected {
    if !is_translated(outer.protocol) {
        return Dissected::Other;
    }
    into.kind = PacketKind::LATER_FRAGMENT;
    into.protocol = outer.protocol;
    into.flags = 0;
    into.set_offsets(network, outer.transport);
    match fragment::ports::<F>(into) {
        Some([a, b, c, d]) => {
            (into.source_port, into.destination_port) = ([a, b], [c, d]);
            Dissected::Known
        }
        None => Dissected::EarlyFragment,
    }
}

/// An ICMP error, from any router to the source of the quoted packet.
#[inline(always)]
fn icmp_error<F: Dissect>(
    packet: &impl PacketData,
    into: &mut Packet<F::Address>,
    outer: &IpFields<F::Address>,
    at_offset: usize,
) -> Dissected {
    // Two bytes: with one, the verifier loses the bound in the comparison.
    let Some([kind, _]) = read::<[u8; 2]>(packet, outer.transport) else { return Dissected::Other };
    let mut quoted = IpFields::new(F::UNSPECIFIED);
    if !F::is_icmp_error(kind)
        || outer.has_more
        || !F::parse(packet, outer.transport + ICMP_HEADER, &mut quoted)
    {
        return Dissected::Other;
    }
    let is_reply = F::is_same(F::bytes(outer.destination), F::bytes(quoted.source));
    if !is_reply || !quoted.is_first || !is_translated(quoted.protocol) {
        return Dissected::Other;
    }
    let Some([a, b, c, d]) = read::<[u8; 4]>(packet, quoted.transport) else { return Dissected::Other };
    into.icmp_sender = outer.source;
    into.source = quoted.destination;
    into.source_port = [c, d];
    into.destination_port = [a, b];
    into.protocol = quoted.protocol;
    into.flags = 0;
    into.kind = PacketKind::ICMP_ERROR;
    into.set_offsets(at_offset, outer.transport);
    into.set_quoted(quoted.transport);
    Dissected::Known
}

#[inline(always)]
fn is_translated(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

impl<A> IpFields<A> {
    #[inline(always)]
    fn new(address: A) -> Self
    where
        A: Copy,
    {
        let (source, destination) = (address, address);
        Self { source, destination, protocol: 0, transport: 0, id: 0, is_first: true, has_more: false }
    }
}

impl Dissect for V4 {
    #[inline(always)]
    fn parse(packet: &impl PacketData, offset: usize, into: &mut IpFields<u32>) -> bool {
        const OFFSET: u16 = 0x1fff;
        const MORE: u16 = 0x2000;
        let Some(header) = read::<Ipv4>(packet, offset) else { return false };
        let length = usize::from(header.version_and_length & 0xf) * 4;
        if header.version_and_length >> 4 != 4 || length < size_of::<Ipv4>() {
            return false;
        }
        let fragment = u16::from_be_bytes(header.fragment);
        into.source = u32::from_ne_bytes(header.source);
        into.destination = u32::from_ne_bytes(header.destination);
        into.protocol = header.protocol;
        into.transport = offset + length;
        into.id = u16::from_ne_bytes(header.id).into();
        into.is_first = fragment & OFFSET == 0;
        into.has_more = fragment & MORE != 0;
        true
    }

    #[inline(always)]
    fn skip_extensions(_: &impl PacketData, _: &mut IpFields<u32>) -> bool {
        true
    }
}

impl Dissect for V6 {
    #[inline(always)]
    fn parse(packet: &impl PacketData, offset: usize, into: &mut IpFields<Words>) -> bool {
        let Some(header) = read::<Ipv6>(packet, offset) else { return false };
        if header.version[0] >> 4 != 6 {
            return false;
        }
        into.source = words(header.source);
        into.destination = words(header.destination);
        into.protocol = header.next;
        into.transport = offset + size_of::<Ipv6>();
        true
    }

    #[inline(always)]
    fn skip_extensions(packet: &impl PacketData, into: &mut IpFields<Words>) -> bool {
        for _ in 0..EXTENSIONS {
            let (protocol, is_first) = (into.protocol, into.is_first);
            if !is_first || !is_extension(protocol) {
                return true;
            }
            if !skip_extension(packet, into) || into.transport > MAX_OFFSET {
                return false;
            }
        }
        true
    }
}

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// Advances over one extension header. Returns `false` if it is truncated, or a routing header with segments left.
#[inline(always)]
fn skip_extension(packet: &impl PacketData, into: &mut IpFields<Words>) -> bool {
    const OFFSET: u16 = 0xfff8;
    const MORE: u16 = 1;
    let Some([next, length, high, low, id @ ..]) = read::<[u8; 8]>(packet, into.transport) else {
        return false;
    };
    if into.protocol == FRAGMENT {
        let fragment = u16::from_be_bytes([high, low]);
        into.id = u32::from_ne_bytes(id);
        into.is_first = fragment & OFFSET == 0;
        into.has_more = fragment & MORE != 0;
        into.transport += 8;
    } else if into.protocol == ROUTING && low != 0 {
        return false;
    } else {
        into.transport += (usize::from(length) + 1) * 8;
    }
    into.protocol = next;
    true
}
