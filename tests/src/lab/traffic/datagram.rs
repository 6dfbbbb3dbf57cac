//! UDP sockets that a story controls call by call.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
use tokio::{net::UdpSocket, time::timeout};

use super::{ActionOutput, Family, report::error_name};

/// Opens a socket; without an address the kernel chooses the port at the first send or connect.
pub(super) fn open(family: Family, address: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let any = match family {
        Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        Family::V6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = unbound(family == Family::V6)?;
    match address {
        Some(address) => bound(socket, address),
        None => bound(socket, any),
    }
}

pub(super) fn unbound(v6: bool) -> io::Result<std::net::UdpSocket> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Datagram, flags, None)?.into())
}

pub(super) fn bound(socket: std::net::UdpSocket, address: SocketAddr) -> io::Result<UdpSocket> {
    use std::os::fd::AsRawFd as _;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    UdpSocket::from_std(socket)
}

pub(super) async fn send(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    text: &str,
) -> Result<ActionOutput, String> {
    let sent = match to {
        Some(to) => socket.send_to(text.as_bytes(), to).await,
        None => socket.send(text.as_bytes()).await,
    };
    sent.map(|_| ActionOutput::Done).map_err(|error| format!("send: {}", error_name(&error)))
}

pub(super) async fn receive(socket: &UdpSocket, within_ms: u64) -> Result<ActionOutput, String> {
    let mut buffer = vec![0; 65_536];
    let received = timeout(Duration::from_millis(within_ms), socket.recv_from(&mut buffer)).await;
    let (length, from) = received
        .map_err(|_| format!("receive: no datagram within {within_ms} ms"))?
        .map_err(|error| format!("receive: {}", error_name(&error)))?;
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    Ok(ActionOutput::Datagram { from, text })
}
