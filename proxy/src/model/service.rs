//! A Service for the load balancer: its identity, addresses, ports and policies.

use std::{fmt, net::IpAddr, num::NonZeroU32};

use arcstr::ArcStr;
use ipnetwork::IpNetwork;
use jiff::Timestamp;

use super::{
    address::{IpFamily, PerFamily, Protocol},
    small_list::SmallList,
};

/// The namespace of the cluster's own Services.
const SYSTEM_NAMESPACE: &str = "kube-system";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: ArcStr,
    pub name: ArcStr,
}

impl ServiceKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Whether the cluster itself needs the Service: it is written first and has no budget.
    pub fn is_clusters_own(&self, name_server: Option<&Self>) -> bool {
        let is_api_server = *self.namespace == *"default" && *self.name == *"kubernetes";
        *self.namespace == *SYSTEM_NAMESPACE || is_api_server || name_server == Some(self)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A service port: the key of backends, affinity and counters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortKey {
    pub service: ServiceKey,
    pub port_name: ArcStr,
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.port_name {
            "" => write!(f, "{}", self.service),
            name => write!(f, "{}:{name}", self.service),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    pub name: ArcStr,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// internalTrafficPolicy or externalTrafficPolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// Why a Service is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// It has the label `service.kubernetes.io/service-proxy-name`, with any value.
    ForeignProxy,
    ExternalName,
    Headless,
    /// No ClusterIP is assigned yet.
    NoClusterIp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    pub key: ServiceKey,
    pub exclusion: Option<Exclusion>,
    /// Without a selector, endpoints are written by a user or a controller, possibly as an Endpoints object.
    pub has_selector: bool,
    pub cluster_ips: PerFamily<Option<IpAddr>>,
    /// Addresses that this node alone serves as ClusterIPs.
    pub local_ips: SmallList<IpAddr>,
    pub ports: Box<[PortInfo]>,
    pub external_ips: SmallList<IpAddr>,
    pub vips: SmallList<IpAddr>,
    pub source_ranges: PerFamily<SmallList<IpNetwork>>,
    pub internal_policy: TrafficPolicy,
    /// `Cluster` if the type of the Service gives `Local` no meaning.
    pub external_policy: TrafficPolicy,
    pub affinity: Option<NonZeroU32>,
    pub health_check_node_port: Option<u16>,
    /// For commands only, as the labels.
    pub created: Option<Timestamp>,
    pub labels: SmallList<(ArcStr, ArcStr)>,
}

impl ServiceInfo {
    pub fn is_served(&self) -> bool {
        self.exclusion.is_none()
    }

    /// The ClusterIPs of a served Service, and the addresses served like them; empty if the Service is not
    /// served.
    pub fn served_cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        let families = IpFamily::BOTH.into_iter().filter(|_| self.is_served());
        let local = self.local_ips.iter().copied().filter(|_| self.is_served());
        families.filter_map(|family| *self.cluster_ips.get(family)).chain(local)
    }

    pub fn port_key(&self, port: &PortInfo) -> ServicePortKey {
        ServicePortKey { service: self.key.clone(), port_name: port.name.clone(), protocol: port.protocol }
    }

    pub fn port(&self, key: &ServicePortKey) -> Option<&PortInfo> {
        self.ports.iter().find(|port| port.name == key.port_name && port.protocol == key.protocol)
    }

    pub fn vips_of(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        of_family(&self.vips, family)
    }

    /// Whether the port has an address of this family for clients outside the cluster.
    pub fn is_externally_accessible(&self, port: &PortInfo, family: IpFamily) -> bool {
        port.node_port.is_some()
            || self.vips_of(family).next().is_some()
            || of_family(&self.external_ips, family).next().is_some()
    }
}

/// The addresses of one family.
pub fn of_family(addresses: &[IpAddr], family: IpFamily) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(move |address| IpFamily::of(*address) == family)
}
