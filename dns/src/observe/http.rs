//! Answering over HTTP whoever comes, which may be anybody who reaches the node: nobody keeps a place for long, places are
//! few, and no single client has them all.

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
/// After a client could not be taken in: the next one would not be either, for as long as descriptors are short.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What clients may take.
#[derive(Clone, Copy)]
struct Limits {
    /// At one address of ours at a time; the next ones wait.
    connections: usize,
    /// Of one client; the next ones are closed.
    per_client: usize,
    /// How long a client may take to ask, be it for the first time or once more.
    request_timeout: Duration,
    /// After this time a client has to come anew, however often it asks: it may be one that never reads.
    max_age: Duration,
}

/// Answers until it is dropped; then whoever is being answered is cut off.
pub async fn answer(listener: TcpListener, app: Router) -> ! {
    answer_within(LIMITS, listener, app).await
}

async fn answer_within(limits: Limits, listener: TcpListener, app: Router) -> ! {
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
                    debug!(%error, "client not taken in");
                    sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = connections.join_next() => clients.forget(),
        }
    }
}

/// Who is connected: each connection holds one more of its client's.
#[derive(Default)]
struct Clients(HashMap<IpAddr, Arc<()>>);

impl Clients {
    fn admit(&mut self, client: IpAddr, most: usize) -> Option<Arc<()>> {
        let own = self.0.entry(client).or_default();
        (Arc::strong_count(own) <= most).then(|| Arc::clone(own))
    }

    /// Those who have left.
    fn forget(&mut self) {
        self.0.retain(|_, own| Arc::strong_count(own) > 1);
    }
}

/// Whatever goes wrong with one client is that client's business.
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
        tokio::spawn(answer_within(limits, listener, Router::new().fallback(async || "hello")));
        address
    }

    async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 15];
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        asked.is_ok() && stream.read_exact(&mut answer).await.is_ok() && answer == *b"HTTP/1.1 200 OK"
    }

    #[tokio::test]
    async fn who_says_nothing_makes_room_for_others() {
        let limits = Limits { connections: 1, request_timeout: Duration::from_millis(100), ..LIMITS };
        let address = start(limits).await;
        let mut silent = connect([127, 0, 0, 1], address).await;
        assert!(is_answered(&mut connect([127, 0, 0, 1], address).await).await);
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "it was sent away");
    }

    #[tokio::test]
    async fn no_client_has_all_places() {
        let address = start(Limits { connections: 4, per_client: 2, ..LIMITS }).await;
        let mut kept = Vec::new();
        for n in 0..4 {
            let mut stream = connect([127, 0, 0, 1], address).await;
            assert_eq!(is_answered(&mut stream).await, n < 2, "connection {n}");
            kept.push(stream);
        }
        assert!(is_answered(&mut connect([127, 0, 0, 2], address).await).await, "another client");
        drop(kept);
        while !is_answered(&mut connect([127, 0, 0, 1], address).await).await {
            sleep(Duration::from_millis(10)).await;
        }
    }
}
