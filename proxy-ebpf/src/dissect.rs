//! What a packet at a device is: whole or a fragment, of TCP, UDP or SCTP, or an ICMP error about a packet of theirs.
//!
//! An error is read as the answer to the packet it quotes, whose flow it belongs to: from where that one went to where it
//! came from.

use crate::{
    family::{Family, V4, V6, Words, words},
    fragment,
    packet::{
        IPV4, IPV6, Ipv4, Ipv6, Packet, Part, SCTP, TCP, UDP, Window, at, network_header, parse_transport,
    },
};

/// Headers of IPv6 before the transport's that are walked over.
const EXTENSIONS: usize = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// More than any header we look at begins at.
const FAR: usize = 192;

/// ICMP's own header, behind which the packet stands that an error is about (RFC 792, RFC 4443).
pub const ICMP_HEADER: usize = 8;

/// What the network's header says.
pub struct Network<A> {
    source: A,
    destination: A,
    protocol: u8,
    /// Offset of the header after it.
    transport: usize,
    /// What the fragments of one datagram share.
    id: u32,
    is_first: bool,
    has_more: bool,
}

/// What is to be done with a packet first.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dissected {
    /// Nothing: its ends are known.
    Known = 0,
    /// The ends are known, and others may wait for them.
    First = 1,
    /// A fragment that came before the first of its datagram.
    Early = 2,
    /// Nothing that we could translate.
    Other = 3,
}

impl Dissected {
    #[inline(always)]
    pub fn of(code: u32) -> Self {
        match code {
            0 => Self::Known,
            1 => Self::First,
            2 => Self::Early,
            _ => Self::Other,
        }
    }
}

/// A family's own header.
pub trait Header: Family {
    const ETHERTYPE: u16;

    /// Reads the header at an offset. `false`: it is not whole, or nothing that we could translate.
    fn read(packet: &impl Window, offset: usize, into: &mut Network<Self::Address>) -> bool;

    /// Goes on to the transport's header. `false`: there is none that we could reach.
    fn skip_extensions(packet: &impl Window, into: &mut Network<Self::Address>) -> bool;
}

#[inline(always)]
pub fn dissect<F: Header>(packet: &impl Window, into: &mut Packet<F::Address>) -> Dissected {
    let Some(at_offset) = network_header(packet, F::ETHERTYPE) else { return Dissected::Other };
    let mut outer = Network::new(F::UNSPECIFIED);
    if !F::read(packet, at_offset, &mut outer) || !F::skip_extensions(packet, &mut outer) {
        return Dissected::Other;
    }
    into.source = outer.source;
    into.destination = outer.destination;
    into.id = outer.id;
    if !outer.is_first {
        return later::<F>(into, &outer, at_offset);
    }
    if outer.protocol == F::ICMP {
        return error::<F>(packet, into, &outer, at_offset);
    }
    if !parse_transport(packet, into, outer.protocol, at_offset, outer.transport) {
        return Dissected::Other;
    }
    if !outer.has_more {
        return Dissected::Known;
    }
    into.part = Part::FIRST;
    fragment::remember::<F>(into);
    Dissected::First
}

/// A fragment without ports of its own.
#[inline(always)]
fn later<F: Family>(into: &mut Packet<F::Address>, outer: &Network<F::Address>, network: usize) -> Dissected {
    if !is_translated(outer.protocol) {
        return Dissected::Other;
    }
    into.part = Part::LATER;
    into.protocol = outer.protocol;
    into.flags = 0;
    into.set_offsets(network, outer.transport);
    match fragment::recall::<F>(into) {
        Some([a, b, c, d]) => {
            (into.source_port, into.destination_port) = ([a, b], [c, d]);
            Dissected::Known
        }
        None => Dissected::Early,
    }
}

/// An error about a packet whose ports are quoted, from anywhere to where that packet came from.
#[inline(always)]
fn error<F: Header>(
    packet: &impl Window,
    into: &mut Packet<F::Address>,
    outer: &Network<F::Address>,
    at_offset: usize,
) -> Dissected {
    // Two bytes, for the verifier does not learn from the comparison that one leaves.
    let Some([kind, _]) = at::<[u8; 2]>(packet, outer.transport) else { return Dissected::Other };
    let mut quoted = Network::new(F::UNSPECIFIED);
    if !F::is_error(kind) || outer.has_more || !F::read(packet, outer.transport + ICMP_HEADER, &mut quoted) {
        return Dissected::Other;
    }
    let is_answer = F::is_same(F::bytes(outer.destination), F::bytes(quoted.source));
    if !is_answer || !quoted.is_first || !is_translated(quoted.protocol) {
        return Dissected::Other;
    }
    let Some([a, b, c, d]) = at::<[u8; 4]>(packet, quoted.transport) else { return Dissected::Other };
    into.sender = outer.source;
    into.source = quoted.destination;
    into.source_port = [c, d];
    into.destination_port = [a, b];
    into.protocol = quoted.protocol;
    into.flags = 0;
    into.part = Part::ERROR;
    into.set_offsets(at_offset, outer.transport);
    into.set_quoted(quoted.transport);
    Dissected::Known
}

#[inline(always)]
fn is_translated(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

impl<A> Network<A> {
    #[inline(always)]
    fn new(address: A) -> Self
    where
        A: Copy,
    {
        let (source, destination) = (address, address);
        Self { source, destination, protocol: 0, transport: 0, id: 0, is_first: true, has_more: false }
    }
}

impl Header for V4 {
    const ETHERTYPE: u16 = IPV4;

    #[inline(always)]
    fn read(packet: &impl Window, offset: usize, into: &mut Network<u32>) -> bool {
        const OFFSET: u16 = 0x1fff;
        const MORE: u16 = 0x2000;
        let Some(header) = at::<Ipv4>(packet, offset) else { return false };
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
    fn skip_extensions(_: &impl Window, _: &mut Network<u32>) -> bool {
        true
    }
}

impl Header for V6 {
    const ETHERTYPE: u16 = IPV6;

    #[inline(always)]
    fn read(packet: &impl Window, offset: usize, into: &mut Network<Words>) -> bool {
        let Some(header) = at::<Ipv6>(packet, offset) else { return false };
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
    fn skip_extensions(packet: &impl Window, into: &mut Network<Words>) -> bool {
        for _ in 0..EXTENSIONS {
            let (protocol, is_first) = (into.protocol, into.is_first);
            if !is_first || !is_extension(protocol) {
                return true;
            }
            if !skip_extension(packet, into) || into.transport > FAR {
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

/// Goes on to the header behind an extension. `false`: it is not whole, or the packet is on its way to another router first.
#[inline(always)]
fn skip_extension(packet: &impl Window, into: &mut Network<Words>) -> bool {
    const OFFSET: u16 = 0xfff8;
    const MORE: u16 = 1;
    let Some([next, length, high, low, id @ ..]) = at::<[u8; 8]>(packet, into.transport) else {
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
