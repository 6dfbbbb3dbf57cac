//! One flow, asked about before it starts: its first packet, and what becomes of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{address::Protocol, backend::Backend, frontend::Frontend, node::Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Translated to one of the permitted backends.
    Dnat,
    /// Refused at once.
    Reject,
    /// Left without an answer.
    Drop,
    /// Not Service traffic: forwarded as it is.
    None,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dnat => "dnat",
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::None => "none",
        })
    }
}

/// Where the decision is made when every plane is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plane {
    /// In the connect or sendmsg hook of the client's cgroup.
    Socket,
    /// Per packet: the decision needs a source address, or silence.
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

/// A backend that the flow may get, and whether it would then carry the node's address as its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub backend: Backend,
    pub masquerade: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub source: Source,
    pub frontend: Option<Frontend>,
    /// Everything the flow could reach: empty unless it is translated.
    pub choices: Vec<Choice>,
    pub plane: Plane,
    /// In words for an operator.
    pub reason: String,
}
