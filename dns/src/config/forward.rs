//! The setting of the directive `forward`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hickory_server::proto::{op::ResponseCode, rr::LowerName};

use super::zones::{Zones, root};

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
    /// How long an idle connection is kept open.
    pub expire: Duration,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// UDP, with TCP after a truncated answer.
    Dns,
    Tls,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Random,
    RoundRobin,
    Sequential,
}

/// Trust anchors and client certificate of DNS over TLS.
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
            expire: Duration::from_secs(10),
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

impl Upstream {
    pub fn plain(address: SocketAddr) -> Self {
        Self::Server { address, protocol: UpstreamProtocol::Dns, server_name: None }
    }
}
