//! The setting of the directive `forward`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hickory_server::proto::{op::ResponseCode, rr::LowerName};

use super::{
    DNS_PORT, HTTPS_PORT, TLS_PORT,
    zones::{Zones, root},
};

#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Names in this zone are forwarded.
    pub from: LowerName,
    pub to: Vec<Upstream>,
    /// Zones that are not forwarded.
    pub except: Zones,
    /// Query over TCP even for clients over UDP.
    pub force_tcp: bool,
    pub policy: Policy,
    /// Consecutive failures after which an upstream is down; 0: never.
    pub max_fails: u32,
    /// The wait for the answer of one upstream.
    pub read_timeout: Duration,
    /// The limit of attempts for one query, without those whose answer leads to the next upstream (`failover`). `None`:
    /// twice the upstreams, six at most. 0: as many as time allows.
    pub max_attempts: Option<u32>,
    /// The address that queries are sent from.
    pub source: Option<IpAddr>,
    /// How long an idle connection is kept open.
    pub expire: Duration,
    /// The age at which a connection is not used again.
    pub max_age: Option<Duration>,
    /// The limit of idle connections per upstream.
    pub max_idle: usize,
    pub doh_method: DohMethod,
    /// The servers that resolve the names of upstreams. Empty: those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    pub tls: Tls,
    /// How a failed upstream is probed.
    pub health_check: HealthCheck,
    /// Limit of in-flight queries; queries above it are refused. `None`: only the server's limit.
    pub max_concurrent: Option<u32>,
    /// With all upstreams down, fail at once instead of querying one at random.
    pub fail_fast: bool,
    /// Response codes after which the next upstream is queried.
    pub failover: Vec<ResponseCode>,
    /// Response codes after which the next rule for the name is tried.
    pub next: Vec<ResponseCode>,
    /// NODATA also leads to the next rule.
    pub next_on_nodata: bool,
}

/// The setting of the directive `alternate`: upstreams for answers with some response codes.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternate {
    /// They get the query without options of rules.
    pub original: bool,
    pub rcodes: Vec<ResponseCode>,
    pub forward: Forward,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// The name servers of a file such as `/etc/resolv.conf`, which is watched.
    ResolvConf(PathBuf),
    Server {
        address: SocketAddr,
        protocol: UpstreamProtocol,
        /// The name that the certificate must have, if not that of the rule.
        server_name: Option<String>,
    },
    /// Each address of a name, which is resolved again and again.
    Host {
        name: LowerName,
        port: u16,
        protocol: UpstreamProtocol,
        /// As of [`Self::Server`]; with neither it is the name.
        server_name: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// UDP, with TCP after a truncated answer.
    Dns,
    Tls,
    /// RFC 8484, at the path `/dns-query`.
    Https,
}

/// The method of queries over HTTPS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DohMethod {
    #[default]
    Post,
    /// Answers may come from caches on the way.
    Get,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Random,
    RoundRobin,
    Sequential,
}

/// Trust anchors and client certificate of DNS over TLS and HTTPS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    pub server_name: Option<String>,
    /// Trusted in place of the system's certificates.
    pub authority: Option<PathBuf>,
    /// Certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub interval: Duration,
    /// The qname of the probe.
    pub domain: LowerName,
    pub recursion_desired: bool,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { interval: Duration::from_millis(500), domain: root(), recursion_desired: true }
    }
}

/// The default limit of idle connections; those of a larger burst are closed.
const MAX_IDLE: usize = 16;

impl Forward {
    /// A rule for all names, as the directive without options.
    pub fn to(to: Vec<Upstream>) -> Self {
        Self {
            from: root(),
            to,
            except: Zones::default(),
            force_tcp: false,
            policy: Policy::default(),
            max_fails: 2,
            read_timeout: Duration::from_secs(2),
            max_attempts: None,
            source: None,
            expire: Duration::from_secs(10),
            max_age: None,
            max_idle: MAX_IDLE,
            doh_method: DohMethod::default(),
            resolvers: Vec::new(),
            tls: Tls::default(),
            health_check: HealthCheck::default(),
            max_concurrent: None,
            fail_fast: false,
            failover: Vec::new(),
            next: Vec::new(),
            next_on_nodata: false,
        }
    }

    pub fn takes(&self, name: &LowerName) -> bool {
        self.from.zone_of(name) && !self.except.contains(name)
    }
}

impl UpstreamProtocol {
    pub fn port(self) -> u16 {
        match self {
            Self::Dns => DNS_PORT,
            Self::Tls => TLS_PORT,
            Self::Https => HTTPS_PORT,
        }
    }
}

impl Upstream {
    pub fn plain(address: SocketAddr) -> Self {
        Self::Server { address, protocol: UpstreamProtocol::Dns, server_name: None }
    }
}
