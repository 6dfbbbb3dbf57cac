//! Queries over HTTPS (RFC 8484): one connection for all queries over HTTP/2, one for each query at a time over
//! HTTP/1.1.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{ACCEPT, AGE, CONTENT_TYPE, HOST},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    connection::{Answer, Limits, connect},
    failure::Failure,
    upstream_query::UpstreamQuery,
};
use crate::{
    config::{DohMethod, HTTPS_PORT},
    observe::metrics::UpstreamMetrics,
};

const PATH: &str = "/dns-query";
const MESSAGE: &str = "application/dns-message";
/// The largest message of DNS.
const MAX_BODY: usize = 65_535;
/// The timeout of a query on a connection that was used before, which may be dead.
const POOLED_TIMEOUT: Duration = Duration::from_millis(600);

/// The connections to one upstream.
pub(super) struct Https {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// The host and port of the URL.
    authority: String,
    method: DohMethod,
    connections: Mutex<Vec<Connection>>,
}

struct Connection {
    sender: Sender,
    created: Instant,
    since: Instant,
}

enum Sender {
    /// Used by one query at a time, hence out of the list meanwhile.
    One(http1::SendRequest<Full<Bytes>>),
    /// Shared by all queries: a copy stays in the list.
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Https {
    pub(super) fn new(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        port: u16,
        method: DohMethod,
    ) -> Self {
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let is_v6 = matches!(name, ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)));
        let host = if is_v6 { format!("[{}]", name.to_str()) } else { name.to_str().into_owned() };
        let authority = if port == HTTPS_PORT { host } else { format!("{host}:{port}") };
        let connections = Mutex::default();
        Self { connector: TlsConnector::from(Arc::new(config)), name, authority, method, connections }
    }

    /// Sends a query and returns the answer. A query that fails or is slow on a connection that was used before is
    /// retried on a new one.
    pub(super) async fn exchange(
        &self,
        to: SocketAddr,
        query: &UpstreamQuery,
        limits: &Limits,
        metrics: &UpstreamMetrics,
    ) -> Result<Answer, Failure> {
        if let Some(pooled) = self.take(limits) {
            metrics.count_reused("https");
            if let Ok(Ok(answer)) = timeout(POOLED_TIMEOUT, self.exchange_on(pooled, query, limits)).await {
                return Ok(answer);
            }
            // Over HTTP/2, later queries must not find it either.
            self.connections().clear();
        }
        metrics.count_opened("https");
        let now = Instant::now();
        let sender = self.connect(to, limits).await?;
        self.exchange_on(Connection { sender, created: now, since: now }, query, limits).await
    }

    async fn connect(&self, to: SocketAddr, limits: &Limits) -> Result<Sender, Failure> {
        let stream = connect(to, limits.source).await?;
        let stream = self.connector.connect(self.name.clone(), stream).await?;
        Sender::handshake(stream).await.map_err(failed)
    }

    async fn exchange_on(
        &self,
        mut connection: Connection,
        query: &UpstreamQuery,
        limits: &Limits,
    ) -> Result<Answer, Failure> {
        let shared = connection.shared();
        let request = self.request(query, shared.is_some())?;
        if let Some(shared) = shared {
            self.put_back(shared, limits);
        }
        let response = connection.sender.send(request).await.map_err(failed)?;
        let answer = read(response, query).await?;
        if let Sender::One(_) = connection.sender {
            self.put_back(connection, limits);
        }
        Ok(answer)
    }

    fn request(&self, query: &UpstreamQuery, is_two: bool) -> Result<Request<Full<Bytes>>, Failure> {
        let (path, body) = match self.method {
            DohMethod::Post => (PATH.to_owned(), query.wire().to_vec()),
            DohMethod::Get => (format!("{PATH}?dns={}", URL_SAFE_NO_PAD.encode(query.wire())), Vec::new()),
        };
        let uri = if is_two { format!("https://{}{path}", self.authority) } else { path };
        let uri: Uri = uri.parse().map_err(io::Error::other)?;
        let request = match self.method {
            DohMethod::Post => Request::post(uri).header(CONTENT_TYPE, MESSAGE),
            DohMethod::Get => Request::get(uri),
        };
        let request = if is_two { request } else { request.header(HOST, &self.authority) };
        let request = request.header(ACCEPT, MESSAGE).body(Full::from(body));
        Ok(request.map_err(io::Error::other)?)
    }

    /// A connection that was used before.
    fn take(&self, limits: &Limits) -> Option<Connection> {
        self.close_expired(limits);
        let mut connections = self.connections();
        connections.last().and_then(Connection::shared).or_else(|| connections.pop())
    }

    /// Only one connection over HTTP/2 is kept.
    fn put_back(&self, connection: Connection, limits: &Limits) {
        let mut connections = self.connections();
        if let Sender::Two(_) = connection.sender {
            connections.clear();
        }
        if connections.len() < limits.max_idle {
            connections.push(Connection { since: Instant::now(), ..connection });
        }
    }

    pub(super) fn close_expired(&self, limits: &Limits) {
        let is_usable =
            |one: &Connection| !one.sender.is_closed() && limits.is_usable(one.created, one.since);
        self.connections().retain(is_usable);
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Another handle of a connection that several queries use at a time.
    fn shared(&self) -> Option<Self> {
        let Sender::Two(sender) = &self.sender else { return None };
        Some(Self { sender: Sender::Two(sender.clone()), ..*self })
    }
}

impl Sender {
    /// Speaks the version that the server has chosen. The connection ends with its last sender.
    async fn handshake(stream: TlsStream<TcpStream>) -> hyper::Result<Self> {
        let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = TokioIo::new(stream);
        if is_two {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = builder.timer(TokioTimer::new()).handshake(stream).await?;
            tokio::spawn(connection);
            return Ok(Self::Two(sender));
        }
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self::One(sender))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }
}

/// Reads a whole answer. RFC 8484, section 4.2.1: only a successful response has one.
async fn read(response: Response<Incoming>, query: &UpstreamQuery) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        return Err(Failure::Http(format!("status {}", head.status)));
    }
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    if !header(CONTENT_TYPE).unwrap_or_default().trim().eq_ignore_ascii_case(MESSAGE) {
        return Err(Failure::Http("not a DNS message".to_owned()));
    }
    let age = header(AGE).and_then(|age| age.trim().parse().ok()).unwrap_or_default();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let mut wire = body.map_err(|error| Failure::Http(error.to_string()))?.to_bytes().to_vec();
    query.accept(&mut wire)?;
    Ok(Answer { wire, age })
}

fn failed(error: hyper::Error) -> Failure {
    Failure::Http(error.to_string())
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").field("authority", &self.authority).finish_non_exhaustive()
    }
}
