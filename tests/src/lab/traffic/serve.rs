//! Servers that answer with their name.
//!
//! Over TCP they answer line by line: `who` with `name generation source`, where the source is the client's
//! address as seen here, `GET ..` with `name generation` as an HTTP page (and the end of the connection),
//! anything else with `name` and that line. Over UDP every datagram is answered with `name generation` and its
//! own text; one that starts with `who ` gets the source before the text.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::{Protocol, Serve, now_us};

const BACKLOG: u32 = 4096;

/// The running servers of one request; they end with it.
#[derive(Debug)]
pub(super) struct Server {
    tasks: Vec<JoinHandle<()>>,
    visits: Arc<Visits>,
}

/// Open connections, and the time of the last change.
#[derive(Debug, Default)]
struct Visits {
    open: AtomicUsize,
    /// The time of the last connection's start or end.
    last_us: AtomicU64,
}

/// The name and generation in a server's answers.
#[derive(Debug, Clone)]
struct Identity {
    name: Arc<str>,
    generation: Arc<AtomicU64>,
    visits: Arc<Visits>,
}

impl Server {
    /// Returns when connections are accepted.
    pub fn start(order: &Serve, generation: Arc<AtomicU64>) -> io::Result<Self> {
        let visits = Arc::<Visits>::default();
        let identity = Identity { name: order.name.as_str().into(), generation, visits: Arc::clone(&visits) };
        let tasks = addresses(order)
            .into_iter()
            .map(|address| match order.protocol {
                Protocol::Tcp => Ok(tokio::spawn(accept(listen(address)?, identity.clone()))),
                Protocol::Udp => Ok(tokio::spawn(reply(bind(address)?, identity.clone()))),
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { tasks, visits })
    }

    /// Stops after this time without new connections, once all have ended.
    pub async fn drain(self, idle: Duration) {
        let told_us = now_us();
        while let Some(rest) = self.visits.rest(told_us, idle) {
            sleep(rest).await;
        }
        self.stop().await;
    }

    /// Returns when the sockets are closed.
    pub async fn stop(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            // The task was cancelled, as intended.
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Visits {
    fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.last_us.store(now_us(), Ordering::Relaxed);
    }

    fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.last_us.store(now_us(), Ordering::Relaxed);
    }

    /// The minimum remaining time until the server was idle for this long since that instant. Returns `None` if
    /// it was.
    fn rest(&self, since_us: u64, idle: Duration) -> Option<Duration> {
        let last_us = self.last_us.load(Ordering::Relaxed).max(since_us);
        let silent = Duration::from_micros(now_us().saturating_sub(last_us));
        let rest = idle.saturating_sub(silent);
        match (rest.is_zero(), self.open.load(Ordering::Relaxed)) {
            (true, 0) => None,
            (true, _) => Some(idle),
            (false, _) => Some(rest),
        }
    }
}

/// One socket per family instead of one for both: as most servers, and as a reply from a wildcard address needs.
fn addresses(order: &Serve) -> Vec<SocketAddr> {
    let of = |address: IpAddr| SocketAddr::new(address, order.port);
    match order.address {
        Some(address) => vec![of(address)],
        None => vec![of(Ipv4Addr::UNSPECIFIED.into()), of(Ipv6Addr::UNSPECIFIED.into())],
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = super::datagram::unbound(address.is_ipv6())?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    super::datagram::bound(socket, address)
}

async fn accept(listener: TcpListener, identity: Identity) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that was reset in the backlog does not stop the server.
                let Ok((stream, source)) = accepted else { continue };
                identity.visits.begin();
                connections.spawn(serve_one(stream, source, identity.clone()));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn serve_one(stream: TcpStream, source: SocketAddr, identity: Identity) {
    // A client may abort its connection.
    let _ = serve(stream, source, identity.clone()).await;
    identity.visits.end();
}

async fn serve(stream: TcpStream, source: SocketAddr, identity: Identity) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while {
        line.clear();
        stream.read_line(&mut line).await?
    } > 0
    {
        if line.starts_with("GET ") {
            return page(stream, &identity).await;
        }
        let answer = match line.trim_end() {
            "who" => format!("{identity} {source}"),
            other => format!("{} {other}", identity.name),
        };
        stream.get_mut().write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn page(mut stream: BufReader<TcpStream>, identity: &Identity) -> io::Result<()> {
    // The remaining lines of the request are read so that closing sends no reset.
    let mut line = String::new();
    while {
        line.clear();
        stream.read_line(&mut line).await?
    } > 0
        && !line.trim_end().is_empty()
    {}
    let body = format!("{identity}\n");
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n");
    stream.get_mut().write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await?;
    stream.get_mut().shutdown().await
}

async fn reply(socket: UdpSocket, identity: Identity) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An ICMP error about an earlier reply is reported here; the next client is still served.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let answer = match text.strip_prefix("who ") {
            Some(text) => format!("{identity} {from} {text}"),
            None => format!("{identity} {text}"),
        };
        let _ = socket.send_to(answer.as_bytes(), from).await;
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.generation.load(Ordering::Relaxed))
    }
}
