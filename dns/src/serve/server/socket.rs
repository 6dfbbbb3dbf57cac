//! Sockets that share an address (`SO_REUSEPORT`), and datagrams with their local address (`IP_PKTINFO`).

use std::{
    cmp::Reverse,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use nix::{
    cmsg_space, libc,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        SockaddrStorage, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

use crate::interfaces;

/// The receive buffer, for requests that arrive while a worker is busy. The kernel limits it to
/// `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Limits of the segments and octets of one send (`UDP_MAX_SEGMENTS` of Linux before 6.9, and a packet).
const MAX_SEGMENTS: usize = 64;
const MAX_OCTETS: usize = 65_000;

/// The memory of the control messages of a received datagram.
#[derive(Debug)]
pub struct ControlBuffer(Vec<u8>);

impl Default for ControlBuffer {
    fn default() -> Self {
        Self(cmsg_space!(libc::in6_pktinfo, u32))
    }
}

/// A UDP socket that replies from the address that a request was sent to, even if it is bound to the wildcard.
#[derive(Debug)]
pub struct ServerSocket(UdpSocket);

/// The metadata of a received request.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    pub len: usize,
    pub client: SocketAddr,
    /// The local address, if the socket is bound to the wildcard.
    pub to: Option<IpAddr>,
    /// Datagrams that the kernel has dropped on this socket (`SO_RXQ_OVFL`); not reported while it is zero.
    pub overflows: u32,
}

impl Datagram {
    /// Whether both have the same client and local address, so that replies can be sent together.
    pub fn is_of_same_client(&self, other: &Self) -> bool {
        (self.client, self.to) == (other.client, other.to)
    }
}

impl ServerSocket {
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address, SockType::Datagram)?;
        // Best effort: `net.core.rmem_max` applies.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        if address.ip().is_unspecified() {
            match address {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        UdpSocket::from_std(socket.into()).map(Self)
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Stops receiving, so that new datagrams go to the other sockets of this address: a connected socket only
    /// receives from its peer, here itself. Queued datagrams stay, and replies are sent as before.
    pub fn retire(&self) -> io::Result<()> {
        Ok(connect(self.0.as_raw_fd(), &SockaddrStorage::from(self.address()?))?)
    }

    /// Waits until the socket is readable. Wake-ups may be spurious.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Receives a datagram. Returns `None` when none is queued.
    pub fn receive(&self, buffer: &mut [u8], control: &mut ControlBuffer) -> io::Result<Option<Datagram>> {
        match self.0.try_io(Interest::READABLE, || receive(&self.0, buffer, control)) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Receives a datagram after [`Self::retire`], regardless of the runtime's readiness state.
    pub fn receive_last(
        &self,
        buffer: &mut [u8],
        control: &mut ControlBuffer,
    ) -> io::Result<Option<Datagram>> {
        match receive(&self.0, buffer, control) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn send(&self, reply: &[u8], datagram: &Datagram) -> io::Result<()> {
        self.send_parts(&[IoSlice::new(reply)], None, datagram)
    }

    /// Sends several replies to the client of a datagram, in any order, with as few system calls as possible: the
    /// network stack passes one packet with several segments (`UDP_SEGMENT`), which is half the cost of a reply. Errors:
    /// one for each reply that was not sent.
    pub fn send_all(&self, replies: &mut Vec<Vec<u8>>, datagram: &Datagram) -> Vec<io::Error> {
        replies.sort_unstable_by_key(|reply| Reverse(reply.len()));
        let mut errors = Vec::new();
        let mut rest = replies.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(segments(rest));
            let is_sent = now.len() > 1 && self.send_segments(now, datagram).is_ok();
            if !is_sent {
                // A device or path may not take segments, such as one with a small MTU.
                errors.extend(now.iter().filter_map(|reply| self.send(reply, datagram).err()));
            }
            rest = later;
        }
        replies.clear();
        errors
    }

    fn send_segments(&self, replies: &[Vec<u8>], datagram: &Datagram) -> io::Result<()> {
        let size = replies.first().and_then(|first| u16::try_from(first.len()).ok());
        let parts: Vec<IoSlice<'_>> = replies.iter().map(|reply| IoSlice::new(reply)).collect();
        self.send_parts(&parts, Some(size.ok_or(io::ErrorKind::InvalidInput)?), datagram)
    }

    /// `segment`: the length of a segment, if the parts are several replies.
    fn send_parts(&self, parts: &[IoSlice<'_>], segment: Option<u16>, datagram: &Datagram) -> io::Result<()> {
        let to = SockaddrStorage::from(datagram.client);
        let (v4, v6) = match datagram.to {
            None => (None, None),
            Some(IpAddr::V4(from)) => (Some(v4_source(from)), None),
            Some(IpAddr::V6(from)) => (None, Some(v6_source(from))),
        };
        let mut control = [const { None }; 2];
        control[0] = v4.as_ref().map(ControlMessage::Ipv4PacketInfo);
        control[0] = control[0].or(v6.as_ref().map(ControlMessage::Ipv6PacketInfo));
        control[1] = segment.as_ref().map(ControlMessage::UdpGsoSegments);
        let flags = MsgFlags::MSG_DONTWAIT;
        let socket = self.0.as_raw_fd();
        match control {
            [None, None] => sendmsg(socket, parts, &[], flags, Some(&to))?,
            [Some(one), None] | [None, Some(one)] => sendmsg(socket, parts, &[one], flags, Some(&to))?,
            [Some(one), Some(other)] => sendmsg(socket, parts, &[one, other], flags, Some(&to))?,
        };
        Ok(())
    }
}

impl AsRawFd for ServerSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// How many of the replies, which are sorted by their length, can be segments of one packet: all of the same length but
/// the last one, which may be shorter.
fn segments(replies: &[Vec<u8>]) -> usize {
    let Some(first) = replies.first() else { return 0 };
    let most = (MAX_OCTETS / first.len().max(1)).clamp(1, MAX_SEGMENTS);
    let equal = replies.iter().take(most).take_while(|reply| reply.len() == first.len()).count();
    (equal + 1).min(most).min(replies.len())
}

fn receive(socket: &UdpSocket, buffer: &mut [u8], control: &mut ControlBuffer) -> io::Result<Datagram> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control.0),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let client =
        message.address.as_ref().and_then(interfaces::socket_address).ok_or(io::ErrorKind::InvalidData)?;
    let mut datagram = Datagram { len: message.bytes, client, to: None, overflows: 0 };
    message.cmsgs()?.for_each(|control| datagram.note(&control));
    Ok(datagram)
}

impl Datagram {
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other control message is enabled")]
    fn note(&mut self, control: &ControlMessageOwned) {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                self.to = Some(IpAddr::V4(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes())));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                self.to = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
            }
            ControlMessageOwned::RxqOvfl(overflows) => self.overflows = *overflows,
            _ => {}
        }
    }
}

