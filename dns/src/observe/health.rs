//! The HTTP endpoints for health, readiness and metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    cluster::snapshot::Published,
    observe::{
        faults::{self, Faults, Part},
        http,
        metrics::{HealthMetrics, MetricNames, Metrics},
    },
};

/// The addresses of each endpoint; several may share an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpEndpoints {
    pub health: BTreeSet<SocketAddr>,
    pub ready: BTreeSet<SocketAddr>,
    pub metrics: BTreeSet<SocketAddr>,
    /// Whether another process may have the same addresses (`SO_REUSEPORT`): two agents on a node, during a
    /// takeover.
    pub are_shared: bool,
    /// The names of metrics; `None`: CoreDNS's if the Corefile has `prometheus`.
    pub metric_names: Option<MetricNames>,
}

/// The failure to bind an address.
#[derive(Debug, Error)]
#[error("cannot serve {endpoint} at {address}; choose another address with {flag}")]
struct HealthError {
    endpoint: &'static str,
    flag: &'static str,
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// The running endpoints. Dropping it stops them.
#[derive(Debug)]
pub struct Health {
    state: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    _servers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    /// `None` without a `kubernetes` block.
    published: Option<Arc<Published>>,
    stopping: AtomicBool,
}

/// The backlog of the listeners: probes are few.
const BACKLOG: u32 = 64;

impl Health {
    /// Must be called within a runtime. An address that cannot be bound is retried.
    pub fn start(
        endpoints: &HttpEndpoints,
        metrics: Arc<Metrics>,
        published: Option<Arc<Published>>,
        faults: Faults,
    ) -> Self {
        let state = Arc::new(Shared { metrics, published, stopping: AtomicBool::new(false) });
        let mut servers = JoinSet::new();
        let mut addresses = Vec::new();
        for (address, (router, endpoint)) in routers(endpoints) {
            let router = router.with_state(Arc::clone(&state));
            let is_shared = endpoints.are_shared;
            match bind(address, is_shared) {
                Ok(listener) => {
                    addresses.extend(listener.local_addr().ok());
                    info!(%address, endpoint = endpoint.name(), "serving over HTTP");
                    servers.spawn(async move { http::serve_http(listener, router).await });
                }
                Err(error) => {
                    faults.insert(endpoint.at(address), &endpoint.failed(address, error));
                    let faults = faults.clone();
                    servers.spawn(async move {
                        let listener = bind_later(address, is_shared, endpoint, &faults).await;
                        http::serve_http(listener, router).await
                    });
                }
            }
        }
        for address in endpoints.health.iter().filter(|address| address.port() != 0) {
            servers.spawn(self_check(*address, state.metrics.health()));
        }
        Self { state, addresses, _servers: servers }
    }

    /// The listening addresses at the start, in the order of the configured ones.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Reports not ready from now on, so that no new clients come while pending requests are answered.
    pub fn set_stopping(&self) {
        self.state.stopping.store(true, Relaxed);
    }
}

#[derive(Debug, Clone, Copy)]
enum HttpEndpoint {
    Health,
    Ready,
    Metrics,
}

impl HttpEndpoint {
    fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Ready => "readiness",
            Self::Metrics => "metrics",
        }
    }

    fn at(self, address: SocketAddr) -> Part {
        Part::Address(self.name(), address)
    }

    fn failed(self, address: SocketAddr, source: io::Error) -> HealthError {
        let flag = match self {
            Self::Health => "--dns-health-bind-address",
            Self::Ready => "--dns-ready-bind-address",
            Self::Metrics => "--dns-metrics-bind-address",
        };
        HealthError { endpoint: self.name(), flag, address, source }
    }
}

/// Interval and timeout of the requests to the own health endpoint. Their latency is a metric, as in CoreDNS.
const SELF_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const SELF_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

async fn self_check(address: SocketAddr, metrics: HealthMetrics) {
    let here = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    };
    let mut ticks = interval(SELF_CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        match timeout(SELF_CHECK_TIMEOUT, check_health(here)).await {
            Ok(Ok(())) => metrics.observe_success(sent.elapsed()),
            Ok(Err(_)) | Err(_) => metrics.count_failure(),
        }
    }
}

