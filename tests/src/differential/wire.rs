//! Packets as bytes: built by a library, read back and summed by hand, so that no mistake is shared with the programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep};
use proxy::model::{address::Protocol, flow::Flow};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
const PAYLOAD: &[u8] = b"what the programs must leave alone";
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RESET_ACK: u8 = 0x14;

/// A frame whose checksums hold.
#[derive(Clone, Debug)]
pub struct Packet {
    bytes: Vec<u8>,
    pub from: SocketAddr,
    pub to: SocketAddr,
    protocol: u8,
}

/// What a program may answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Reset { from: SocketAddr, to: SocketAddr, acknowledged: u32 },
    PortUnreachable { from: IpAddr, to: IpAddr, quoted: Vec<u8> },
    Other,
}

impl Packet {
    pub const SEQUENCE: u32 = 0xfffe_0001;

    /// The first packet of a flow.
    pub fn first(flow: &Flow, port: u16) -> Self {
        let protocol = match flow.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Sctp => SCTP,
        };
        Self::new(SocketAddr::new(flow.source, port), flow.destination, protocol, SYN)
    }

    fn new(from: SocketAddr, to: SocketAddr, protocol: u8, flags: u8) -> Self {
        let mut bytes = Vec::new();
        let ip = ip(from.ip(), to.ip());
        let written = match protocol {
            TCP => {
                let tcp = ip.tcp(from.port(), to.port(), Self::SEQUENCE, 64_000);
                let tcp = if flags & SYN != 0 { tcp.syn() } else { tcp };
                let tcp = if flags & ACK != 0 { tcp.ack(1) } else { tcp };
                tcp.write(&mut bytes, PAYLOAD)
            }
            UDP => ip.udp(from.port(), to.port()).write(&mut bytes, PAYLOAD),
            _ => ip.write(&mut bytes, IpNumber::SCTP, &sctp(from.port(), to.port())),
        };
        written.expect("a vector takes everything");
        Self { bytes, from, to, protocol }
    }

    /// The next one the client sends.
    pub fn next(&self) -> Self {
        Self::new(self.from, self.to, self.protocol, ACK)
    }

    /// What whoever gets it answers.
    pub fn answer(&self) -> Self {
        Self::new(self.to, self.from, self.protocol, SYN | ACK)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_sctp(&self) -> bool {
        self.protocol == SCTP
    }

    /// Whether nothing but ends and checksums differs.
    pub fn is_like(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.without_ends() == other.without_ends()
    }

    fn without_ends(&self) -> Vec<u8> {
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

    /// Reads a frame; an error where a checksum does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Header { from, to, protocol, .. } = header(bytes)?;
        let at = transport(bytes);
        let port = |at: usize| Ok::<_, anyhow::Error>(u16::from_be_bytes(part(bytes, at)?));
        let (from, to) = (SocketAddr::new(from, port(at)?), SocketAddr::new(to, port(at + 2)?));
        if protocol != SCTP {
            let segment = bytes.get(at..).context("no segment")?;
            ensure!(
                sum(segment, pseudo(from.ip(), to.ip(), protocol, segment.len())) == 0xffff,
                "the checksum is wrong"
            );
        }
        Ok(Self { bytes: bytes.to_vec(), from, to, protocol })
    }
}

impl Segment {
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

struct Header {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
}

/// Reads the IP header, and holds its lengths and its checksum against the frame.
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
            let [protocol] = part(bytes, ETHERNET + 6)?;
            let address = |at| Ok::<_, anyhow::Error>(IpAddr::from(Ipv6Addr::from(part::<16>(bytes, at)?)));
            Ok(Header { from: address(22)?, to: address(38)?, protocol })
        }
        other => anyhow::bail!("no IP: {other:?}"),
    }
}

fn transport(bytes: &[u8]) -> usize {
    let is_v4 = bytes.get(ETHERNET - 2) == Some(&0x08);
    ETHERNET + if is_v4 { IPV4 } else { IPV6 }
}

fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let frame = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => frame.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => frame.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("a flow has one family"),
    }
}

/// A header whose checksum nobody here looks at, and a chunk.
fn sctp(from: u16, to: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    let header = [a, b, c, d, 0, 0, 0, 0, 1, 2, 3, 4];
    header.into_iter().chain([1, 0, 0, 4]).collect()
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let part = bytes.get(at..at + N).context("the packet is too short")?;
    Ok(part.try_into()?)
}

/// The sum of RFC 1071 over the bytes, from a start, folded.
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
