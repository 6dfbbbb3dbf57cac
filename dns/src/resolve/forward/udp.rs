//! Queries over UDP.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{
    failure::Failure,
    upstream_query::{Mismatch, UpstreamQuery},
};

/// The receive buffer, larger than the advertised payload: a larger reply has to be read to be rejected.
const RECEIVE_BUFFER: usize = 4096;

/// Sends the query and waits for its answer; other datagrams are ignored. If the upstream is known to preserve the
/// case of names, a reply with another case is ignored as forged (0x20).
pub(super) async fn exchange(
    to: SocketAddr,
    query: &UpstreamQuery,
    preserves_case: bool,
) -> Result<Vec<u8>, Failure> {
    // A socket per query: an off-path attacker has to guess its port. Connected, it receives from the upstream
    // only.
    let socket = UdpSocket::bind(unspecified(to)).await?;
    socket.connect(to).await?;
    socket.send(query.wire()).await?;
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match query.accept(&mut buffer[..length]) {
            Ok(()) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Mismatch::Foreign) => {}
            Err(Mismatch::WrongCase) if preserves_case => {}
            Err(mismatch @ (Mismatch::WrongCase | Mismatch::NoQuestion)) => return Err(mismatch.into()),
        }
    }
}

fn unspecified(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
