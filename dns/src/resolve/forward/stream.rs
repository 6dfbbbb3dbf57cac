//! Queries over TCP and TLS, on pooled connections, and the transport of an upstream.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    connection::{Answer, Limits, connect},
    failure::Failure,
    https::Https,
    upstream_query::{Mismatch, UpstreamQuery},
};
use crate::observe::metrics::UpstreamMetrics;

/// The transport of a connection.
#[derive(Clone)]
pub(super) enum Dial {
    /// TCP, only after a truncated answer over UDP.
    TcpFallback,
    TcpOnly,
    Tls {
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    },
    Https(Arc<Https>),
}

/// The idle connections of one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    dial: Dial,
    limits: Limits,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    created: Instant,
    since: Instant,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
type Connection = Box<dyn Stream>;

/// The timeout of a query on a pooled connection. All pooled connections may be dead, and a query must not spend
/// its tries on each of them.
const POOLED_TIMEOUT: Duration = Duration::from_millis(600);
/// The maximum of answers to earlier queries that are skipped on a connection.
const MAX_FOREIGN: usize = 8;

impl Pool {
    pub(super) fn new(dial: Dial, limits: Limits) -> Self {
        Self { dial, limits, idle: Mutex::default() }
    }

    /// Sends a query and returns the answer. A server may close an idle connection at any time, and a connection
    /// whose state it has lost stays silent: a query that fails or is slow on a pooled connection is retried on a
    /// new one.
    pub(super) async fn exchange(
        &self,
        to: SocketAddr,
        query: &UpstreamQuery,
        metrics: &UpstreamMetrics,
    ) -> Result<Answer, Failure> {
        let protocol = self.dial.protocol();
        if let Dial::Https(https) = &self.dial {
            return https.exchange(to, query, &self.limits, metrics).await;
        }
        if let Some(Idle { connection, created, .. }) = self.take_idle() {
            metrics.count_reused(protocol);
            let exchange = self.exchange_on(connection, created, query);
            if let Ok(Ok(answer)) = timeout(POOLED_TIMEOUT, exchange).await {
                return Ok(answer);
            }
        }
        metrics.count_opened(protocol);
        let fresh = self.dial.connect(to, self.limits.source).await?;
        self.exchange_on(fresh, Instant::now(), query).await
    }

    async fn exchange_on(
        &self,
        mut connection: Connection,
        created: Instant,
        query: &UpstreamQuery,
    ) -> Result<Answer, Failure> {
        write(&mut connection, query.wire()).await?;
        let wire = read_answer(&mut connection, query).await?;
        self.put_back(Idle { connection, created, since: Instant::now() });
        Ok(Answer { wire, age: 0 })
    }

    fn take_idle(&self) -> Option<Idle> {
        self.close_expired();
        self.idle().pop()
    }

    /// Closes expired connections. Called on a timer too, for an upstream that is no longer queried.
    pub(super) fn close_expired(&self) {
        self.idle().retain(|pooled| self.limits.is_usable(pooled.created, pooled.since));
        if let Dial::Https(https) = &self.dial {
            https.close_expired(&self.limits);
        }
    }

    fn put_back(&self, used: Idle) {
        let mut idle = self.idle();
        if idle.len() < self.limits.max_idle {
            idle.push(used);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial {
    /// Whether UDP is not used.
    pub(super) fn is_forced(&self) -> bool {
        match self {
            Self::TcpFallback => false,
            Self::TcpOnly | Self::Tls { .. } | Self::Https(_) => true,
        }
    }

    fn protocol(&self) -> &'static str {
        match self {
            Self::TcpFallback | Self::TcpOnly => "tcp",
            Self::Tls { .. } => "tcp-tls",
            Self::Https(_) => "https",
        }
    }

    async fn connect(&self, to: SocketAddr, source: Option<IpAddr>) -> io::Result<Connection> {
        let stream = connect(to, source).await?;
        match self {
            Self::TcpFallback | Self::TcpOnly | Self::Https(_) => Ok(Box::new(stream)),
            Self::Tls { config, name } => {
                let connector = TlsConnector::from(Arc::clone(config));
                Ok(Box::new(connector.connect(name.clone(), stream).await?))
            }
        }
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol())
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("since", &self.since).finish_non_exhaustive()
    }
}

/// Writes length and message in one segment: some servers cannot reassemble them (RFC 7766, section 8).
async fn write(connection: &mut Connection, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), message].concat();
    connection.write_all(&framed).await?;
    connection.flush().await
}

async fn read_answer(connection: &mut Connection, query: &UpstreamQuery) -> Result<Vec<u8>, Failure> {
    for _ in 0..MAX_FOREIGN {
        let length = connection.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        connection.read_exact(&mut message).await?;
        match query.accept(&mut message) {
            Ok(()) => return Ok(message),
            Err(Mismatch::Foreign) => {}
            Err(mismatch @ (Mismatch::WrongCase | Mismatch::NoQuestion)) => return Err(mismatch.into()),
        }
    }
    Err(Failure::Foreign)
}
