//! One flow before it starts, and the verdict on it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{
    address::Protocol,
    backend::Backend,
    frontend::Frontend,
    node::Source,
    reason::{INFERRED_SOURCE, Reason},
};

/// The first packet of a flow. The source port has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowOutcome {
    /// Translated to one of the permitted backends.
    Dnat,
    /// Refused at once: an ICMP error, or an error from the socket call (kube-proxy's rule G1).
    Reject,
    /// Discarded silently.
    Drop,
    /// Not Service traffic: forwarded as it is.
    None,
}

impl fmt::Display for FlowOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dnat => "dnat",
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::None => "none",
        })
    }
}

/// The plane that decides if all planes are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plane {
    /// The connect or sendmsg hook of the client's cgroup.
    Socket,
    /// Per packet: the decision needs a source address that no socket tells, or the outcome is a silent drop.
    Packet,
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "socket",
            Self::Packet => "packet",
        })
    }
}

/// A backend that the flow may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendChoice {
    pub backend: Backend,
    /// Whether the flow to it is masqueraded: by policy, or because it is a hairpin flow.
    pub masquerade: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowVerdict {
    pub outcome: FlowOutcome,
    pub source: Source,
    /// The class of the source is inferred: pods are detected by interface, which an address does not show.
    pub is_source_inferred: bool,
    pub frontend: Option<Frontend>,
    /// All backends that the flow may get; empty unless it is translated.
    pub choices: Vec<BackendChoice>,
    pub plane: Plane,
    pub reason: Reason,
}

impl FlowVerdict {
    /// The reason in words, with a note if it may be wrong about the source.
    pub fn explanation(&self) -> String {
        let note = if self.is_source_inferred && self.frontend.is_some() { INFERRED_SOURCE } else { "" };
        format!("{}{note}", self.reason)
    }
}
