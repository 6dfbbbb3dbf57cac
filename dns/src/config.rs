//! Plain values of the configuration: zones, selectors, listening addresses, and the settings of the directives
//! whose behaviour lies in other rooms (`kubernetes`, `forward`, `cache`).
//!
//! Names are lower-case and absolute. Nothing here does I/O; this room imports no other.

mod cache;
mod forward;
mod kubernetes;
mod selector;
mod zones;

use std::net::SocketAddr;

pub use cache::{Cache, Doubt, LastKnownGood, Prefetch, ServeStale, Stored, Verify};
pub use forward::{Alternate, DohMethod, Forward, HealthCheck, Policy, Tls, Upstream, UpstreamProtocol};
use hickory_server::proto::rr::LowerName;
pub use kubernetes::{ApiServer, Certificates, Kubernetes, PodsMode};
pub use selector::{Labels, Selector, SelectorError};
pub use zones::Zones;
pub(crate) use zones::root;

/// A key of a server block: a zone, its protocol and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listen {
    pub zone: LowerName,
    pub protocol: ServerProtocol,
    pub port: u16,
}

named_enum! {
    /// The scheme of a key.
    pub enum ServerProtocol {
        /// UDP and TCP.
        Dns = "dns",
        /// RFC 7858.
        Tls = "tls",
        /// RFC 8484.
        Https = "https",
    }
}

impl ServerProtocol {
    pub fn port(self) -> u16 {
        match self {
            Self::Dns => DNS_PORT,
            Self::Tls => TLS_PORT,
            Self::Https => HTTPS_PORT,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindAddress {
    Address(std::net::IpAddr),
    Interface(String),
}

pub const DNS_PORT: u16 = 53;
/// RFC 7858.
pub const TLS_PORT: u16 = 853;
/// RFC 8484.
pub const HTTPS_PORT: u16 = 443;
/// The largest UDP payload that needs no fragments on common paths (DNS flag day 2020).
pub const MAX_UDP_PAYLOAD: u16 = 1232;

/// The unspecified address of IPv6, which also accepts IPv4.
pub(crate) fn any(port: u16) -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, port).into()
}

impl Listen {
    pub fn plain(zone: LowerName) -> Self {
        Self { zone, protocol: ServerProtocol::Dns, port: DNS_PORT }
    }
}