async fn check_health(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start.ends_with(b" 200") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// One router for each address, and the first endpoint there, for messages.
fn routers(endpoints: &HttpEndpoints) -> BTreeMap<SocketAddr, (Router<Arc<Shared>>, HttpEndpoint)> {
    let HttpEndpoints { health, ready, metrics, are_shared: _, metric_names: _ } = endpoints;
    let mut routers = BTreeMap::new();
    let mut add = |addresses: &BTreeSet<SocketAddr>,
                   path: &str,
                   route: axum::routing::MethodRouter<Arc<Shared>>,
                   endpoint| {
        for address in addresses {
            let (router, first) = routers.remove(address).unwrap_or_else(|| (Router::new(), endpoint));
            routers.insert(*address, (router.route(path, route.clone()), first));
        }
    };
    add(health, "/health", get(|| async { "OK" }), HttpEndpoint::Health);
    add(ready, "/ready", get(is_ready), HttpEndpoint::Ready);
    add(metrics, "/metrics", get(metrics_text), HttpEndpoint::Metrics);
    routers
}

/// 200, or 503 with the reason or the plugin that is not ready.
async fn is_ready(State(state): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    let is_synced = state.published.as_ref().is_none_or(|published| published.load().is_synced);
    if state.stopping.load(Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if !is_synced {
        (StatusCode::SERVICE_UNAVAILABLE, "kubernetes")
    } else {
        (StatusCode::OK, "OK")
    }
}

async fn metrics_text(State(state): State<Arc<Shared>>) -> ([(&'static str, &'static str); 1], String) {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], state.metrics.text())
}

/// Binds a listener. The IPv6 wildcard includes IPv4, and falls back to it on a node without IPv6.
fn bind(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    match listen(address, is_shared) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            warn!(%address, %error, "IPv6 not available, serving over IPv4 only");
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into(), is_shared)
        }
        bound => bound,
    }
}

/// Retries until the address can be bound.
async fn bind_later(
    address: SocketAddr,
    is_shared: bool,
    endpoint: HttpEndpoint,
    faults: &Faults,
) -> TcpListener {
    let mut delay = faults::FIRST_RETRY;
    loop {
        sleep(delay).await;
        match bind(address, is_shared) {
            Ok(listener) => {
                faults.remove(endpoint.at(address));
                return listener;
            }
            Err(error) => faults.insert(endpoint.at(address), &endpoint.failed(address, error)),
        }
        delay = faults::next_retry(delay);
    }
}

fn listen(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Sockets of an earlier server may be in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(is_shared)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::snapshot::Index;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[tokio::test]
    async fn health_readiness_and_metrics_are_served() {
        let one = BTreeSet::from(["127.0.0.1:0".parse().unwrap()]);
        let endpoints = HttpEndpoints {
            health: one.clone(),
            ready: one.clone(),
            metrics: one,
            ..HttpEndpoints::default()
        };
        let published = Arc::new(Published::default());
        let faults = Faults::default();
        let health = Health::start(&endpoints, Arc::default(), Some(Arc::clone(&published)), faults.clone());
        let [address] = health.addresses() else { panic!("{:?}", health.addresses()) };
        assert_eq!(get(*address, "/health").await, (200, "OK".to_owned()));
        assert_eq!(get(*address, "/ready").await, (503, "kubernetes".to_owned()));
        published.publish(Index::default().snapshot(1));
        assert_eq!(get(*address, "/ready").await, (200, "OK".to_owned()));
        let (code, text) = get(*address, "/metrics").await;
        assert!(code == 200 && text.contains("coredns_build_info{version="), "{code} {text}");
        health.set_stopping();
        assert_eq!(get(*address, "/ready").await, (503, "stopping".to_owned()));
        assert_eq!(get(*address, "/health").await.0, 200, "a stopping server is healthy");
        let taken = HttpEndpoints { health: BTreeSet::from([*address]), ..HttpEndpoints::default() };
        let _degraded = Health::start(&taken, Arc::default(), None, faults.clone());
        let errors = faults.errors();
        assert!(errors.len() == 1 && errors[0].contains("--dns-health-bind-address"), "{errors:?}");
    }
}
