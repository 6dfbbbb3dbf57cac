//! Packets as bytes: built by a library, parsed and checksummed by separate code, so that no error is shared with
//! the programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep};
use proxy::model::{address::Protocol, flow::Flow};

/// Length of the Ethernet header.
pub const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const DESTINATION_OPTIONS: u8 = 60;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
const PAYLOAD: &[u8] = b"A payload that the programs must not change. It is long enough for several fragments of a datagram: the first \
    one, which contains the ports, at least one in the middle, and the last one, which is the shortest of all";
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
const RESET_ACK: u8 = RST | ACK;

/// The address of the device that receives the frames.
pub const DEVICE: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame with valid checksums.
#[derive(Clone, Debug)]
pub struct Packet {
    bytes: Vec<u8>,
    pub from: SocketAddr,
    pub to: SocketAddr,
    protocol: u8,
}

/// Sequence and acknowledgement number of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub sequence: u32,
    pub acknowledged: u32,
}

/// An ICMP error, and the quoted addresses and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    pub from: IpAddr,
    pub to: IpAddr,
    pub quoted: (SocketAddr, SocketAddr),
}

/// The reply of a program that rejects a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    Reset { from: SocketAddr, to: SocketAddr, acknowledged: u32 },
    PortUnreachable { from: IpAddr, to: IpAddr, quoted: Vec<u8> },
    Other,
}

impl Packet {
    pub const SEQUENCE: u32 = 0xfffe_0001;

