//! Blocking sockets of the workers: one for each family.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

/// One listener per family, so that IPv4 clients connect to an IPv4 socket, as with most servers.
pub fn listeners(port: u16) -> Result<[TcpListener; 2]> {
    let wildcards = wildcards(port);
    let [v4, v6] = wildcards.map(|address| {
        let fd = unbound(address, SockType::Stream)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).context("cannot bind")?;
        listen(&fd, Backlog::MAXALLOWABLE).context("cannot listen")?;
        Ok::<_, anyhow::Error>(TcpListener::from(fd))
    });
    Ok([v4?, v6?])
}

pub fn datagram_sockets(port: u16) -> Result<[UdpSocket; 2]> {
    let [v4, v6] = wildcards(port).map(|address| {
        let fd = unbound(address, SockType::Datagram)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).context("cannot bind")?;
        Ok::<_, anyhow::Error>(UdpSocket::from(fd))
    });
    Ok([v4?, v6?])
}

fn wildcards(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

fn unbound(address: SocketAddr, kind: SockType) -> Result<OwnedFd> {
    let fd = open(address, kind)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true).context("cannot reuse an address")?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true).context("cannot keep the families apart")?;
    }
    Ok(fd)
}

/// A new socket of an address's family.
pub fn open(address: SocketAddr, kind: SockType) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None).context("cannot open a socket")
}
