//! What a client dials, and the complete answer to "who may serve it from here".

use std::{
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
    policy::TrafficPolicy,
    service::ServicePortKey,
};

/// A NodePort is one wildcard frontend per family: which local addresses serve it is a property of the node.
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

/// In the order of precedence when one Service claims an address twice: source ranges guard a load-balancer address
/// also when it is listed as an external one.
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

/// What a client learns when a view has no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenEmpty {
    /// Nobody in the cluster can serve: say so at once.
    Reject,
    /// Somebody can, but not from here: silence lets a load balancer try elsewhere.
    Drop,
}

/// The complete set of backends permitted to one class of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Local ones first, then by address. Both views of a frontend are often one, and then share them.
    pub backends: Arc<[Backend]>,
    /// How many of them are local.
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

/// Whose flows get the node's address as their source. Hairpin flows do in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Masquerade {
    Never,
    Always,
    /// A pod's network finds its way back by itself, anybody else's may not.
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
    /// For pods and for this node itself.
    pub internal: View,
    /// For everybody else.
    pub external: View,
    /// This node's own name server, which answers in the place of all backends while it lives. It is none of them.
    pub served_here: Option<SocketAddr>,
    /// Every serving endpoint, offered or not: flows that have one may keep it.
    pub serving: Vec<Backend>,
    pub masquerade: Masquerade,
    pub affinity: Option<NonZeroU32>,
    /// Not empty: sources outside of these networks are dropped before anything else is looked at.
    pub source_ranges: Vec<IpNetwork>,
    /// Sources that pass although no range lists them: the Service's own load-balancer addresses, where the node is
    /// allowed in. A process on the node that dials an address bound locally has that address as its source.
    pub extra_sources: Vec<IpAddr>,
}

impl Frontend {
    pub fn view(&self, source: Source) -> &View {
        match source {
            Source::Pod | Source::Node => &self.internal,
            Source::Outside => &self.external,
        }
    }

    pub fn admits(&self, source: IpAddr) -> bool {
        self.source_ranges.is_empty()
            || self.source_ranges.iter().any(|range| range.contains(source))
            || self.extra_sources.contains(&source)
    }
}
