//! Sockets that share an address, and datagrams that know which of our addresses they came to.

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

/// What arrives while a worker is busy; the kernel takes as much of it as it is allowed.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A UDP socket that answers from the address that was asked, even where it listens at all of them.
#[derive(Debug)]
pub struct ServerSocket(UdpSocket);

/// One request that came.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    pub len: usize,
    pub client: SocketAddr,
    /// The address of ours that it came to, where the socket listens at several.
    pub to: Option<IpAddr>,
    /// How many the kernel had no room for since the socket was made; it says so only once there are any.
    pub overflows: u32,
}

impl ServerSocket {
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address, SockType::Datagram)?;
        // Best effort: the limit is the administrator's.
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

    /// Leaves everything that is still to come to the other sockets of this address, if there are any: a connected socket
    /// only hears its peer, which is nobody. What has arrived stays, and replies go out as before.
    pub fn retire(&self) -> io::Result<()> {
        Ok(connect(self.0.as_raw_fd(), &SockaddrStorage::from(self.address()?))?)
    }

    /// Waits until something has arrived, or until the wait was for nothing.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// What has arrived; `None`: nothing more.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        match self.0.try_io(Interest::READABLE, || receive(&self.0, buffer)) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same at the end, when nobody waits for word of what arrives any more.
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
    let client = message.address.as_ref().and_then(socket_address).ok_or(io::ErrorKind::InvalidData)?;
    let mut datagram = Datagram { len: message.bytes, client, to: None, overflows: 0 };
    message.cmsgs()?.for_each(|control| datagram.note(&control));
    Ok(datagram)
}

impl Datagram {
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else was asked for")]
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

/// `None`: of another family than IP.
pub fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

fn v4_source(address: Ipv4Addr) -> libc::in_pktinfo {
    libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
}

/// The interface stays open: the client's address says it where that matters.
fn v6_source(address: Ipv6Addr) -> libc::in6_pktinfo {
    libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: address.octets() }, ipi6_ifindex: 0 }
}

/// A TCP listener that shares its address.
pub fn stream(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = open(address, SockType::Stream)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    // As many as the node allows: a number of our own has to fit the C library's idea of that, which is 128 in musl.
    listen(&socket, Backlog::MAXALLOWABLE)?;
    tokio::net::TcpListener::from_std(socket.into())
}

fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    if address.is_ipv6() {
        // Each family has a socket of its own.
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(socket)
}