    /// The first packet of a flow. Some have no UDP checksum, some an extension header.
    pub fn first(flow: &Flow, port: u16) -> Self {
        let protocol = match flow.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Sctp => SCTP,
        };
        Self::new(SocketAddr::new(flow.source, port), flow.destination, protocol, SYN)
    }

    /// A TCP segment.
    pub fn segment(from: SocketAddr, to: SocketAddr, flags: u8, numbers: Numbers) -> Self {
        Self::with_numbers(from, to, TCP, flags, numbers)
    }

    /// A datagram.
    pub fn datagram(from: SocketAddr, to: SocketAddr) -> Self {
        Self::new(from, to, UDP, 0)
    }

    fn new(from: SocketAddr, to: SocketAddr, protocol: u8, flags: u8) -> Self {
        let numbers = Numbers { sequence: Self::SEQUENCE, acknowledged: Self::SEQUENCE.wrapping_add(1) };
        Self::with_numbers(from, to, protocol, flags, numbers)
    }

    fn with_numbers(from: SocketAddr, to: SocketAddr, protocol: u8, flags: u8, numbers: Numbers) -> Self {
        let mut bytes = Vec::new();
        let ip = ip(from.ip(), to.ip());
        let written = match protocol {
            TCP => {
                let tcp = ip.tcp(from.port(), to.port(), numbers.sequence, 64_000);
                let tcp = if flags & FIN != 0 { tcp.fin() } else { tcp };
                let tcp = if flags & SYN != 0 { tcp.syn() } else { tcp };
                let tcp = if flags & RST != 0 { tcp.rst() } else { tcp };
                let tcp = if flags & ACK != 0 { tcp.ack(numbers.acknowledged) } else { tcp };
                tcp.write(&mut bytes, PAYLOAD)
            }
            UDP => ip.udp(from.port(), to.port()).write(&mut bytes, PAYLOAD),
            _ => ip.write(&mut bytes, IpNumber::SCTP, &sctp(from.port(), to.port())),
        };
        written.expect("a vector takes everything");
        Self { bytes, from, to, protocol }.varied(from.port().min(to.port()))
    }

    /// A variation that applies to all packets of a flow, selected by its port.
    fn varied(mut self, kind: u16) -> Self {
        if kind.is_multiple_of(5) && self.protocol == UDP && self.from.is_ipv4() {
            self.bytes[ETHERNET + IPV4 + 6..ETHERNET + IPV4 + 8].fill(0);
        } else if kind.is_multiple_of(7) && self.from.is_ipv6() {
            self.extend();
        }
        self
    }

    /// Inserts destination options (RFC 8200) after the IPv6 header, eight bytes of padding.
    fn extend(&mut self) {
        let options = [self.protocol, 0, 1, 4, 0, 0, 0, 0];
        let length: [u8; 2] = part(&self.bytes, ETHERNET + 4).expect("a whole header");
        let length = u16::from_be_bytes(length) + 8;
        self.bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
        self.bytes[ETHERNET + 6] = DESTINATION_OPTIONS;
        self.bytes.splice(ETHERNET + IPV6..ETHERNET + IPV6, options);
    }

    /// Whether the UDP checksum is absent (zero, RFC 768).
    fn is_unsummed(&self) -> bool {
        let at = transport(&self.bytes) + 6;
        self.protocol == UDP && self.from.is_ipv4() && self.bytes.get(at..at + 2) == Some(&[0, 0])
    }

    /// The client's next packet.
    pub fn next(&self) -> Self {
        Self::new(self.from, self.to, self.protocol, ACK)
    }

    /// The reply of the receiver.
    pub fn reply(&self) -> Self {
        Self::new(self.to, self.from, self.protocol, SYN | ACK)
    }

    /// Whether the segment follows the IP header directly.
    pub fn is_plain(&self) -> bool {
        transport(&self.bytes) <= ETHERNET + IPV6
    }

    /// The packet in a frame to a device with this address.
    pub fn with_destination_mac(mut self, device: [u8; 6]) -> Self {
        self.bytes[..6].copy_from_slice(&device);
        self
    }

    /// The frame after a router: one hop less, and other link-layer addresses.
    pub fn forwarded(&self, [from, to]: [[u8; 6]; 2]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..6].copy_from_slice(&to);
        bytes[6..12].copy_from_slice(&from);
        if self.from.is_ipv6() {
            bytes[ETHERNET + 7] -= 1;
            return bytes;
        }
        bytes[ETHERNET + 8] -= 1;
        write_header_checksum(&mut bytes);
        bytes
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_sctp(&self) -> bool {
        self.protocol == SCTP
    }

    /// Whether at most addresses, ports and checksums differ.
    pub fn is_like(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.is_unsummed() == other.is_unsummed()
            && self.without_addresses() == other.without_addresses()
    }

    fn without_addresses(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let transport = transport(&self.bytes);
        let checksum = match self.protocol {
            TCP => 16..18,
            UDP => 6..8,
            _ => 0..0,
        };
        let (addresses, own_checksum) = if self.from.is_ipv4() { (26..34, 24..26) } else { (22..54, 0..0) };
        let ports = transport..transport + 4;
        let checksum = transport + checksum.start..transport + checksum.end;
        for part in [addresses, own_checksum, ports, checksum] {
            bytes[part].fill(0);
        }
        bytes
    }

    /// The fragments of a datagram, the first with the ports. Returns `None` for other packets. The payload is
    /// long enough for several.
    pub fn fragments(&self, id: u16) -> Option<Vec<Vec<u8>>> {
        const LENGTH: usize = 64;
        let is_plain = transport(&self.bytes) <= ETHERNET + IPV6 && self.protocol == UDP;
        let datagram = self.bytes.get(transport(&self.bytes)..).filter(|_| is_plain)?;
        let pieces: Vec<_> = datagram.chunks(LENGTH).collect();
        let piece = |(n, piece): (usize, &&[u8])| {
            let is_last = n + 1 == pieces.len();
            if self.from.is_ipv4() {
                self.fragment_v4(id, n * LENGTH, is_last, piece)
            } else {
                self.fragment_v6(id, n * LENGTH, is_last, piece)
            }
        };
        Some(pieces.iter().enumerate().map(piece).collect())
    }

    fn fragment_v4(&self, id: u16, offset: usize, is_last: bool, piece: &[u8]) -> Vec<u8> {
        let mut frame = self.bytes[..ETHERNET + IPV4].to_vec();
        let more = if is_last { 0 } else { 0x2000 };
        let length = u16::try_from(IPV4 + piece.len()).expect("a short piece");
        let offset_field = more | u16::try_from(offset / 8).expect("a short datagram");
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
        frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&id.to_be_bytes());
        frame[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&offset_field.to_be_bytes());
        write_checksum(&mut frame[ETHERNET..], 10, 0);
        frame.extend(piece);
        frame
    }

    fn fragment_v6(&self, id: u16, offset: usize, is_last: bool, piece: &[u8]) -> Vec<u8> {
        const FRAGMENT: u8 = 44;
        let mut frame = self.bytes[..ETHERNET + IPV6].to_vec();
        let length = u16::try_from(8 + piece.len()).expect("a short piece");
        let offset_field = u16::try_from(offset).expect("a short datagram") | u16::from(!is_last);
        frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
        frame[ETHERNET + 6] = FRAGMENT;
        let [high, low] = offset_field.to_be_bytes();
        let [c, d] = id.to_be_bytes();
        frame.extend([self.protocol, 0, high, low, 0, 0, c, d]);
        frame.extend(piece);
        frame
    }

    /// Reassembles fragments in order. Errors: they do not form a whole datagram.
    pub fn joined(fragments: &[Vec<u8>]) -> Result<Self> {
        let first = fragments.first().context("no fragments")?;
        let is_v4 = first.get(ETHERNET - 2) == Some(&0x08);
        let headers = ETHERNET + if is_v4 { IPV4 } else { IPV6 };
        let start = headers + if is_v4 { 0 } else { 8 };
        let mut frame = first.get(..headers).context("too short")?.to_vec();
        for fragment in fragments {
            ensure!(fragment.get(..ETHERNET) == first.get(..ETHERNET), "another link header");
            let Header { from, to, .. } = header(fragment)?;
            let of_first = header(first)?;
            ensure!(
                (from, to) == (of_first.from, of_first.to),
                "fragments with different addresses: {from} to {to}"
            );
            frame.extend(fragment.get(start..).context("too short")?);
        }
        let length = u16::try_from(frame.len() - ETHERNET - if is_v4 { 0 } else { IPV6 })?;
        if is_v4 {
            frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
            frame[ETHERNET + 6..ETHERNET + 8].fill(0);
            write_checksum(&mut frame[ETHERNET..headers], 10, 0);
        } else {
            frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
            frame[ETHERNET + 6] = first[headers];
        }
        Self::parse(&frame)
    }

    /// A router's ICMP error that this packet is too big, quoting this number of bytes of its segment. Returns
    /// `None` for packets with an extension header, whose quotes are not read.
    pub fn too_big(&self, router: IpAddr, quoted: usize) -> Option<Vec<u8>> {
        if transport(&self.bytes) > ETHERNET + IPV6 {
            return None;
        }
        let end = self.bytes.len().min(transport(&self.bytes).saturating_add(quoted));
        let kind = if router.is_ipv4() { [3, 4] } else { [2, 0] };
        let mut message = vec![kind[0], kind[1], 0, 0, 0, 0, 5, 0x78];
        message.extend(&self.bytes[ETHERNET..end]);
        let (protocol, to) = (if router.is_ipv4() { ICMP_V4 } else { ICMP_V6 }, self.from.ip());
        let start = if router.is_ipv4() { 0 } else { pseudo(router, to, protocol, message.len()) };
        write_checksum(&mut message, 2, start);
        let mut frame = Vec::new();
        ip(router, to).write(&mut frame, IpNumber(protocol), &message).expect("a vector takes everything");
        Some(frame)
    }

    /// Parses a frame. Errors: an invalid checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Header { from, to, protocol, .. } = header(bytes)?;
        let at = transport(bytes);
        let port = |at: usize| Ok::<_, anyhow::Error>(u16::from_be_bytes(part(bytes, at)?));
        let (from, to) = (SocketAddr::new(from, port(at)?), SocketAddr::new(to, port(at + 2)?));
        let packet = Self { bytes: bytes.to_vec(), from, to, protocol };
        if protocol != SCTP && !packet.is_unsummed() {
            let segment = bytes.get(at..).context("no segment")?;
            ensure!(
                sum(segment, pseudo(from.ip(), to.ip(), protocol, segment.len())) == 0xffff,
                "the checksum is wrong"
            );
        }
        Ok(packet)
    }
}

