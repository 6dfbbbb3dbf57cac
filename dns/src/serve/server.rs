//! Sockets: requests in, replies out, over UDP and TCP on the same address.
//!
//! Every address has one UDP socket and one TCP listener per worker, which the kernel spreads clients over. What can be
//! answered at once is answered on the task that read it; what has to wait for others waits in a task of its own, and
//! there is a limit to how many do. `hickory-server`'s own loop is not used: it answers from whatever address the kernel
//! picks, echoes any payload size, and loses the OPT of a truncated reply.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use nix::errno::Errno;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tracing::info;

use crate::{
    observe::{heartbeat::Heartbeat, metrics::Losses},
    serve::handler::Handler,
};

mod interfaces;
mod socket;
mod tcp;
mod udp;

pub use interfaces::{addresses as local_addresses, addresses_of};
use socket::ServerSocket;

/// Answers that may be waited for at one time. Upstreams have limits of their own; this one is for memory.
const MAX_WAITING: usize = 8192;
/// No request is larger, over either protocol: what is asked fits 300 octets, and options take little.
const MAX_REQUEST: usize = 4096;
/// How often a port that is free for one protocol is looked for that is free for both.
const TRIES: usize = 16;

#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address} ({protocol})")]
pub struct ListenError {
    address: SocketAddr,
    protocol: &'static str,
    #[source]
    source: io::Error,
}

impl ListenError {
    /// The kernel does not know such addresses, or this machine has none.
    pub fn is_family_missing(&self) -> bool {
        let missing = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL].map(|errno| errno as i32);
        self.source.raw_os_error().is_some_and(|errno| missing.contains(&errno))
    }
}

/// The sockets of one address.
#[derive(Debug)]
pub struct Listener {
    pub address: SocketAddr,
    udp: Vec<ServerSocket>,
    tcp: Vec<tokio::net::TcpListener>,
}

/// What the tasks of one listener share; all but the handler is everybody's.
#[derive(Clone)]
struct Serving {
    handler: Arc<Handler>,
    waiting: Arc<Semaphore>,
    connections: Arc<tcp::Connections>,
    losses: Losses,
    /// Turns true when no more requests are taken.
    stop: watch::Receiver<bool>,
}

impl Serving {
    /// A place for one answer that others owe; `None`: there are too many of them.
    fn wait(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }
}

impl Listener {
    /// Must be called within a runtime. With port 0, one is chosen that is free for both protocols.
    pub fn bind(address: SocketAddr, workers: usize) -> Result<Self, ListenError> {
        for _ in 1..TRIES {
            match Self::try_bind(address, workers) {
                Err(error) if address.port() == 0 && error.source.kind() == io::ErrorKind::AddrInUse => {}
                bound => return bound,
            }
        }
        Self::try_bind(address, workers)
    }

    fn try_bind(asked: SocketAddr, workers: usize) -> Result<Self, ListenError> {
        let failed = |address, protocol| move |source| ListenError { address, protocol, source };
        let first = ServerSocket::bind(asked).map_err(failed(asked, "UDP"))?;
        let address = first.address().map_err(failed(asked, "UDP"))?;
        let mut listener = Self { address, udp: vec![first], tcp: Vec::new() };
        for _ in 1..workers {
            listener.udp.push(ServerSocket::bind(address).map_err(failed(address, "UDP"))?);
        }
        for _ in 0..workers {
            listener.tcp.push(socket::stream(address).map_err(failed(address, "TCP"))?);
        }
        Ok(listener)
    }

    fn sockets(&self) -> impl Iterator<Item = RawFd> + '_ {
        let udp = self.udp.iter().map(ServerSocket::as_raw_fd);
        udp.chain(self.tcp.iter().map(AsRawFd::as_raw_fd))
    }
}

/// Everything that serves, until it is stopped.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    sockets: Vec<RawFd>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Must be called within a runtime.
    pub fn start(listeners: Vec<(Listener, Handler)>, losses: &Losses, heartbeat: &Heartbeat) -> Self {
        let (stop, stopped) = watch::channel(false);
        let sockets: Vec<RawFd> = listeners.iter().flat_map(|(listener, _)| listener.sockets()).collect();
        let mut heartbeats = heartbeat.tasks(sockets.len());
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        // Whoever has used up the room at one address must not find more at the next.
        let (waiting, connections) = (Arc::new(Semaphore::new(MAX_WAITING)), Arc::default());
        for (listener, handler) in listeners {
            info!(address = %listener.address, "answering names");
            addresses.push(listener.address);
            let serving = Serving {
                handler: Arc::new(handler),
                waiting: Arc::clone(&waiting),
                connections: Arc::clone(&connections),
                losses: losses.clone(),
                stop: stopped.clone(),
            };
            for (socket, heartbeat) in listener.udp.into_iter().zip(&mut heartbeats) {
                tasks.spawn(udp::serve(socket, serving.clone(), heartbeat));
            }
            for (socket, heartbeat) in listener.tcp.into_iter().zip(&mut heartbeats) {
                tasks.spawn(tcp::serve(socket, serving.clone(), heartbeat));
            }
        }
        Self { addresses, sockets, tasks, stop }
    }

    /// Where it listens, with the ports that were chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// All of them, until it is stopped.
    pub fn sockets(&self) -> &[RawFd] {
        &self.sockets
    }

    /// Takes no more requests than have arrived, and ends when those are answered. Others that listen at the same address
    /// get what comes from now on.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Nothing sensible comes from port 0, and an answer to it would go nowhere.
fn is_answerable(client: SocketAddr) -> bool {
    client.port() != 0
}

fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}
