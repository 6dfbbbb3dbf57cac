//! An HTTP server for clients that may be any host that reaches the node: connections are limited in number, per
//! client and in duration. At a limit, the connection that has waited longest without a request is closed, so
//! that silent connections do not keep others out.

use std::{convert::Infallible, future::Future, net::IpAddr, pin::pin, time::Duration};

use axum::{Router, body::Body, response::Response};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
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

use admission::{Activity, Admission, Capacity};

mod admission;
mod own_address;

const LIMITS: Limits = Limits {
    capacity: Capacity { others: 256, own: 64, per_client: 64 },
    request_timeout: Duration::from_secs(30),
    max_age: Duration::from_secs(300),
};
/// The pause after a failed `accept`: the next one would fail as well, for lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Limits of connections.
#[derive(Clone, Copy)]
struct Limits {
    /// Connections of one listener.
    capacity: Capacity,
    /// The timeout for the header of a request, the first or a later one.
    request_timeout: Duration,
    /// The maximum age of a connection, also of an active one: its client may never read.
    max_age: Duration,
}

/// Serves until the future is dropped, which closes all connections.
pub async fn serve_http(listener: TcpListener, app: Router) -> ! {
    serve_within(LIMITS, own_address::is_own, listener, app).await
}

/// `is_own` tells from the client's address and the address that it connected to whether the client is on this
/// node.
async fn serve_within(
    limits: Limits,
    is_own: impl Fn(IpAddr, IpAddr) -> bool,
    listener: TcpListener,
    app: Router,
) -> ! {
    let mut connections = JoinSet::new();
    let mut admission = Admission::new(limits.capacity);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    let client = client.ip().to_canonical();
                    let is_own = stream.local_addr().is_ok_and(|to| is_own(client, to.ip().to_canonical()));
                    let activity = Activity::default();
                    let task = serve_connection(limits, stream, app.clone(), activity.clone());
                    admission.admit(client, is_own, activity, connections.spawn(task));
                }
                Err(error) => {
                    debug!(%error, "connection not accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            },
            Some(ended) = connections.join_next_with_id() => {
                admission.remove(ended.map_or_else(|error| error.id(), |(task, ())| task));
            }
        }
    }
}

/// Serves one connection. Its errors concern only its client, and are ignored.
async fn serve_connection(
    Limits { request_timeout, max_age, .. }: Limits,
    stream: TcpStream,
    app: Router,
    activity: Activity,
) {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(request_timeout);
    let service = service_fn(|request| respond(&app, &activity, request));
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
    if timeout(max_age, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(request_timeout, connection).await;
    }
}

fn respond(
    app: &Router,
    activity: &Activity,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let in_progress = activity.begin_request();
    let response = TowerToHyperService::new(app.clone()).call(request);
    async move {
        let response = response.await;
        drop(in_progress);
        response
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

    /// A server that takes 127.0.0.1 alone for an address of the node.
    async fn start(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(async || "hello");
        let is_own = |client: IpAddr, _| client == Ipv4Addr::LOCALHOST;
        tokio::spawn(async move { serve_within(limits, is_own, listener, app).await });
        address
    }

    fn with(capacity: Capacity) -> Limits {
        Limits { capacity, ..LIMITS }
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

    async fn read_body(stream: &mut TcpStream) {
        let mut rest = Vec::new();
        while !rest.ends_with(b"hello") {
            rest.push(stream.read_u8().await.unwrap());
        }
    }

    #[tokio::test]
    async fn silent_connections_are_closed() {
        let limits = Limits { request_timeout: Duration::from_millis(100), ..LIMITS };
        let mut silent = connect([127, 0, 0, 2], start(limits).await).await;
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "closed");
    }

    #[tokio::test]
    async fn silent_connections_at_the_limit_do_not_keep_others_out() {
        let address = start(LIMITS).await;
        let mut silent = Vec::new();
        for n in 0..256_u32 {
            silent.push(connect([127, 0, 1, (n % 4) as u8], address).await);
        }
        for client in [[127, 0, 0, 2], [127, 0, 0, 1], [127, 0, 1, 3]] {
            let mut stream = connect(client, address).await;
            let answered = timeout(Duration::from_secs(5), is_answered(&mut stream)).await;
            assert_eq!(answered, Ok(true), "{client:?}");
        }
        assert_eq!(silent[0].read(&mut [0]).await.unwrap_or_default(), 0, "the first one is closed");
        assert!(is_answered(silent.last_mut().unwrap()).await, "the last one is not");
    }

    #[tokio::test]
    async fn own_connections_stay_however_many_others_come() {
        let address = start(with(Capacity { others: 2, own: 1, per_client: 2 })).await;
        // It waits longest: the connection that a kubelet keeps between its probes.
        let mut own = connect([127, 0, 0, 1], address).await;
        assert!(is_answered(&mut own).await);
        read_body(&mut own).await;
        let mut others = Vec::new();
        for n in 0..8 {
            let mut other = connect([127, 0, 1, n], address).await;
            assert!(is_answered(&mut other).await, "{n}");
            others.push(other);
        }
        assert!(is_answered(&mut own).await, "closed for the connections of others");
    }

    #[tokio::test]
    async fn active_connections_stay_at_the_limit() {
        let address = start(with(Capacity { others: 2, own: 1, per_client: 2 })).await;
        let mut silent = connect([127, 0, 0, 2], address).await;
        let mut active = connect([127, 0, 0, 3], address).await;
        assert!(is_answered(&mut active).await);
        read_body(&mut active).await;
        assert!(is_answered(&mut connect([127, 0, 0, 1], address).await).await, "own");
        assert!(is_answered(&mut connect([127, 0, 0, 4], address).await).await, "another client");
        assert_eq!(silent.read(&mut [0]).await.unwrap_or_default(), 0, "closed");
        assert!(is_answered(&mut active).await);
    }

    #[tokio::test]
    async fn connections_per_client_are_limited() {
        let address = start(with(Capacity { others: 4, own: 1, per_client: 2 })).await;
        let mut open = Vec::new();
        for n in 0..4 {
            let mut stream = connect([127, 0, 0, 3], address).await;
            assert!(is_answered(&mut stream).await, "connection {n}");
            open.push(stream);
        }
        let mut rest = Vec::new();
        let closed = timeout(Duration::from_secs(5), open[0].read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the first one is closed");
        assert!(is_answered(&mut connect([127, 0, 0, 2], address).await).await, "another client");
    }
}
