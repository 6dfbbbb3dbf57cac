//! What a DNS server is told to do: plain values, however they were written down.
//!
//! A [`Config`] comes from a Corefile, or is [`Config::shipped`]: what the Corefile of a stock cluster says. Names in it
//! are lower-case and absolute. Nothing here knows files, sockets or Kubernetes.

mod cache;
mod forward;
mod hosts;
mod kubernetes;
mod log;
mod rewrite;
mod selector;
mod template;
pub(crate) mod zones;

use std::{net::SocketAddr, time::Duration};

pub use cache::{Cache, Prefetch, ServeStale, Stored, Verify};
pub use forward::{Forward, HealthCheck, Policy, Protocol, Tls, Upstream};
use hickory_server::proto::rr::LowerName;
pub use hosts::Hosts;
pub use kubernetes::{ApiServer, Certificates, Kubernetes, PodsMode};
pub use log::{Class, Log};
pub use rewrite::{AnswerName, Matches, Rewrite};
pub use selector::{Labels, Selector, SelectorError};
pub use template::Template;
pub use zones::Zones;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub servers: Vec<ServerBlock>,
}

impl Config {
    /// What is answered from the objects of the cluster, block by block.
    pub fn kubernetes(&self) -> impl Iterator<Item = &Kubernetes> {
        self.servers.iter().filter_map(|block| block.kubernetes.as_ref())
    }
}

/// One block of a Corefile: what is done with the names of its zones. Of all blocks that listen at an address, the one
/// with the longest zone answers.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerBlock {
    pub listens: Vec<Listen>,
    /// Addresses to listen at; empty means all of them.
    pub bind: Vec<BindAddress>,
    pub kubernetes: Option<Kubernetes>,
    pub hosts: Option<Hosts>,
    pub rewrites: Vec<Rewrite>,
    pub templates: Vec<Template>,
    pub forwards: Vec<Forward>,
    pub cache: Option<Cache>,
    /// Which answers are logged.
    pub logs: Vec<Log>,
    pub health: Option<Health>,
    /// Where readiness is told.
    pub ready: Option<SocketAddr>,
    /// Where metrics are told.
    pub metrics: Option<SocketAddr>,
    /// Find out whether an upstream leads back here.
    pub detect_loops: bool,
    pub reload: Option<Reload>,
    /// Shuffle address records.
    pub shuffle: bool,
    /// The largest UDP answer that is sent, whatever the client can take.
    pub max_udp_payload: u16,
    /// `localhost` and its like are answered here.
    pub local: bool,
    /// ANY is answered with a HINFO (RFC 8482).
    pub minimal_any: bool,
    /// Answers carry nothing but what was asked for.
    pub minimal: bool,
}

/// A key of a server block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listen {
    pub zone: LowerName,
    /// Over UDP and TCP.
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindAddress {
    Address(std::net::IpAddr),
    Interface(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub address: SocketAddr,
    /// How long to serve on after the end was announced.
    pub lameduck: Duration,
}

/// Look at the Corefile this often, give or take the jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    pub interval: Duration,
    pub jitter: Duration,
}

pub const DNS_PORT: u16 = 53;
/// What fits any path without fragments (DNS flag day 2020).
pub const MAX_UDP_PAYLOAD: u16 = 1232;

impl Config {
    /// What the Corefile of a stock cluster says.
    pub fn shipped(cluster_domain: &LowerName) -> Self {
        let block = ServerBlock {
            kubernetes: Some(Kubernetes::shipped(cluster_domain)),
            forwards: vec![Forward {
                max_concurrent: Some(1000),
                ..Forward::to(vec![Upstream::ResolvConf("/etc/resolv.conf".into())])
            }],
            cache: Some(Cache::capped_at(Duration::from_secs(30))),
            health: Some(Health { address: any(8080), lameduck: Duration::from_secs(5) }),
            ready: Some(any(8181)),
            metrics: Some(any(9153)),
            detect_loops: true,
            reload: Some(Reload::default()),
            shuffle: true,
            ..ServerBlock::new(vec![Listen::plain(zones::root())])
        };
        Self { servers: vec![block] }
    }
}

/// Every address of this machine, of both families.
pub(crate) fn any(port: u16) -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, port).into()
}

impl ServerBlock {
    /// What the directives are called that make the block, as CoreDNS calls them.
    pub fn directives(&self) -> Vec<&'static str> {
        let present = [
            ("any", self.minimal_any),
            ("cache", self.cache.is_some()),
            ("forward", !self.forwards.is_empty()),
            ("health", self.health.is_some()),
            ("hosts", self.hosts.is_some()),
            ("kubernetes", self.kubernetes.is_some()),
            ("loadbalance", self.shuffle),
            ("local", self.local),
            ("log", !self.logs.is_empty()),
            ("loop", self.detect_loops),
            ("minimal", self.minimal),
            ("prometheus", self.metrics.is_some()),
            ("ready", self.ready.is_some()),
            ("reload", self.reload.is_some()),
            ("rewrite", !self.rewrites.is_empty()),
            ("template", !self.templates.is_empty()),
        ];
        present.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
    }

    /// A block that does nothing yet.
    pub fn new(listens: Vec<Listen>) -> Self {
        Self {
            listens,
            bind: Vec::new(),
            kubernetes: None,
            hosts: None,
            rewrites: Vec::new(),
            templates: Vec::new(),
            forwards: Vec::new(),
            cache: None,
            logs: Vec::new(),
            health: None,
            ready: None,
            metrics: None,
            detect_loops: false,
            reload: None,
            shuffle: false,
            max_udp_payload: MAX_UDP_PAYLOAD,
            local: true,
            minimal_any: false,
            minimal: false,
        }
    }
}

impl Listen {
    pub fn plain(zone: LowerName) -> Self {
        Self { zone, port: DNS_PORT }
    }
}

impl Default for Reload {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), jitter: Duration::from_secs(15) }
    }
}
