//! An HTTP server for clients that may be any host that reaches the node: connections are limited in number, per
//! client and in duration.

use std::{collections::HashMap, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

const LIMITS: Limits = Limits {
    connections: 256,
    per_client: 64,
    request_timeout: Duration::from_secs(30),
    max_age: Duration::from_secs(300),
};
/// The pause after a failed `accept`: the next one would fail as well, for lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Limits of connections.
#[derive(Clone, Copy)]
struct Limits {
    /// Connections of one listener; further ones wait in its backlog.
    connections: usize,
    /// Connections of one client; further ones are closed.
    per_client: usize,
    /// The timeout for the header of a request, the first or a later one.
    request_timeout: Duration,
    /// The maximum age of a connection, also of an active one: its client may never read.
    max_age: Duration,
}

/// Serves until the future is dropped, which closes all connections.
pub async fn serve_http(listener: TcpListener, app: Router) -> ! {
    serve_within(LIMITS, listener, app).await
}

async fn serve_within(limits: Limits, listener: TcpListener, app: Router) -> ! {
    let mut connections = JoinSet::new();
    let mut clients = Clients::default();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, client)) => {
                    let slot = clients.admit(client.ip().to_canonical(), limits.per_client);
                    let Some(slot) = slot else { continue };
                    let app = app.clone();
                    connections.spawn(async move {
                        serve_connection(limits, stream, app).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    debug!(%error, "connection not accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = connections.join_next() => clients.remove_idle(),
        }
    }
}

/// The connections per client: each holds a clone of its client's `Arc`.
#[derive(Default)]
struct Clients(HashMap<IpAddr, Arc<()>>);

impl Clients {
    fn admit(&mut self, client: IpAddr, most: usize) -> Option<Arc<()>> {
        let own = self.0.entry(client).or_default();
        (Arc::strong_count(own) <= most).then(|| Arc::clone(own))
    }

    /// Removes the clients without connections.
    fn remove_idle(&mut self) {
        self.0.retain(|_, own| Arc::strong_count(own) > 1);
    }
}

/// Serves one connection. Its errors concern only its client, and are ignored.
async fn serve_connection(Limits { request_timeout, max_age, .. }: Limits, stream: TcpStream, app: Router) {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(request_timeout);
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)));
    if timeout(max_age, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(request_timeout, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpSocket,
    };

    use super::*;

    async fn start(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_within(limits, listener, Router::new().fallback(async || "hello")));
        address
    }

    async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 15];
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        sent.is_ok() && stream.read_exact(&mut answer).await.is_ok() && answer == *b"HTTP/1.1 200 OK"
    }

    #[tokio::test]
    async fn silent_connections_are_closed() {
        let limits = Limits { connections: 1, request_timeout: Duration::from_millis(100), ..LIMITS };
        let address = start(limits).await;
        let mut silent = connect([127, 0, 0, 1], address).await;
        assert!(is_answered(&mut connect([127, 0, 0, 1], address).await).await);
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "closed");
    }

    #[tokio::test]
    async fn connections_per_client_are_limited() {
        let address = start(Limits { connections: 4, per_client: 2, ..LIMITS }).await;
        let mut open = Vec::new();
        for n in 0..4 {
            let mut stream = connect([127, 0, 0, 1], address).await;
            assert_eq!(is_answered(&mut stream).await, n < 2, "connection {n}");
            open.push(stream);
        }
        assert!(is_answered(&mut connect([127, 0, 0, 2], address).await).await, "another client");
        drop(open);
        while !is_answered(&mut connect([127, 0, 0, 1], address).await).await {
            sleep(Duration::from_millis(10)).await;
        }
    }
}