impl IcmpError {
    /// Parses a frame. Errors: an invalid checksum, that of the quoted packet included.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Header { from, to, protocol } = header(bytes)?;
        let message = bytes.get(transport(bytes)..).context("no message")?;
        let start = if protocol == ICMP_V6 { pseudo(from, to, protocol, message.len()) } else { 0 };
        ensure!(sum(message, start) == 0xffff, "the checksum of the message is wrong");
        let quoted = message.get(8..).context("nothing is quoted")?;
        let is_v4 = quoted.first() == Some(&0x45);
        let octets = |at: usize| quoted.get(at..at + if is_v4 { 4 } else { 16 }).context("too short");
        let (source, target, segment) = if is_v4 {
            ensure!(sum(&quoted[..IPV4], 0) == 0xffff, "the checksum of the quoted header is wrong");
            (octets(12)?, octets(16)?, IPV4)
        } else {
            (octets(8)?, octets(24)?, IPV6)
        };
        let protocol = quoted.get(if is_v4 { 9 } else { 6 }).context("too short")?;
        let (source, target) = (address(source)?, address(target)?);
        let whole = u16::from_be_bytes(part(quoted, if is_v4 { 2 } else { 4 })?);
        let segment = quoted.get(segment..).context("no segment")?;
        let is_whole = segment.len() + if is_v4 { IPV4 } else { 0 } == usize::from(whole);
        let is_unsummed = *protocol == UDP && is_v4 && segment.get(6..8) == Some(&[0, 0]);
        if is_whole && *protocol != SCTP && !is_unsummed {
            let pseudo = pseudo(source, target, *protocol, segment.len());
            ensure!(sum(segment, pseudo) == 0xffff, "the checksum of the quoted segment is wrong");
        }
        let port = |at: usize| Ok::<_, anyhow::Error>(u16::from_be_bytes(part(segment, at)?));
        let quoted_tuple = (SocketAddr::new(source, port(0)?), SocketAddr::new(target, port(2)?));
        Ok(Self { from, to, quoted: quoted_tuple })
    }
}

fn address(octets: &[u8]) -> Result<IpAddr> {
    Ok(match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets)?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets)?),
    })
}

