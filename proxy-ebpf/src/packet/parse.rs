//! A packet's 5-tuple and the offsets of its headers, from packets that are neither fragments nor ICMP errors.

use proxy_ebpf::abi::{Direction, Segment, Tuple};

use super::header::{ETHERNET, Ipv4, Ipv6, PacketData, SCTP, TCP, UDP, read};
use crate::family::{Family, Words, words};

/// The 5-tuple of a packet, and the offsets of its headers.
#[derive(Clone, Copy)]
pub struct Packet<A> {
    pub source: A,
    pub destination: A,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// TCP flags; 0 for other protocols, and without a transport header.
    pub flags: u8,
    pub kind: PacketKind,
    /// TCP sequence and acknowledgement number; valid if there are flags.
    pub sequence: u32,
    pub acknowledged: u32,
    /// Bytes from the IP header on, with the padding of a short frame.
    pub length: u32,
    /// Fragment identification, in network byte order.
    pub id: u32,
    /// Source address of an ICMP error.
    pub icmp_sender: A,
    /// Offset of the IP header. A byte, so that the verifier knows its bounds when it is read from a map.
    network: u8,
    /// Offset of the transport or ICMP header.
    transport: u8,
    /// Offset of the transport header in the packet that an ICMP error quotes.
    quoted: u8,
}

/// Kinds of packets. Not an enum: it is stored in a map between stages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PacketKind(u8);

impl PacketKind {
    pub const COMPLETE: Self = Self(0);
    /// The fragment that has the transport header.
    pub const FIRST_FRAGMENT: Self = Self(1);
    /// A fragment without transport header.
    pub const LATER_FRAGMENT: Self = Self(2);
    /// An ICMP error. Its 5-tuple is that of a reply to the packet it quotes.
    pub const ICMP_ERROR: Self = Self(3);
}

impl<A: Copy> Packet<A> {
    /// Offset of the IP header.
    #[inline(always)]
    pub fn network(&self) -> usize {
        self.network.into()
    }

    /// Offset of the transport or ICMP header.
    #[inline(always)]
    pub fn transport(&self) -> usize {
        self.transport.into()
    }

    /// Offset of the transport header in the packet that an ICMP error quotes.
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
    pub fn is_icmp_error(&self) -> bool {
        self.kind == PacketKind::ICMP_ERROR
    }

    #[inline(always)]
    pub fn segment(&self) -> Segment {
        Segment { flags: self.flags, sequence: self.sequence, acknowledged: self.acknowledged }
    }

    /// Whether the packet has no transport header.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.kind == PacketKind::LATER_FRAGMENT
    }

    /// The packet's key in `CONNTRACK_*`.
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

    /// The key of a reply to the packet.
    #[inline(always)]
    pub fn reply_tuple<F: Family<Address = A>>(&self, direction: Direction) -> Tuple<F::Bytes> {
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

/// Parses an IPv4 packet with an Ethernet header. Returns `false` for fragments and for packets that cannot be translated.
#[inline(always)]
pub fn parse_v4(packet: &impl PacketData, into: &mut Packet<u32>) -> bool {
    const FRAGMENT: u16 = 0x3fff;
    let Some(header) = read::<Ipv4>(packet, ETHERNET) else { return false };
    let length = usize::from(header.version_and_length & 0xf) * 4;
    let is_whole = u16::from_be_bytes(header.fragment) & FRAGMENT == 0;
    if header.version_and_length >> 4 != 4 || length < size_of::<Ipv4>() || !is_whole {
        return false;
    }
    into.source = u32::from_ne_bytes(header.source);
    into.destination = u32::from_ne_bytes(header.destination);
    parse_transport(packet, into, header.protocol, ETHERNET, ETHERNET + length)
}

/// Parses an IPv6 packet with an Ethernet header and without extension headers.
#[inline(always)]
pub fn parse_v6(packet: &impl PacketData, into: &mut Packet<Words>) -> bool {
    let Some(header) = read::<Ipv6>(packet, ETHERNET) else { return false };
    if header.version[0] >> 4 != 6 {
        return false;
    }
    into.source = words(header.source);
    into.destination = words(header.destination);
    parse_transport(packet, into, header.next, ETHERNET, ETHERNET + size_of::<Ipv6>())
}

#[inline(always)]
pub fn parse_transport<A: Copy>(
    packet: &impl PacketData,
    into: &mut Packet<A>,
    protocol: u8,
    network: usize,
    transport: usize,
) -> bool {
    let Some(header) = transport_header(packet, transport, protocol) else { return false };
    let [a, b, c, d] = header.ports;
    into.source_port = [a, b];
    into.destination_port = [c, d];
    into.protocol = protocol;
    into.flags = header.flags;
    into.sequence = u32::from_be_bytes(header.sequence);
    into.acknowledged = u32::from_be_bytes(header.acknowledged);
    into.kind = PacketKind::COMPLETE;
    into.set_offsets(network, transport);
    true
}

/// TCP's header without options, or of another protocol the ports.
#[repr(C)]
#[derive(Clone, Copy)]
struct TransportHeader {
    ports: [u8; 4],
    sequence: [u8; 4],
    acknowledged: [u8; 4],
    length: u8,
    flags: u8,
    rest: [u8; 6],
}

/// Returns `None` for a truncated header or another protocol.
#[inline(always)]
fn transport_header(packet: &impl PacketData, offset: usize, protocol: u8) -> Option<TransportHeader> {
    let of_ports = |ports| TransportHeader {
        ports,
        sequence: [0; 4],
        acknowledged: [0; 4],
        length: 0,
        flags: 0,
        rest: [0; 6],
    };
    match protocol {
        TCP => read::<TransportHeader>(packet, offset),
        UDP => read::<[u8; 8]>(packet, offset).map(|[a, b, c, d, ..]| of_ports([a, b, c, d])),
        SCTP => read::<[u8; 12]>(packet, offset).map(|[a, b, c, d, ..]| of_ports([a, b, c, d])),
        _ => None,
    }
}
