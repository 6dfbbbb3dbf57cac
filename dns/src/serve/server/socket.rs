//! Sockets that share an address (`SO_REUSEPORT`), and datagrams with their local address (`IP_PKTINFO`).

use std::{
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
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        match self.0.try_io(Interest::READABLE, || receive(&self.0, buffer)) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Receives a datagram after [`Self::retire`], regardless of the runtime's readiness state.
    pub fn receive_last(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        match receive(&self.0, buffer) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn send(&self, reply: &[u8], datagram: &Datagram) -> io::Result<()> {
        let to = SockaddrStorage::from(datagram.client);
        let parts = [IoSlice::new(reply)];
        let socket = self.0.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        match datagram.to {
            None => sendmsg(socket, &parts, &[], flags, Some(&to))?,
            Some(IpAddr::V4(from)) => sendmsg(
                socket,
                &parts,
                &[ControlMessage::Ipv4PacketInfo(&v4_source(from))],
                flags,
                Some(&to),
            )?,
            Some(IpAddr::V6(from)) => sendmsg(
                socket,
                &parts,
                &[ControlMessage::Ipv6PacketInfo(&v6_source(from))],
                flags,
                Some(&to),
            )?,
        };
        Ok(())
    }
}

impl AsRawFd for ServerSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = cmsg_space!(libc::in6_pktinfo, u32);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
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
