//! Queries over UDP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::{
    failure::Failure,
    upstream_query::{Mismatch, UpstreamQuery},
};

/// The receive buffer, larger than the advertised payload: a larger reply has to be read to be rejected.
const RECEIVE_BUFFER: usize = 4096;

/// How long to wait for the reply in the case of the query, after one in another case. The genuine reply of an upstream
/// that preserves the case is not long behind a forged one.
const CASE_GRACE: Duration = Duration::from_millis(100);

/// Sends the query and waits for its answer; other datagrams are ignored. If the upstream is known to preserve the
/// case of names, a reply with another case may be forged (0x20), or the upstream has ceased to: it fails only if no
/// other follows.
pub(super) async fn exchange(
    to: SocketAddr,
    source: Option<IpAddr>,
    query: &UpstreamQuery,
    preserves_case: bool,
) -> Result<Vec<u8>, Failure> {
    // A socket per query: an off-path attacker has to guess its port. Connected, it receives from the upstream
    // only.
    let socket = UdpSocket::bind(local_address(to, source)).await?;
    socket.connect(to).await?;
    socket.send(query.wire()).await?;
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let mut grace: Option<Instant> = None;
    loop {
        let received = socket.recv(&mut buffer);
        let length = match grace {
            None => received.await?,
            Some(end) => timeout_at(end, received).await.map_err(|_| Failure::WrongCase)??,
        };
        match query.accept(&mut buffer[..length]) {
            Ok(()) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Mismatch::Foreign) => {}
            Err(Mismatch::WrongCase) if preserves_case => {
                grace.get_or_insert_with(|| Instant::now() + CASE_GRACE);
            }
            Err(mismatch @ (Mismatch::WrongCase | Mismatch::NoQuestion)) => return Err(mismatch.into()),
        }
    }
}

/// The address to bind to, with a port of the kernel's choice.
pub(super) fn local_address(to: SocketAddr, source: Option<IpAddr>) -> SocketAddr {
    match (source, to) {
        (Some(source), _) => (source, 0).into(),
        (None, SocketAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        (None, SocketAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
