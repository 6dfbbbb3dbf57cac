//! Who can serve: an endpoint as the slices state it (`Candidate`), and as a frontend uses it (`Backend`).

use std::{
    fmt,
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
    Ready,
    /// Used only while nothing ready can be: it finishes what it has and still answers.
    ServingTerminating,
}

/// One address that a flow may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    pub address: SocketAddr,
    pub is_local: bool,
    pub state: BackendState,
}

/// One endpoint of a slice, whatever its state: whether it may serve depends on its siblings too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub ip: IpAddr,
    pub is_ready: bool,
    pub is_serving: bool,
    pub is_terminating: bool,
    /// It runs on this node.
    pub is_local: bool,
    /// Few clusters have any, and there are as many candidates as pods.
    pub hints: Option<Box<TopologyHints>>,
}

/// For whom an endpoint is meant.
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

    /// Good enough when nothing is ready.
    pub fn is_last_resort(&self) -> bool {
        self.is_serving && self.is_terminating
    }
}

/// Slices and mirrored Endpoints share a namespace of names without meeting: a dump of a cluster holds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SliceSource {
    Slice,
    /// The nth slice that mirroring makes of one Endpoints object.
    Endpoints(u32),
}

/// The identity of a slice, which stays when its label moves it to another Service.
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

/// What an EndpointSlice says about the backends of one Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceInfo {
    pub key: SliceKey,
    pub service: ServiceKey,
    pub family: IpFamily,
    pub ports: Box<[SlicePort]>,
    pub candidates: Box<[Candidate]>,
    /// When what it tells happened, where it says so.
    pub triggered: Option<Timestamp>,
}

/// Slices that come and go together.
pub type Slices = Arc<[Arc<SliceInfo>]>;

impl SliceInfo {
    pub fn has_hints(&self) -> bool {
        self.candidates.iter().any(Candidate::has_hints)
    }
}
