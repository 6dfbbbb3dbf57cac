//! What a DNS server is told to do: plain values, however they were written down.
//!
//! A [`Config`] comes from a Corefile, or is [`Config::shipped`]: what the Corefile of a stock cluster says. Names in it
//! are lower-case and absolute. Nothing here knows files, sockets or Kubernetes.

mod cache;
mod forward;
mod kubernetes;
mod selector;
mod zones;

use std::net::SocketAddr;

pub use cache::{Cache, Prefetch, ServeStale, Stored, Verify};
pub use forward::{Forward, HealthCheck, Policy, Protocol, Tls, Upstream};
use hickory_server::proto::rr::LowerName;
pub use kubernetes::{ApiServer, Certificates, Kubernetes, PodsMode};
pub use selector::{Labels, Selector, SelectorError};
pub use zones::Zones;
pub(crate) use zones::root;

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

pub const DNS_PORT: u16 = 53;
/// What fits any path without fragments (DNS flag day 2020).
pub const MAX_UDP_PAYLOAD: u16 = 1232;

/// Every address of this machine, of both families.
pub(crate) fn any(port: u16) -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, port).into()
}

impl Listen {
    pub fn plain(zone: LowerName) -> Self {
        Self { zone, port: DNS_PORT }
    }
}
