//! A packet's ends, and where its headers lie.
//!
//! Everything is read through `at`, which holds the one bounds check; what it returns is a copy, so nothing refers to a
//! packet across a helper that may move it.

use core::{mem::offset_of, ptr};

use proxy_ebpf::{
    abi::{Direction, Tuple},
    csum::{checksum, sum},
};

use crate::family::{Family, Words, words};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const ETHERNET: usize = 14;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
/// More than all headers we look at take.
pub const HEADERS: u32 = 128;

/// The part of a packet that can be read directly.
pub trait Window {
    fn start(&self) -> usize;
    fn end(&self) -> usize;
}

/// One end each way, and what the decision needs besides.
#[derive(Clone, Copy)]
pub struct Packet<A> {
    pub source: A,
    pub destination: A,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// TCP's flags; 0 for other protocols.
    pub flags: u8,
    pub part: Part,
    /// What the fragments of one datagram share.
    pub id: u32,
    /// Whom an error comes from.
    pub sender: A,
    /// Offset of the IP header. A byte, so that the verifier knows its bounds when it comes out of a map.
    network: u8,
    /// Offset of the header after it.
    transport: u8,
    /// Offset of the header after it in the packet that an error quotes.
    quoted: u8,
}

/// What there is of a packet. Not an enum: it is kept in a map between the stages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Part(u8);

impl Part {
    pub const WHOLE: Self = Self(0);
    /// The fragment with the ports.
    pub const FIRST: Self = Self(1);
    /// A fragment without.
    pub const LATER: Self = Self(2);
    /// An ICMP error, whose ends are those of an answer to the packet it quotes.
    pub const ERROR: Self = Self(3);
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    pub version_and_length: u8,
    service: u8,
    total: [u8; 2],
    pub id: [u8; 2],
    pub fragment: [u8; 2],
    ttl: u8,
    pub protocol: u8,
    checksum: [u8; 2],
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    pub version: [u8; 4],
    payload: [u8; 2],
    pub next: u8,
    hops: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

/// Where the parts lie that a translation writes.
pub const IPV4_CHECKSUM: usize = offset_of!(Ipv4, checksum);
pub const IPV4_ADDRESSES: usize = offset_of!(Ipv4, source);
pub const IPV6_ADDRESSES: usize = offset_of!(Ipv6, source);
pub const IPV4_HOPS: usize = offset_of!(Ipv4, ttl);
pub const IPV6_HOPS: usize = offset_of!(Ipv6, hops);
/// The length of headers without options.
pub const IPV4_HEADER: usize = size_of::<Ipv4>();
pub const IPV6_HEADER: usize = size_of::<Ipv6>();

impl<A: Copy> Packet<A> {
    /// Offset of the IP header.
    #[inline(always)]
    pub fn network(&self) -> usize {
        self.network.into()
    }

    /// Offset of the header after it.
    #[inline(always)]
    pub fn transport(&self) -> usize {
        self.transport.into()
    }

    /// Offset of the transport's header in the packet that an error quotes.
    #[inline(always)]
    pub fn quoted(&self) -> usize {
        self.quoted.into()
    }

    #[inline(always)]
    pub fn set_offsets(&mut self, network: usize, transport: usize) {
        self.network = network as u8;
        self.transport = transport as u8;
    }

    #[inline(always)]
    pub fn set_quoted(&mut self, transport: usize) {
        self.quoted = transport as u8;
    }

    #[inline(always)]
    pub fn is_error(&self) -> bool {
        self.part == Part::ERROR
    }

    /// Whether it has no ports of its own, nor a checksum.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.part == Part::LATER
    }

    /// The key of the entry of `CONNTRACK_*` for this packet.
    #[inline(always)]
    pub fn tuple<F: Family<Address = A>>(&self, direction: Direction) -> Tuple<F::Bytes> {
        Tuple {
            source: F::bytes(self.source),
            destination: F::bytes(self.destination),
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            direction: direction as u8,
            zero: [0; 2],
        }
    }

    /// The same for an answer to it.
    #[inline(always)]
    pub fn answer<F: Family<Address = A>>(&self, direction: Direction) -> Tuple<F::Bytes> {
        let tuple = self.tuple::<F>(direction);
        Tuple {
            source: tuple.destination,
            destination: tuple.source,
            source_port: tuple.destination_port,
            destination_port: tuple.source_port,
            ..tuple
        }
    }
}

/// Devices such as WireGuard's have no link layer: the packet begins with the IP header. On others the type that the
/// kernel knows stands in the Ethernet header.
#[inline(always)]
pub fn network_header(packet: &impl Window, ethertype: u16) -> Option<usize> {
    let (in_header, _) = at::<([u8; 2], u8)>(packet, ETHERNET - 2)?;
    Some(if u16::from_be_bytes(in_header) == ethertype { ETHERNET } else { 0 })
}

