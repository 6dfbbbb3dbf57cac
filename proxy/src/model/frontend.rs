//! Frontends: the addresses that clients dial, each with the complete set of backends permitted on this node.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
};

use ipnetwork::IpNetwork;

use super::{
    address::{IpFamily, Protocol},
    backend::Backend,
    node::Source,
    service::{ServicePortKey, TrafficPolicy},
};

/// A NodePort is one wildcard frontend per family: the node determines the local addresses that serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendAddress {
    Ip(IpAddr),
    NodePort(IpFamily),
}

impl FrontendAddress {
    pub fn family(self) -> IpFamily {
        match self {
            Self::Ip(ip) => IpFamily::of(ip),
            Self::NodePort(family) => family,
        }
    }
}

impl fmt::Display for FrontendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::NodePort(_) => f.write_str("*"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    pub address: FrontendAddress,
    pub port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, protocol } = self;
        match address {
            FrontendAddress::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{port}/{protocol}"),
            FrontendAddress::Ip(IpAddr::V4(_)) | FrontendAddress::NodePort(_) => {
                write!(f, "{address}:{port}/{protocol}")
            }
        }
    }
}

/// In the order of precedence if one Service claims an address twice: source ranges apply to a load-balancer
/// address even if it is also listed as an external IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
    NodePort,
}

impl FrontendKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIP",
            Self::NodePort => "NodePort",
        }
    }
}

/// The treatment of a client whose view has no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenEmpty {
    /// No endpoint in the cluster is usable: the client gets an error at once.
    Reject,
    /// Endpoints on other nodes are usable, but not from here: a load balancer times out and tries another
    /// node.
    Drop,
}

/// The complete set of backends permitted to one class of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Local backends first, then by address. Views of a frontend that are equal share the allocation.
    pub backends: Arc<[Backend]>,
    /// Number of local backends.
    pub local: usize,
    pub when_empty: WhenEmpty,
}

impl View {
    pub fn new(mut backends: Vec<Backend>, when_empty: WhenEmpty) -> Self {
        backends.sort_by_key(|backend| (!backend.is_local, backend.address));
        let local = backends.iter().filter(|backend| backend.is_local).count();
        Self { backends: backends.into(), local, when_empty }
    }
}

/// The clients whose flows are masqueraded. Hairpin flows always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Masquerade {
    Never,
    Always,
    /// Replies to pods are routed back without SNAT; replies to other clients may not be.
    UnlessFromPod,
    FromNode,
}

impl Masquerade {
    pub fn applies_to(self, source: Source) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::UnlessFromPod => source != Source::Pod,
            Self::FromNode => source == Source::Node,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub key: FrontendKey,
    pub kind: FrontendKind,
    pub service: ServicePortKey,
    /// The traffic policy that governs this kind of frontend.
    pub policy: TrafficPolicy,
    /// For clients in pods and on this node.
    pub internal: View,
    /// For all other clients.
    pub external: View,
    /// The node's own name server, which replaces all backends while it is alive. It is not one of them.
    pub served_here: Option<SocketAddr>,
    /// All serving endpoints, whether or not new flows may get them: established flows keep theirs.
    pub serving: Vec<Backend>,
    pub masquerade: Masquerade,
    pub affinity: Option<NonZeroU32>,
    /// If not empty, flows from other sources are dropped before any other rule applies.
    pub source_ranges: Vec<IpNetwork>,
    /// Sources admitted besides the ranges: the Service's own load-balancer addresses, if the node is in a
    /// range. A process on the node that dials an address bound locally has that address as its source.
    pub extra_sources: Vec<IpAddr>,
}

impl Frontend {
    pub fn view(&self, source: Source) -> &View {
        match source {
            Source::Pod | Source::Node => &self.internal,
            Source::Outside => &self.external,
        }
    }

    /// Whether the data plane refuses flows to this backend: SCTP's checksum (CRC32c) cannot be updated for another port.
    pub fn refuses(&self, backend: &Backend) -> bool {
        self.key.protocol == Protocol::Sctp && backend.address.port() != self.key.port
    }

    /// The ports of the refused backends of a view.
    pub fn refused_ports(&self, view: &View) -> BTreeSet<u16> {
        let refused = view.backends.iter().filter(|backend| self.refuses(backend));
        refused.map(|backend| backend.address.port()).collect()
    }

    pub fn admits(&self, source: IpAddr) -> bool {
        self.source_ranges.is_empty()
            || self.source_ranges.iter().any(|range| range.contains(source))
            || self.extra_sources.contains(&source)
    }
}
