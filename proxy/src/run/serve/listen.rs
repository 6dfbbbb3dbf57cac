//! Listening, also where somebody else still does: kube-proxy, or the agent before us. And answering whoever comes, which
//! may be anybody who reaches the node: nobody keeps a place for long, and places are few.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::pin,
    time::Duration,
};

use anyhow::anyhow;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::k8s::events::Report;

/// An address that cannot be had is asked for again after this time, as upstream does.
const RETRY: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 1024;
const LIMITS: Limits =
    Limits { clients: 256, patience: Duration::from_secs(30), longest: Duration::from_secs(300) };
/// After a client could not be taken in: the next one would not be either, for as long as descriptors are short.
const BREATH: Duration = Duration::from_millis(100);

/// What clients may take.
#[derive(Clone, Copy)]
struct Limits {
    /// Clients of one address at a time; the next ones wait.
    clients: usize,
    /// How long a client may take to ask, be it for the first time or once more.
    patience: Duration,
    /// After this time a client has to come anew, however often it asks: it may be one that never reads.
    longest: Duration,
}

pub struct Place {
    pub address: SocketAddr,
    /// What an address that cannot be had is called in events.
    pub reason: &'static str,
    /// An address that cannot be had ends the agent.
    pub hard_fail: bool,
    pub fatal: mpsc::UnboundedSender<anyhow::Error>,
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Answers there for as long as the agent lives.
pub async fn serve(what: &'static str, place: Place, app: Router) {
    let Place { address, reason, hard_fail, fatal, reports } = place;
    let mut complained = false;
    loop {
        match bind(address) {
            Ok(listener) => {
                debug!(what, %address, "answering");
                answer(listener, app).await
            }
            Err(error) if hard_fail => {
                tell(&reports, reason, what, address, &error);
                // The agent may be ending already.
                let _ = fatal.send(anyhow!(error).context(format!("cannot serve {what} on {address}")));
                return;
            }
            Err(error) if !complained => {
                complained = true;
                tell(&reports, reason, what, address, &error);
                warn!(what, %address, %error, "address not to be had, will retry");
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

/// Answers until it is dropped; then whoever is being answered is cut off.
pub async fn answer(listener: TcpListener, app: Router) -> ! {
    answer_within(LIMITS, listener, app).await
}

async fn answer_within(limits: Limits, listener: TcpListener, app: Router) -> ! {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < limits.clients => match accepted {
                Ok((stream, _)) => drop(clients.spawn(converse(limits, stream, app.clone()))),
                Err(error) => {
                    debug!(%error, "client not taken in");
                    sleep(BREATH).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// Whatever goes wrong with one client is that client's business.
async fn converse(Limits { patience, longest, .. }: Limits, stream: TcpStream, app: Router) {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(patience);
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)));
    if timeout(longest, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(patience, connection).await;
    }
}

fn tell(
    reports: &mpsc::UnboundedSender<Report>,
    reason: &'static str,
    what: &str,
    address: SocketAddr,
    error: &io::Error,
) {
    // Without an API server nobody takes it.
    let _ = reports.send(Report::of_server(reason, format!("cannot serve {what} on {address}: {error}")));
}

/// `::` stands for every IPv6 address, and leaves the IPv4 ones to whoever wants them.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(StdListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stream
    }

    #[tokio::test]
    async fn who_says_nothing_makes_room_for_others() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { clients: 1, patience: Duration::from_millis(100), ..LIMITS };
        tokio::spawn(answer_within(limits, listener, Router::new().fallback(async || "hello")));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut answer = [0; 15];
        ask(address).await.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        assert_eq!(silent.read(&mut answer).await.unwrap(), 0, "it was sent away");
    }
}