impl Rejection {
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Header { from, to, protocol } = header(bytes)?;
        let at = transport(bytes);
        match protocol {
            TCP => {
                let packet = Packet::parse(bytes)?;
                let [flags] = part(bytes, at + 13)?;
                let acknowledged = u32::from_be_bytes(part(bytes, at + 8)?);
                ensure!(flags == RESET_ACK && bytes.len() == at + 20, "no plain reset");
                Ok(Self::Reset { from: packet.from, to: packet.to, acknowledged })
            }
            ICMP_V4 | ICMP_V6 => {
                let message = bytes.get(at..).context("no message")?;
                let start = if protocol == ICMP_V6 { pseudo(from, to, protocol, message.len()) } else { 0 };
                ensure!(sum(message, start) == 0xffff, "the checksum of the message is wrong");
                let kind: [u8; 2] = part(bytes, at)?;
                ensure!(
                    kind == if protocol == ICMP_V4 { [3, 3] } else { [1, 4] },
                    "another message: {kind:?}"
                );
                Ok(Self::PortUnreachable {
                    from,
                    to,
                    quoted: bytes.get(at + 8..).unwrap_or_default().to_vec(),
                })
            }
            _ => Ok(Self::Other),
        }
    }
}

/// Writes the checksum of an IPv4 header.
pub fn write_header_checksum(frame: &mut [u8]) {
    write_checksum(&mut frame[ETHERNET..ETHERNET + IPV4], 10, 0);
}

struct Header {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
}

/// Parses the IP header, and checks its lengths and its checksum.
fn header(bytes: &[u8]) -> Result<Header> {
    match part(bytes, ETHERNET - 2)? {
        [0x08, 0x00] => {
            let length = u16::from_be_bytes(part(bytes, ETHERNET + 2)?);
            ensure!(usize::from(length) + ETHERNET == bytes.len(), "the length is wrong: {length}");
            ensure!(
                sum(bytes.get(ETHERNET..ETHERNET + IPV4).context("no header")?, 0) == 0xffff,
                "the header's checksum is wrong"
            );
            let [protocol] = part(bytes, ETHERNET + 9)?;
            let address = |at| Ok::<_, anyhow::Error>(IpAddr::from(Ipv4Addr::from(part::<4>(bytes, at)?)));
            Ok(Header { from: address(26)?, to: address(30)?, protocol })
        }
        [0x86, 0xdd] => {
            let length = u16::from_be_bytes(part(bytes, ETHERNET + 4)?);
            ensure!(usize::from(length) + ETHERNET + IPV6 == bytes.len(), "the length is wrong: {length}");
            let [next] = part(bytes, ETHERNET + 6)?;
            let [protocol] = if next == DESTINATION_OPTIONS { part(bytes, ETHERNET + IPV6)? } else { [next] };
            let address = |at| Ok::<_, anyhow::Error>(IpAddr::from(Ipv6Addr::from(part::<16>(bytes, at)?)));
            Ok(Header { from: address(22)?, to: address(38)?, protocol })
        }
        other => anyhow::bail!("no IP: {other:?}"),
    }
}

fn transport(bytes: &[u8]) -> usize {
    let is_v4 = bytes.get(ETHERNET - 2) == Some(&0x08);
    let is_extended = !is_v4 && bytes.get(ETHERNET + 6) == Some(&DESTINATION_OPTIONS);
    ETHERNET + if is_v4 { IPV4 } else { IPV6 } + if is_extended { 8 } else { 0 }
}

fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let frame = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], DEVICE);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => frame.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => frame.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("a flow has one family"),
    }
}

/// A header whose checksum is not checked here, and a chunk.
fn sctp(from: u16, to: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    let header = [a, b, c, d, 0, 0, 0, 0, 1, 2, 3, 4];
    header.into_iter().chain([1, 0, 0, 4]).collect()
}

/// Writes the checksum at an offset, for the sum over the bytes and a start value.
fn write_checksum(bytes: &mut [u8], at: usize, start: u32) {
    bytes[at..at + 2].fill(0);
    let sum = !(sum(bytes, start) as u16);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let part = bytes.get(at..at + N).context("the packet is too short")?;
    Ok(part.try_into()?)
}

/// The Internet checksum (RFC 1071) over the bytes, with a start value, folded.
fn sum(bytes: &[u8], start: u32) -> u32 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let mut sum = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> u32 {
    let octets = |address| match address {
        IpAddr::V4(ip) => Ipv4Addr::octets(&ip).to_vec(),
        IpAddr::V6(ip) => Ipv6Addr::octets(&ip).to_vec(),
    };
    let addresses = [octets(from), octets(to)].concat();
    sum(&addresses, u32::from(protocol) + u32::try_from(length).unwrap_or(u32::MAX))
}
