//! What the objects of a cluster mean to DNS: narrow values, read once from Kubernetes' types.
//!
//! Everything that is compared with a query is lower-case here; what can never be answered (endpoints that are not
//! ready, unnamed ports, slices of foreign families) is left out. Whoever watches the cluster turns each object into a
//! [`Change`] and hands it to [`crate::cluster::snapshot::Index`].

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
pub use read::{ReadOptions, is_unresolvable_alias, pod, service, slice};

/// Namespace and name of a Service, lower-case, written as in a query: `web.shop`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey(Arc<str>);

impl ServiceKey {
    /// `None`: no query could name it.
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let both = [name, namespace];
        both.iter().all(|label| is_label(label)).then(|| Self(both.join(".").to_ascii_lowercase().into()))
    }

    /// Compares without looking for the dot: neither has one.
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

/// What an object is called where it was found; shared with whoever watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub namespace: ArcStr,
    pub name: ArcStr,
}

/// What a changed object means. `None`: it is gone, or has no part in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Service(ServiceKey, Option<Arc<Service>>),
    Slice(ObjectName, Option<Arc<Slice>>),
    /// The slices that the control plane would make of an Endpoints object, if its Service selects no pods.
    Endpoints(ServiceKey, Option<Arc<[Arc<Slice>]>>),
    Namespace(ArcStr, bool),
    Pod(ObjectName, Option<Arc<Pod>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub kind: ServiceKind,
    /// Its endpoints are pods, so an Endpoints object of its name is not mirrored.
    pub has_selector: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    ClusterIp {
        addresses: Box<[IpAddr]>,
        ports: Box<[Port]>,
    },
    Headless,
    ExternalName(Name),
    /// No address yet, or an external name that is an address or no name at all.
    Nothing,
}

/// A named port; unnamed ones have no name in DNS either.
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
    /// As it stands in a name, behind its underscore.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The ready endpoints of one EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub id: ObjectName,
    pub service: ServiceKey,
    pub ports: Box<[Port]>,
    pub v4: Endpoints<Ipv4Addr>,
    pub v6: Endpoints<Ipv6Addr>,
    /// Which topology zone has which address, sorted; empty unless that is asked about.
    pub zones: Box<[(Box<str>, IpAddr)]>,
    /// When what it tells of happened, if it says so.
    pub triggered: Option<SystemTime>,
    /// Ready or not; a pointer, as most slices have none of them.
    pub local_pods: Option<Arc<LocalPods>>,
}

/// Which pods of this node have which addresses, for who wants to know who asks; nothing is answered from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPods(pub Box<[(IpAddr, ObjectName)]>);

/// Sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints<A> {
    /// Called after their address.
    pub unnamed: Box<[A]>,
    /// Called after their hostname, or their pod.
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

    /// The addresses of all endpoints with this name.
    pub fn named(&self, name: &[u8]) -> impl Iterator<Item = A> {
        let from = self.named.partition_point(|(named, _)| named.as_bytes() < name);
        let found = self.named.iter().skip(from).take_while(move |(named, _)| named.as_bytes() == name);
        found.map(|(_, address)| *address)
    }

    pub fn has_unnamed(&self, address: A) -> bool {
        self.unnamed.binary_search(&address).is_ok()
    }
}

/// A pod that may be answered for in the mode `verified`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: Box<str>,
    pub addresses: Box<[IpAddr]>,
}
