//! The DNS view of Kubernetes objects: narrow values, converted once from Kubernetes' types.
//!
//! Strings that are compared with queries are lower-case. Data that can never be answered (endpoints that are
//! not ready, unnamed ports, slices of type FQDN) is dropped. The watcher of the cluster converts each object
//! to a [`Change`] and applies it to [`crate::cluster::snapshot::Index`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::SystemTime,
};

use arcstr::ArcStr;

use crate::cluster::name::Name;

mod label;
mod read;

pub use label::{Dashed, Label, dashed, parse_dashed};
pub use read::{ReadOptions, StatedPort, import, is_unresolvable_alias, pod, service, slice};

/// Namespace and name of a Service, lower-case, in the order of a query: `web.shop`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey(Arc<str>);

impl ServiceKey {
    /// Returns `None` if no query could contain the name.
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let both = [name, namespace];
        both.iter().all(|label| is_label(label)).then(|| Self(both.join(".").to_ascii_lowercase().into()))
    }

    /// Compares without a search for the dot: neither part contains one.
    pub fn is(&self, namespace: &[u8], name: &[u8]) -> bool {
        let both = self.0.as_bytes();
        both.len() == name.len() + 1 + namespace.len()
            && both.starts_with(name)
            && both.ends_with(namespace)
            && both[name.len()] == b'.'
    }

    pub fn name(&self) -> &str {
        self.0.split_once('.').map_or(&*self.0, |(name, _)| name)
    }

    pub fn namespace(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, namespace)| namespace)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty() && text.len() <= 63 && !text.contains('.')
}

/// Namespace and name of an object, shared with the watcher.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub namespace: ArcStr,
    pub name: ArcStr,
}

/// The change of an object. `None`: it was deleted, or has no part in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Service(ServiceKey, Option<Arc<Service>>),
    /// A ServiceImport: a Service of several clusters.
    Import(ServiceKey, Option<Arc<Service>>),
    /// Of a Service of this cluster, or of an imported one.
    Slice(ObjectName, Option<Arc<Slice>>),
    /// The slices that the control plane mirrors from an Endpoints object, if its Service has no selector.
    Endpoints(ServiceKey, Option<Arc<[Arc<Slice>]>>),
    Namespace(ArcStr, bool),
    Pod(ObjectName, Option<Arc<Pod>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub kind: ServiceKind,
    /// With a selector, an Endpoints object of the same name is not mirrored.
    pub has_selector: bool,
    /// What clients outside the cluster reach, if it is kept and there is any.
    pub external: Option<Box<External>>,
}

/// The addresses and names of a Service outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// External IPs, and the load balancer's addresses, without duplicates.
    pub addresses: Box<[IpAddr]>,
    /// Names of load balancers.
    pub names: Box<[Name]>,
    /// All ports; unnamed ones have an empty name.
    pub ports: Box<[Port]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    ClusterIp {
        addresses: Box<[IpAddr]>,
        ports: Box<[Port]>,
    },
    Headless,
    ExternalName(Name),
    /// No cluster IP yet, or an ExternalName with an invalid target.
    Nothing,
}

/// A named port; unnamed ports have no SRV record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    pub name: Box<str>,
    pub protocol: Protocol,
    pub number: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The label without its underscore.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The ready endpoints of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub id: ObjectName,
    pub service: ServiceKey,
    pub ports: Box<[Port]>,
    pub v4: Endpoints<Ipv4Addr>,
    pub v6: Endpoints<Ipv6Addr>,
    /// The cluster of the endpoints of an imported Service, lower-case. `None`: a Service of this cluster.
    pub cluster: Option<Box<str>>,
    /// The same endpoints as those of an imported Service, if this one stands for it.
    pub imported: Option<Arc<Slice>>,
    /// Topology zone, whose value may contain dots, and address, sorted; empty unless the option `zonal` is set.
    pub zones: Box<[(Name, IpAddr)]>,
    /// The time of the change that caused this version of the slice, if annotated.
    pub triggered: Option<SystemTime>,
    /// The pods of this node, ready or not. A pointer, as most slices have none.
    pub local_pods: Option<Arc<LocalPods>>,
}

impl Slice {
    /// Whether the endpoints are of this cluster among those of an imported Service.
    pub fn is_of(&self, cluster: &[u8]) -> bool {
        self.cluster.as_ref().is_some_and(|own| own.as_bytes() == cluster)
    }
}

/// Addresses and names of pods of this node, for query statistics; answers do not use them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPods(pub Box<[(IpAddr, ObjectName)]>);

/// Endpoints of one family, sorted, without duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints<A> {
    /// Endpoints whose label is their dashed address.
    pub unnamed: Box<[A]>,
    /// Endpoints whose label is their hostname or their pod's name.
    pub named: Box<[(Box<str>, A)]>,
}

impl<A: Copy + Ord> Endpoints<A> {
    pub fn is_empty(&self) -> bool {
        self.unnamed.is_empty() && self.named.is_empty()
    }

    pub fn len(&self) -> usize {
        self.unnamed.len() + self.named.len()
    }

    pub fn addresses(&self) -> impl Iterator<Item = A> {
        self.unnamed.iter().copied().chain(self.named.iter().map(|(_, address)| *address))
    }

    /// The addresses of all endpoints with this label.
    pub fn named(&self, name: &[u8]) -> impl Iterator<Item = A> {
        let from = self.named.partition_point(|(named, _)| named.as_bytes() < name);
        let found = self.named.iter().skip(from).take_while(move |(named, _)| named.as_bytes() == name);
        found.map(|(_, address)| *address)
    }

    pub fn has_unnamed(&self, address: A) -> bool {
        self.unnamed.binary_search(&address).is_ok()
    }
}

/// A pod, for the mode `pods verified`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: Box<str>,
    pub addresses: Box<[IpAddr]>,
}
