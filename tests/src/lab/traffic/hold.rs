//! Connections that stay open while the cluster changes.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Report,
    exchange::{connect, exchange_line},
    now_us,
    report::{Answered, Failure, Tally},
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Connections opened in parallel.
const WIDTH: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Held {
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: BufReader<TcpStream>,
    /// The server of the connection, which must not change.
    name: String,
    peer: SocketAddr,
}

impl Held {
    pub async fn open(to: &[SocketAddr], count: usize) -> (Self, Report) {
        let (mut held, mut tally, mut opening) = (Self::default(), Tally::default(), JoinSet::new());
        let mut targets = to.iter().cycle().take(count).copied();
        loop {
            opening_more(&mut opening, &mut targets);
            let Some(joined) = opening.join_next().await else { break };
            let Ok((to, start, outcome)) = joined else { continue };
            tally.record(to, start, held.keep(outcome));
        }
        (held, tally.report())
    }

    /// Sends over every connection. Counts those whose server has changed.
    pub async fn echo(&mut self, bytes: usize) -> Report {
        let mut tally = Tally::default();
        for connection in &mut self.connections {
            let start = now_us();
            let outcome = connection.echo(bytes).await;
            tally.record(connection.peer, start, outcome);
        }
        tally.report()
    }

    /// Waits for the end of every connection, without sending. Counts those that end as failures.
    pub async fn await_end(&mut self, within: Duration) -> Report {
        let (start, until) = (now_us(), Instant::now() + within);
        let ends = self.connections.iter_mut().map(async |connection| {
            let end = connection.end(until).await;
            (connection.peer, end)
        });
        let mut tally = Tally::default();
        for (peer, end) in join_all(ends).await {
            tally.record(peer, start, end);
        }
        tally.report()
    }

    fn keep(&mut self, outcome: Result<Connection, Failure>) -> Result<Answered, Failure> {
        let connection = outcome?;
        let answered = connection.answered();
        self.connections.push(connection);
        Ok(answered)
    }
}

fn opening_more(
    opening: &mut JoinSet<(SocketAddr, u64, Result<Connection, Failure>)>,
    targets: &mut impl Iterator<Item = SocketAddr>,
) {
    while opening.len() < WIDTH {
        let Some(to) = targets.next() else { return };
        opening.spawn(async move { (to, now_us(), Connection::open(to).await) });
    }
}

impl Connection {
    async fn open(to: SocketAddr) -> Result<Self, Failure> {
        let stream = in_time(connect(to)).await.map_err(Failure::at("connect"))?;
        let peer = stream.peer_addr().map_err(Failure::at("getpeername"))?;
        let mut connection = Self { stream: BufReader::new(stream), name: String::new(), peer };
        connection.name = connection.word("hello").await?;
        Ok(connection)
    }

    async fn echo(&mut self, bytes: usize) -> Result<Answered, Failure> {
        let word = if bytes == 0 { "still there".to_owned() } else { "x".repeat(bytes) };
        let name = self.word(&word).await?;
        let peer = self.stream.get_ref().peer_addr().map_err(Failure::at("getpeername"))?;
        if peer != self.peer {
            return Err(Failure(format!("getpeername: {peer} instead of {}", self.peer)));
        }
        if name != self.name {
            return Err(Failure(format!("echo: {name} answers instead of {}", self.name)));
        }
        Ok(self.answered())
    }

    async fn end(&mut self, until: Instant) -> Result<Answered, Failure> {
        match timeout_at(until, self.stream.read_u8()).await {
            Err(_) => Ok(self.answered()),
            Ok(Err(error)) => Err(Failure::at("read")(error)),
            Ok(Ok(octet)) => Err(Failure(format!("read: unexpected {octet:#x}"))),
        }
    }

    /// Sends a word. Returns the name of the server that echoed it.
    async fn word(&mut self, word: &str) -> Result<String, Failure> {
        let answer = in_time(exchange_line(&mut self.stream, word)).await.map_err(Failure::at("echo"))?;
        answer
            .strip_suffix(word)
            .map(|name| name.trim_end().to_owned())
            .ok_or_else(|| Failure(format!("echo: unexpected answer `{answer:.80}` to `{word:.80}`")))
    }

    fn answered(&self) -> Answered {
        Answered { name: self.name.clone(), generation: 0, peer: Some(self.peer), source: None }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
