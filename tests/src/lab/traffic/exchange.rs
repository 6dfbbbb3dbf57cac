//! One exchange with a server of the lab.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
};

use super::report::{Answered, Failure};

pub(super) fn in_turn<T>(all: &[T], turn: usize) -> Option<&T> {
    all.get(turn.checked_rem(all.len())?)
}

/// A connection that leaves no TIME_WAIT state: ten thousand of them would use up a pod's ports.
pub(super) async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    connect_from(None, to).await
}

pub(super) async fn connect_from(from: Option<SocketAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from {
        socket.set_reuseaddr(true)?;
        socket.bind(from)?;
    }
    socket.set_zero_linger()?;
    socket.set_nodelay(true)?;
    socket.connect(to).await
}

pub(super) async fn exchange_line(stream: &mut BufReader<TcpStream>, word: &str) -> io::Result<String> {
    stream.get_mut().write_all(format!("{word}\n").as_bytes()).await?;
    let mut answer = String::new();
    if stream.read_line(&mut answer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.trim_end().to_owned())
}

/// Parses `name generation`, and a source if one follows.
pub(super) fn answered(text: &str, peer: Option<SocketAddr>) -> Result<Answered, Failure> {
    let mut words = text.split_whitespace();
    match (words.next(), words.next().map(str::parse)) {
        (Some(name), Some(Ok(generation))) => {
            let source = words.next().and_then(|word| word.parse().ok());
            Ok(Answered { name: name.to_owned(), generation, peer, source })
        }
        _ => Err(Failure(format!("exchange: unexpected answer `{text}`"))),
    }
}
