//! What the connections over TCP, TLS and HTTPS have in common.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use super::udp::local_address;

/// The limits of the connections to one upstream.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// The idle timeout.
    pub expire: Duration,
    /// The age at which a connection is not used again.
    pub max_age: Option<Duration>,
    pub max_idle: usize,
    /// The address to connect from.
    pub source: Option<IpAddr>,
}

impl Limits {
    pub(super) fn is_usable(&self, created: Instant, since: Instant) -> bool {
        since.elapsed() < self.expire && self.max_age.is_none_or(|age| created.elapsed() < age)
    }
}

/// An answer, and the seconds that it spent in caches on the way.
pub(super) struct Answer {
    pub wire: Vec<u8>,
    pub age: u32,
}

pub(super) async fn connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if source.is_some() {
        socket.bind(local_address(to, source))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
