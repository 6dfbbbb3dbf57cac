//! One question and its answer in datagrams.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{
    upstream::Failure,
    upstream_query::{Mismatch, UpstreamQuery},
};

/// More than was offered to take: who sends more than that has to be read to be refused.
const LARGEST: usize = 4096;

/// Waits until the answer comes; what is not the answer is passed over. From an upstream that is known to repeat the
/// name as it was written, an answer in other letters is a forged one.
pub(super) async fn exchange(
    to: SocketAddr,
    query: &UpstreamQuery,
    keeps_case: bool,
) -> Result<Vec<u8>, Failure> {
    // A socket for each question: its port is part of what a forger must guess. Connected, it hears nobody else.
    let socket = UdpSocket::bind(unspecified(to)).await?;
    socket.connect(to).await?;
    socket.send(query.wire()).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match query.accept(&mut buffer[..length]) {
            Ok(()) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Mismatch::Foreign) => {}
            Err(Mismatch::OtherCase) if keeps_case => {}
            Err(mismatch @ (Mismatch::OtherCase | Mismatch::NoQuestion)) => return Err(mismatch.into()),
        }
    }
}

fn unspecified(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
