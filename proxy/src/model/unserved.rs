//! Parts of Services that clients cannot use although the objects are valid, in words for their owner.

use std::{collections::BTreeSet, fmt};

use arcstr::ArcStr;

use super::{
    address::{IpFamily, Protocol},
    frontend::{FrontendKey, FrontendKind},
    service::ServicePortKey,
};

/// Why a frontend or a port of a Service has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// Another service port owns the address and port.
    LostClaim { frontend: FrontendKey, kind: FrontendKind, owner: ServicePortKey },
    /// The Service's EndpointSlices have endpoints, but none of their ports has the name of this one.
    PortNames { port: ServicePortKey, family: IpFamily, theirs: PortNames },
    /// The port of a Service's health checks is the NodePort of a service port, which gets its packets.
    HealthCheckPort { port: u16, family: IpFamily, owner: ServicePortKey },
    /// SCTP to endpoints with another port number.
    SctpPorts { frontend: FrontendKey, kind: FrontendKind, endpoint_ports: BTreeSet<u16> },
}

impl Unserved {
    /// The metric label.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LostClaim { .. } => "lost_claim",
            Self::PortNames { .. } => "port_names",
            Self::HealthCheckPort { .. } => "health_check_port",
            Self::SctpPorts { .. } => "sctp_ports",
        }
    }
}

/// Names and protocols of ports. Only the first are kept: each port of a Service without endpoints names those of its slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortNames {
    first: BTreeSet<(ArcStr, Protocol)>,
    more: usize,
}

/// Limit of names and port numbers in a sentence.
const NAMED: usize = 8;

impl PortNames {
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

impl FromIterator<(ArcStr, Protocol)> for PortNames {
    fn from_iter<I: IntoIterator<Item = (ArcStr, Protocol)>>(names: I) -> Self {
        let all: BTreeSet<_> = names.into_iter().collect();
        let more = all.len().saturating_sub(NAMED);
        Self { first: all.into_iter().take(NAMED).collect(), more }
    }
}

impl<const N: usize> From<[(ArcStr, Protocol); N]> for PortNames {
    fn from(names: [(ArcStr, Protocol); N]) -> Self {
        names.into_iter().collect()
    }
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LostClaim { frontend, kind, owner } => write!(
                f,
                "{} {frontend} is served for {owner}, which precedes it: ClusterIPs precede other addresses, then the \
                 lowest name counts",
                kind.name()
            ),
            Self::PortNames { port, family, theirs } => {
                write!(f, "{} has no {family} endpoints: {}", label(port), mismatch(theirs))
            }
            Self::HealthCheckPort { port, family, owner } => write!(
                f,
                "{family} health checks at port {port} do not arrive: it is the NodePort of {owner}"
            ),
            Self::SctpPorts { frontend, kind, endpoint_ports } => write!(
                f,
                "{} {frontend} is refused for endpoints with port {}: {SCTP_PORTS}",
                kind.name(),
                list(endpoint_ports)
            ),
        }
    }
}

/// Why SCTP keeps its port.
pub const SCTP_PORTS: &str = "SCTP's checksum allows no translation of ports";

/// The name and protocol of a service port, without its Service.
pub fn label(port: &ServicePortKey) -> String {
    named(&port.port_name, port.protocol)
}

/// The difference between the name of a service port and those of the slices' ports.
pub fn mismatch(theirs: &PortNames) -> String {
    let names = theirs.first.iter().map(|(name, protocol)| named(name, *protocol));
    format!("the EndpointSlices of the Service have endpoints for {} instead", joined(names, theirs.more))
}

fn joined(first: impl Iterator<Item = String>, more: usize) -> String {
    let first: Vec<_> = first.collect();
    let first = first.join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

fn named(name: &str, protocol: Protocol) -> String {
    if name.is_empty() {
        format!("the unnamed port ({protocol})")
    } else {
        format!("port `{name}` ({protocol})")
    }
}

pub fn list(ports: &BTreeSet<u16>) -> String {
    let more = ports.len().saturating_sub(NAMED);
    joined(ports.iter().take(NAMED).map(u16::to_string), more)
}
