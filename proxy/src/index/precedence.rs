//! The order in which Services are written: where tables fill up, the last ones find no room.

use crate::model::service::{ServiceInfo, ServiceKey};

/// The place of a Service in a pass: first those that the cluster itself needs, then the others by size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    is_tenants: bool,
    /// About the entries that the Service takes.
    size: usize,
    service: ServiceKey,
}

impl Precedence {
    pub fn new(service: &ServiceInfo, endpoints: usize, name_server: Option<&ServiceKey>) -> Self {
        let ServiceInfo { key, cluster_ips, local_ips, external_ips, vips, ports, .. } = service;
        let cluster_ips = [cluster_ips.v4, cluster_ips.v6].into_iter().flatten().count();
        let addresses = cluster_ips + local_ips.len() + external_ips.len() + vips.len();
        let node_ports = ports.iter().filter(|port| port.node_port.is_some()).count() * cluster_ips;
        let frontends = addresses * ports.len() + node_ports;
        let is_tenants = !key.is_clusters_own(name_server);
        Self { is_tenants, size: frontends * (1 + endpoints), service: key.clone() }
    }
}
