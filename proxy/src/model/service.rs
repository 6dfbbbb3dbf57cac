//! A Service as the load balancer sees it: its identity, its addresses, its ports and its policies.

use std::{fmt, net::IpAddr, num::NonZeroU32};

use arcstr::ArcStr;
use ipnetwork::IpNetwork;

use super::{
    address::{IpFamily, PerFamily, Protocol},
    frontend::{FrontendAddress, FrontendKey, FrontendKind},
    policy::TrafficPolicy,
    rare::Rare,
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: ArcStr,
    pub name: ArcStr,
}

impl ServiceKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What everything is keyed on: backends, affinity, counters.
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

/// Why a Service is none of the load balancer's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// It carries the `service-proxy-name` label, whatever its value.
    ForeignProxy,
    ExternalName,
    Headless,
    /// Nobody has assigned a ClusterIP yet.
    NoClusterIp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    pub key: ServiceKey,
    pub exclusion: Option<Exclusion>,
    /// A Service without one gets its backends from whoever writes them, Endpoints objects included.
    pub has_selector: bool,
    pub cluster_ips: PerFamily<Option<IpAddr>>,
    /// Addresses that this node serves as if they were ClusterIPs.
    pub local_ips: Rare<IpAddr>,
    pub ports: Box<[PortInfo]>,
    pub external_ips: Rare<IpAddr>,
    pub vips: Rare<IpAddr>,
    pub source_ranges: PerFamily<Rare<IpNetwork>>,
    pub internal_policy: TrafficPolicy,
    /// Already `Cluster` where the type of the Service makes `Local` meaningless.
    pub external_policy: TrafficPolicy,
    pub affinity: Option<NonZeroU32>,
    pub health_check_node_port: Option<u16>,
}

impl ServiceInfo {
    pub fn is_served(&self) -> bool {
        self.exclusion.is_none()
    }

    /// Where clients inside of the cluster find it; nowhere if it is none of ours.
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

    /// Whether clients from outside the cluster have an address to dial, in this family.
    pub fn is_externally_accessible(&self, port: &PortInfo, family: IpFamily) -> bool {
        port.node_port.is_some()
            || self.vips_of(family).next().is_some()
            || of_family(&self.external_ips, family).next().is_some()
    }

    /// Every address under which clients may dial this Service, each with the port it belongs to.
    pub fn frontends(&self) -> Vec<(FrontendKey, FrontendKind, &PortInfo)> {
        let mut frontends = Vec::with_capacity(self.ports.len());
        for family in IpFamily::BOTH {
            let Some(cluster_ip) = self.cluster_ips.get(family) else { continue };
            for port in &self.ports {
                self.addresses(*cluster_ip, port, family, |address, number, kind| {
                    frontends.push((
                        FrontendKey { address, port: number, protocol: port.protocol },
                        kind,
                        port,
                    ));
                });
            }
        }
        frontends
    }

    fn addresses(
        &self,
        cluster_ip: IpAddr,
        port: &PortInfo,
        family: IpFamily,
        mut add: impl FnMut(FrontendAddress, u16, FrontendKind),
    ) {
        add(FrontendAddress::Ip(cluster_ip), port.port, FrontendKind::ClusterIp);
        for ip in of_family(&self.local_ips, family) {
            add(FrontendAddress::Ip(ip), port.port, FrontendKind::ClusterIp);
        }
        for vip in self.vips_of(family) {
            add(FrontendAddress::Ip(vip), port.port, FrontendKind::LoadBalancer);
        }
        for ip in of_family(&self.external_ips, family) {
            add(FrontendAddress::Ip(ip), port.port, FrontendKind::ExternalIp);
        }
        if let Some(node_port) = port.node_port {
            add(FrontendAddress::NodePort(family), node_port, FrontendKind::NodePort);
        }
    }
}

fn of_family(addresses: &[IpAddr], family: IpFamily) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(move |address| IpFamily::of(*address) == family)
}
