//! Endpoints: as slices define them (`Candidate`), and as a frontend uses them (`Backend`).

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arcstr::ArcStr;
use jiff::Timestamp;

use super::{
    address::{IpFamily, Protocol},
    service::ServiceKey,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendState {
    /// Ready; in `Frontend::serving` also serving and not ready, which only established flows may use.
    Ready,
    /// Used only if no ready endpoint can be: it is shutting down but still serves (KEP-1669).
    ServingTerminating,
}

/// An address and port that a flow may be translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    pub address: SocketAddr,
    pub is_local: bool,
    pub state: BackendState,
}

/// An endpoint of a slice, in any state. Whether it is used depends on the other endpoints of the service port
/// too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub ip: IpAddr,
    pub is_ready: bool,
    pub is_serving: bool,
    pub is_terminating: bool,
    /// On this node.
    pub is_local: bool,
    pub identity: PodIdentity,
    /// For commands only, as node and zone. The name of the pod if it is on this node; those of other nodes would double
    /// the memory of endpoints.
    pub pod: Option<ArcStr>,
    pub node: Option<ArcStr>,
    pub zone: Option<ArcStr>,
    /// Boxed: few clusters use hints, and there are as many candidates as pods.
    pub hints: Option<Box<TopologyHints>>,
}

/// Tells the pods apart that have an address one after the other: a hash of the UID in `targetRef`, as UIDs would double the memory of
/// endpoints. Two pods have the same one by chance once in 16 million. All zero: the endpoint names no object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodIdentity([u8; 3]);

impl PodIdentity {
    /// That of the object with this UID, or name if it has none.
    pub fn of(uid_or_name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        uid_or_name.hash(&mut hasher);
        let [a, b, c, ..] = hasher.finish().to_ne_bytes();
        Self([a, b, c])
    }
}

/// The zones and nodes whose clients should use an endpoint (KEP-2433, KEP-3015).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopologyHints {
    pub zones: Box<[ArcStr]>,
    pub nodes: Box<[ArcStr]>,
}

impl Candidate {
    pub fn has_hints(&self) -> bool {
        !self.zone_hints().is_empty() || !self.node_hints().is_empty()
    }

    pub fn zone_hints(&self) -> &[ArcStr] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    pub fn node_hints(&self) -> &[ArcStr] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }

    /// Whether it may be used if no endpoint is ready (KEP-1669).
    pub fn is_serving_terminating(&self) -> bool {
        self.is_serving && self.is_terminating
    }
}

/// The origin of a slice. Slices and mirrored Endpoints may have the same name: manifests made from a dump of a
/// cluster contain both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SliceSource {
    Slice,
    /// The nth slice mirrored from one Endpoints object.
    Endpoints(u32),
}

/// The identity of a slice. It does not change when a label assigns the slice to another Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    pub namespace: ArcStr,
    pub name: ArcStr,
    pub source: SliceSource,
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    pub name: ArcStr,
    pub protocol: Protocol,
    pub port: u16,
}

/// The content of an EndpointSlice: endpoints of one Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceInfo {
    pub key: SliceKey,
    pub service: ServiceKey,
    pub family: IpFamily,
    pub ports: Box<[SlicePort]>,
    pub candidates: Box<[Candidate]>,
    /// Time of the change that led to this version (`endpoints.kubernetes.io/last-change-trigger-time`).
    pub triggered: Option<Timestamp>,
}

impl SliceInfo {
    /// Sorts the ports by name and protocol, for `ports_of`. The order of ports with the same name stays.
    pub fn with_sorted_ports(mut this: Arc<Self>) -> Arc<Self> {
        if !this.ports.is_sorted_by_key(SlicePort::sort_key) {
            Arc::make_mut(&mut this).ports.sort_by(|one, other| one.sort_key().cmp(&other.sort_key()));
        }
        this
    }

    /// The ports with this name and protocol. The ports must be sorted.
    pub fn ports_of(&self, name: &str, protocol: Protocol) -> &[SlicePort] {
        let start = self.ports.partition_point(|port| port.sort_key() < (name, protocol));
        let rest = self.ports.get(start..).unwrap_or_default();
        let count = rest.partition_point(|port| port.sort_key() == (name, protocol));
        rest.get(..count).unwrap_or_default()
    }
}

impl SlicePort {
    fn sort_key(&self) -> (&str, Protocol) {
        (&self.name, self.protocol)
    }
}

/// Slices that are replaced as a whole.
pub type Slices = Arc<[Arc<SliceInfo>]>;

impl SliceInfo {
    pub fn has_hints(&self) -> bool {
        self.candidates.iter().any(Candidate::has_hints)
    }
}