fn v4_source(address: Ipv4Addr) -> libc::in_pktinfo {
    libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
}

/// The interface is not set: the client's address has a scope where it matters (link-local).
fn v6_source(address: Ipv6Addr) -> libc::in6_pktinfo {
    libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: address.octets() }, ipi6_ifindex: 0 }
}

/// A TCP listener that shares its address.
pub fn stream(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = open(address, SockType::Stream)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    // The node's limit applies (`net.core.somaxconn`): `nix` rejects a number above the C library's SOMAXCONN,
    // which is 128 in musl.
    listen(&socket, Backlog::MAXALLOWABLE)?;
    tokio::net::TcpListener::from_std(socket.into())
}

fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    if address.is_ipv6() {
        // IPv4 has sockets of its own.
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn segments_are_of_equal_length_but_the_last() {
        let replies = |lengths: &[usize]| lengths.iter().map(|length| vec![0; *length]).collect::<Vec<_>>();
        for (lengths, want) in [
            (&[][..], 0),
            (&[90], 1),
            (&[90, 90, 90], 3),
            (&[120, 90], 2),
            (&[120, 120, 90, 90], 3),
            (&[120, 119, 118], 2),
            (&[60; 100], MAX_SEGMENTS),
            (&[1232; 100], 52),
            (&[65_000, 10], 1),
        ] {
            assert_eq!(segments(&replies(lengths)), want, "{} of {:?}", lengths.len(), lengths.first());
        }
    }

    #[tokio::test]
    async fn many_replies_of_different_lengths_reach_their_client() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let socket = ServerSocket::bind(bound.parse().unwrap()).unwrap();
            let address = socket.address().unwrap();
            let loopback: IpAddr =
                if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            let client = std::net::UdpSocket::bind((loopback, 0)).unwrap();
            client.connect((loopback, address.port())).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            client.send(b"x").unwrap();
            let (mut buffer, mut control) = ([0; 64], ControlBuffer::default());
            socket.readable().await.unwrap();
            let datagram = socket.receive(&mut buffer, &mut control).unwrap().unwrap();
            let sent: BTreeSet<Vec<u8>> =
                (0..90_u8).map(|n| vec![n; 40 + usize::from(n % 4) * 300]).collect();
            let mut replies: Vec<_> = sent.iter().cloned().collect();
            assert!(socket.send_all(&mut replies, &datagram).is_empty(), "{bound}");
            assert!(replies.is_empty());
            let mut octets = [0; 2048];
            let received: BTreeSet<Vec<u8>> = (0..sent.len())
                .map(|_| {
                    let length = client.recv(&mut octets).unwrap();
                    octets[..length].to_vec()
                })
                .collect();
            assert_eq!(received, sent, "{bound}");
        }
    }
}
