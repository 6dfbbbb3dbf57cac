//! Where names go that are not answered here.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hickory_server::proto::{op::ResponseCode, rr::LowerName};

use super::zones::{Zones, root};

#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Names below this zone.
    pub from: LowerName,
    pub to: Vec<Upstream>,
    /// Names that are not forwarded after all.
    pub except: Zones,
    /// Ask over TCP even who came over UDP.
    pub force_tcp: bool,
    pub policy: Policy,
    /// Failures in a row until an upstream counts as down; 0 never does.
    pub max_fails: u32,
    /// How long a connection is kept for the next question.
    pub expire: Duration,
    pub tls: Tls,
    /// How often a failed upstream is probed.
    pub health_check: HealthCheck,
    /// Questions in flight; more are refused. None: no limit but that of the server.
    pub max_concurrent: Option<u32>,
    /// With every upstream down, fail at once instead of trying one all the same.
    pub fail_fast: bool,
    /// Response codes after which the next upstream is asked.
    pub failover: Vec<ResponseCode>,
    /// Response codes after which the next rule for the name is followed.
    pub next: Vec<ResponseCode>,
    /// An empty answer leads to the next rule, too.
    pub next_on_nodata: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// The name servers of a file like `/etc/resolv.conf`, followed as it changes.
    ResolvConf(PathBuf),
    Server {
        address: SocketAddr,
        protocol: Protocol,
        /// The name that the certificate must carry, when it is not that of the rule.
        server_name: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// UDP, and TCP where that is needed.
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

/// How a DNS-over-TLS upstream is trusted, and what is shown to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    pub server_name: Option<String>,
    /// Trusted instead of what the system trusts.
    pub authority: Option<PathBuf>,
    /// Certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub interval: Duration,
    /// The name that is asked for.
    pub domain: LowerName,
    pub recursion_desired: bool,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { interval: Duration::from_millis(500), domain: root(), recursion_desired: true }
    }
}

impl Forward {
    /// Everything to these upstreams, as the directive does without options.
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
        Self::Server { address, protocol: Protocol::Dns, server_name: None }
    }
}
