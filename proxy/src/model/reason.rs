//! The reason of a verdict, as data.
//!
//! The model fills it in, and so can anything that receives a [`DropReason`] from the kernel: `explain`, events
//! and metrics then name the same cause by the same code and in the same words. The words are in `words`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::DropReason;

use super::{
    address::{IpFamily, Protocol},
    node::Source,
    service::{ServiceKey, ServicePortKey},
    unserved::PortNames,
};

mod words;

pub use words::{INFERRED_SOURCE, Origin, describe};

/// Why a flow is translated, refused or forwarded as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Source and destination differ in address family.
    MixedFamilies,
    /// No frontend has this destination, and no Service owns its address.
    NoFrontend { destination: SocketAddr, protocol: Protocol },
    /// The frontend finds no room in the tables of the node, or in its tenant's share of one.
    NotProgrammed { service: ServicePortKey, cause: String },
    /// The destination port is a NodePort, but the destination address serves no NodePorts; these of the node do.
    NodePortNotServed {
        service: ServicePortKey,
        destination: SocketAddr,
        protocol: Protocol,
        served_at: Vec<IpAddr>,
    },
    /// A backend is chosen.
    Translated(Translation),
    /// loadBalancerSourceRanges do not include the client.
    SourceNotInRanges { service: ServiceKey, source: IpAddr, ranges: Vec<IpNetwork> },
    /// The policy is `Local`: endpoints are usable, but none of them on this node.
    NoLocalEndpoint { service: ServicePortKey, policy: PolicyField, elsewhere: usize },
    /// No endpoint of the service port is usable on any node.
    NoEndpoint {
        service: ServicePortKey,
        family: IpFamily,
        total: usize,
        /// Ports of the Service's slices that match no port of the Service. Empty if there are endpoints.
        unmatched: PortNames,
    },
    /// SCTP to endpoints with these ports only.
    SctpPortDiffers { service: ServicePortKey, port: u16, endpoint_ports: BTreeSet<u16> },
    /// The ClusterIP of a Service that does not define the port.
    UndefinedPort {
        service: ServiceKey,
        destination: SocketAddr,
        protocol: Protocol,
        defined: Vec<(u16, Protocol)>,
    },
    /// Inside a ServiceCIDR, but not a ClusterIP.
    UnallocatedAddress { address: IpAddr, network: IpNetwork },
    /// A refusal that the objects do not explain, but the state of the kernel at that instant.
    Datapath { reason: DropReason, service: Option<ServicePortKey> },
}

/// The permitted endpoints of a flow, and the rules that narrowed them down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    pub service: ServicePortKey,
    pub source: Source,
    /// Number of permitted endpoints.
    pub endpoints: usize,
    /// Ports of further endpoints, to which the data plane refuses SCTP.
    pub refused_ports: BTreeSet<u16>,
    /// No endpoint is ready: the permitted ones are terminating and still serving (KEP-1669).
    pub is_terminating: bool,
    /// The node's own name server, which precedes the endpoints while it is alive.
    pub name_server: Option<SocketAddr>,
    pub policy: PolicyEffect,
    pub hint: Option<HintEffect>,
    pub masquerade: Option<MasqueradeCause>,
}

/// The field of a Service's specification that governs a kind of frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyField {
    Internal,
    External,
}

/// The effect of the traffic policy on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyEffect {
    /// `Cluster`: all endpoints.
    Cluster,
    /// `Local`: endpoints of this node only.
    Local(PolicyField),
    /// externalTrafficPolicy is `Local`, which does not apply to clients inside the cluster.
    Exempt,
}

/// The topology hints in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HintEffect {
    SameNode,
    SameZone(String),
}

/// Why a flow is masqueraded, apart from hairpin flows, which always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasqueradeCause {
    /// `--masquerade-all`.
    All,
    /// An external destination with policy `Cluster`: the reply must return through this node.
    ReturnPath,
    /// The client is not a pod.
    NotFromPod,
    /// The client is the node itself.
    FromNode,
}

/// A reason without its data: a stable word for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonCode {
    MixedFamilies,
    NoFrontend,
    NotProgrammed,
    NodePortNotServed,
    Translated,
    /// The kernel's own reason; its name is the label of the counter.
    Refused(DropReason),
}

impl ReasonCode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::MixedFamilies => "mixed_families",
            Self::NoFrontend => "no_frontend",
            Self::NotProgrammed => "not_programmed",
            Self::NodePortNotServed => "node_port_not_served",
            Self::Translated => "translated",
            Self::Refused(reason) => reason.name(),
        }
    }
}

impl Reason {
    pub const fn code(&self) -> ReasonCode {
        match self {
            Self::MixedFamilies => ReasonCode::MixedFamilies,
            Self::NoFrontend { .. } => ReasonCode::NoFrontend,
            Self::NotProgrammed { .. } => ReasonCode::NotProgrammed,
            Self::NodePortNotServed { .. } => ReasonCode::NodePortNotServed,
            Self::Translated(_) => ReasonCode::Translated,
            Self::SourceNotInRanges { .. } => ReasonCode::Refused(DropReason::SourceNotInRanges),
            Self::NoLocalEndpoint { .. } => ReasonCode::Refused(DropReason::PolicyHasNoLocalEndpoint),
            Self::NoEndpoint { .. } => ReasonCode::Refused(DropReason::NoEndpoint),
            Self::SctpPortDiffers { .. } => ReasonCode::Refused(DropReason::SctpPortDiffers),
            Self::UndefinedPort { .. } => ReasonCode::Refused(DropReason::UndefinedPort),
            Self::UnallocatedAddress { .. } => ReasonCode::Refused(DropReason::UnallocatedAddress),
            Self::Datapath { reason, .. } => ReasonCode::Refused(*reason),
        }
    }

    /// The reason that the kernel counts for the same flow. Returns `None` unless the flow is refused.
    pub const fn drop_reason(&self) -> Option<DropReason> {
        match self.code() {
            ReasonCode::Refused(reason) => Some(reason),
            ReasonCode::MixedFamilies
            | ReasonCode::NoFrontend
            | ReasonCode::NotProgrammed
            | ReasonCode::NodePortNotServed
            | ReasonCode::Translated => None,
        }
    }

    /// The reason for a refusal that the kernel reports. `modelled` is the model's reason for the same flow; it
    /// carries more data, and is taken if it agrees. It disagrees if the maps lag behind the objects, or if the
    /// cause is the kernel's state.
    pub fn of_refusal(reason: DropReason, modelled: Self, service: Option<ServicePortKey>) -> Self {
        if is_modelled(reason) && modelled.drop_reason() == Some(reason) {
            modelled
        } else {
            Self::Datapath { reason, service }
        }
    }
}

/// Whether the objects alone explain a refusal, so that the model has a [`Reason`] with data for it.
pub fn is_modelled(reason: DropReason) -> bool {
    describe(reason).0 == Origin::Objects
}