/// Reads the ends of an IPv4 packet that is whole. `false`: it has none that could be translated in passing.
#[inline(always)]
pub fn parse_v4(packet: &impl Window, into: &mut Packet<u32>) -> bool {
    const FRAGMENT: u16 = 0x3fff;
    let Some(network) = network_header(packet, IPV4) else { return false };
    let Some(header) = at::<Ipv4>(packet, network) else { return false };
    let length = usize::from(header.version_and_length & 0xf) * 4;
    let is_whole = u16::from_be_bytes(header.fragment) & FRAGMENT == 0;
    if header.version_and_length >> 4 != 4 || length < size_of::<Ipv4>() || !is_whole {
        return false;
    }
    into.source = u32::from_ne_bytes(header.source);
    into.destination = u32::from_ne_bytes(header.destination);
    parse_transport(packet, into, header.protocol, network, network + length)
}

#[inline(always)]
pub fn parse_v6(packet: &impl Window, into: &mut Packet<Words>) -> bool {
    let Some(network) = network_header(packet, IPV6) else { return false };
    let Some(header) = at::<Ipv6>(packet, network) else { return false };
    if header.version[0] >> 4 != 6 {
        return false;
    }
    into.source = words(header.source);
    into.destination = words(header.destination);
    parse_transport(packet, into, header.next, network, network + size_of::<Ipv6>())
}

/// What routing asks of a packet.
pub struct Transit {
    /// Its length, link-layer header not included.
    pub total: u16,
    /// Its class of service, as the kernel's look-up of routes wants it.
    pub service: u32,
}

/// `None`: only the node's stack may forward it, as it has options, came to its last hop, is damaged or not in one piece.
#[inline(always)]
pub fn transit_v4(frame: &impl Window) -> Option<Transit> {
    const WITHOUT_OPTIONS: u8 = 0x45;
    let words = at::<[u32; IPV4_HEADER / 4]>(frame, ETHERNET)?;
    let header = at::<Ipv4>(frame, ETHERNET)?;
    let total = u16::from_be_bytes(header.total);
    let is_fit = header.version_and_length == WITHOUT_OPTIONS && header.ttl > 1 && checksum(sum(&words)) == 0;
    (is_fit && is_there(frame, total)).then_some(Transit { total, service: header.service.into() })
}

#[inline(always)]
pub fn transit_v6(frame: &impl Window) -> Option<Transit> {
    /// The class and the flow label.
    const FLOW: u32 = u32::from_be(0x0fff_ffff);
    let header = at::<Ipv6>(frame, ETHERNET)?;
    let total = u16::from_be_bytes(header.payload).checked_add(IPV6_HEADER as u16)?;
    let service = u32::from_ne_bytes(header.version) & FLOW;
    (header.hops > 1 && is_there(frame, total)).then_some(Transit { total, service })
}

/// Whether all of a packet is to be seen.
#[inline(always)]
fn is_there(frame: &impl Window, total: u16) -> bool {
    frame.start() + ETHERNET + usize::from(total) <= frame.end()
}

#[inline(always)]
pub fn parse_transport<A: Copy>(
    packet: &impl Window,
    into: &mut Packet<A>,
    protocol: u8,
    network: usize,
    transport: usize,
) -> bool {
    let Some(([a, b, c, d], flags)) = transport_header(packet, transport, protocol) else { return false };
    into.source_port = [a, b];
    into.destination_port = [c, d];
    into.protocol = protocol;
    into.flags = flags;
    into.part = Part::WHOLE;
    into.set_offsets(network, transport);
    true
}

/// The ports, and TCP's flags. A header that is not whole is nothing we could translate.
#[inline(always)]
fn transport_header(packet: &impl Window, offset: usize, protocol: u8) -> Option<([u8; 4], u8)> {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Tcp {
        ports: [u8; 4],
        numbers: [u8; 8],
        length: u8,
        flags: u8,
        rest: [u8; 6],
    }
    match protocol {
        TCP => at::<Tcp>(packet, offset).map(|header| (header.ports, header.flags)),
        UDP => at::<[u8; 8]>(packet, offset).map(|[a, b, c, d, ..]| ([a, b, c, d], 0)),
        SCTP => at::<[u8; 12]>(packet, offset).map(|[a, b, c, d, ..]| ([a, b, c, d], 0)),
        _ => None,
    }
}

/// The one bounds check.
#[inline(always)]
pub fn at<T: Copy>(packet: &impl Window, offset: usize) -> Option<T> {
    let start = packet.start() + offset;
    if start + size_of::<T>() > packet.end() {
        return None;
    }
    // SAFETY: inside the packet, as just checked; unaligned, because headers are.
    Some(unsafe { ptr::read_unaligned(start as *const T) })
}
