//! The sockets: requests and replies over UDP and TCP on the same address.
//!
//! Every address has one UDP socket and one TCP listener per worker; the kernel spreads the clients over them
//! (`SO_REUSEPORT`). A request that can be answered from memory is answered on the task that read it; one that
//! waits for an upstream gets a task of its own, up to a limit. The loop of `hickory-server` is not used: it
//! replies from the address that the kernel picks, echoes any payload size, and loses the OPT of a truncated reply.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use nix::errno::Errno;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tracing::info;

use crate::{
    observe::{heartbeat::Heartbeat, metrics::Losses},
    serve::{
        handler::{Handler, MAX_PENDING},
        rate_limit::RateLimiter,
    },
};

mod admission;
mod connections;
mod https;
mod serving;
mod socket;
mod tcp;
mod tls;
mod turns;
mod udp;

pub use admission::Admission;
pub use serving::Security;
use serving::Serving;
use socket::ServerSocket;
pub use tls::ServerCertificate;

/// Attempts to find a port that is free for both protocols.
const MAX_BIND_TRIES: usize = 16;

#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address} ({protocol})")]
pub struct ListenError {
    address: SocketAddr,
    protocol: &'static str,
    #[source]
    source: io::Error,
}

impl ListenError {
    /// Whether the kernel does not support the address family, or this machine has no address of it.
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

impl Listener {
    /// Binds the sockets. Must be called within a runtime. With port 0, chooses a port that is free for both
    /// protocols.
    pub fn bind(address: SocketAddr, workers: usize) -> Result<Self, ListenError> {
        for _ in 1..MAX_BIND_TRIES {
            match Self::try_bind(address, workers) {
                Err(error) if address.port() == 0 && error.source.kind() == io::ErrorKind::AddrInUse => {}
                bound => return bound,
            }
        }
        Self::try_bind(address, workers)
    }

    fn try_bind(requested: SocketAddr, workers: usize) -> Result<Self, ListenError> {
        let failed = |address, protocol| move |source| ListenError { address, protocol, source };
        let first = ServerSocket::bind(requested).map_err(failed(requested, "UDP"))?;
        let address = first.address().map_err(failed(requested, "UDP"))?;
        let mut listener = Self { address, udp: vec![first], tcp: Vec::new() };
        for _ in 1..workers {
            listener.udp.push(ServerSocket::bind(address).map_err(failed(address, "UDP"))?);
        }
        for _ in 0..workers {
            listener.tcp.push(socket::stream(address).map_err(failed(address, "TCP"))?);
        }
        Ok(listener)
    }

    /// Binds the sockets of a listener over TLS, which has none for UDP.
    pub fn bind_encrypted(requested: SocketAddr, workers: usize) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address: requested, protocol: "TCP", source };
        let first = socket::stream(requested).map_err(failed)?;
        let address = first.local_addr().map_err(failed)?;
        let mut listener = Self { address, udp: Vec::new(), tcp: vec![first] };
        for _ in 1..workers {
            listener.tcp.push(socket::stream(address).map_err(failed)?);
        }
        Ok(listener)
    }

    fn sockets(&self) -> impl Iterator<Item = RawFd> + '_ {
        let udp = self.udp.iter().map(ServerSocket::as_raw_fd);
        udp.chain(self.tcp.iter().map(AsRawFd::as_raw_fd))
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    sockets: Vec<RawFd>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// A server that listens nowhere.
    pub fn idle() -> Self {
        Self {
            addresses: Vec::new(),
            sockets: Vec::new(),
            tasks: JoinSet::new(),
            stop: watch::channel(false).0,
        }
    }

    /// Must be called within a runtime.
    pub fn start(
        listeners: Vec<(Listener, Handler, Option<Security>)>,
        (admission, limiter): (Admission, Option<Arc<RateLimiter>>),
        losses: &Losses,
        heartbeat: &Heartbeat,
    ) -> Self {
        let admission = Arc::new(admission);
        let (stop, stopped) = watch::channel(false);
        let all = listeners.iter().map(|(listener, ..)| listener.sockets().count()).sum();
        let plain = listeners.iter().filter(|(.., security)| security.is_none());
        let sockets: Vec<RawFd> = plain.flat_map(|(listener, ..)| listener.sockets()).collect();
        let mut heartbeats = heartbeat.tasks(all);
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        // The limits apply to all addresses together.
        let (pending, connections) = (Arc::new(Semaphore::new(MAX_PENDING)), Arc::default());
        for (listener, handler, security) in listeners {
            info!(is_encrypted = security.is_some(), address = %listener.address, "serving DNS");
            addresses.push(listener.address);
            let serving = Serving {
                handler: Arc::new(handler),
                pending: Arc::clone(&pending),
                connections: Arc::clone(&connections),
                admission: Arc::clone(&admission),
                limiter: limiter.clone(),
                security: security.map(Arc::new),
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

    /// The listening addresses, with the ports that were chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The descriptors of the sockets for UDP and TCP without TLS, valid until the server is stopped.
    pub fn sockets(&self) -> &[RawFd] {
        &self.sockets
    }

    /// Stops receiving, and returns when the requests received before are answered. Later requests go to other
    /// sockets at the same address.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}
