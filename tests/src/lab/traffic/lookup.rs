//! Lookups with the timeouts of the C library's resolver: two tries, the second from the same socket if possible.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    time::timeout,
};

use super::{
    Family, Lookup, datagram,
    exchange::connect,
    now_us,
    report::{Answered, Failure},
};

pub(super) const TRIES: usize = 2;
/// The name whose address identifies the server.
pub const IDENTITY_NAME: &str = "who.example.";

/// Looks up the server's address at `to`. Returns it as text.
pub async fn look_up(how: Lookup, to: SocketAddr, limit: Duration) -> Result<Answered, Failure> {
    let mut socket = None;
    let mut failure = Failure("no try".to_owned());
    for _ in 0..TRIES {
        let answer = match how {
            Lookup::Tcp => match attempt(limit, over_tcp(to)).await {
                // glibc treats a reset as the end of a server, and reconnects within the same try.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    attempt(limit, over_tcp(to)).await
                }
                answer => answer,
            },
            Lookup::ConnectedUdp | Lookup::UnconnectedUdp => {
                attempt(limit, over_udp(how, to, &mut socket)).await
            }
        };
        match answer {
            Ok(answer) => return answered(&answer),
            Err(error) => {
                // As glibc: a new socket after an error, the same one after a timeout.
                if error.kind() != io::ErrorKind::TimedOut {
                    socket = None;
                }
                failure = Failure::at("lookup")(error);
            }
        }
    }
    Err(failure)
}

async fn attempt(limit: Duration, work: impl Future<Output = io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn over_udp(how: Lookup, to: SocketAddr, open_socket: &mut Option<UdpSocket>) -> io::Result<Vec<u8>> {
    let socket = match open_socket {
        Some(socket) => socket,
        None => {
            let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
            let new = datagram::open(family, None)?;
            if how == Lookup::ConnectedUdp {
                new.connect(to).await?;
            }
            open_socket.insert(new)
        }
    };
    let question = question();
    match how {
        Lookup::ConnectedUdp => socket.send(&question).await?,
        Lookup::UnconnectedUdp | Lookup::Tcp => socket.send_to(&question, to).await?,
    };
    let mut buffer = vec![0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        // Others may be late answers to the first try.
        if from == to && buffer.get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(to: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = connect(to).await?;
    let question = question();
    let length = u16::try_from(question.len()).unwrap_or_default().to_be_bytes();
    stream.write_all(&[&length[..], &question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// A query with one question for an address, and a recently unused id.
pub(super) fn question() -> Vec<u8> {
    let id = (now_us() as u16).to_be_bytes();
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in IDENTITY_NAME.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 1, 0, 1]);
    message
}

/// One A record, which ends the message.
pub(super) fn answered(message: &[u8]) -> Result<Answered, Failure> {
    let code = message.get(3).map_or(u8::MAX, |flags| flags & 0x0f);
    let has_answer = message.get(6..8) == Some(&[0, 1]);
    match message.last_chunk::<4>() {
        Some(address) if code == 0 && has_answer => Ok(Answered {
            name: Ipv4Addr::from(*address).to_string(),
            generation: 0,
            peer: None,
            source: None,
        }),
        _ => Err(Failure(format!("lookup: answered with code {code}"))),
    }
}
