//! From a Service to its frontends: the addresses that clients may dial.

use std::net::IpAddr;

use crate::model::{
    address::IpFamily,
    frontend::{FrontendAddress, FrontendKey, FrontendKind},
    service::{PortInfo, ServiceInfo, of_family},
};

/// Every frontend of a Service, with the position of its port. A frontend may occur more than once.
pub fn frontends(service: &ServiceInfo) -> Vec<(FrontendKey, FrontendKind, u32)> {
    let mut frontends = Vec::with_capacity(service.ports.len());
    for family in IpFamily::BOTH {
        let Some(cluster_ip) = service.cluster_ips.get(family) else { continue };
        for (n, port) in (0..).zip(&service.ports) {
            addresses(service, *cluster_ip, port, family, |address, number, kind| {
                frontends.push((FrontendKey { address, port: number, protocol: port.protocol }, kind, n));
            });
        }
    }
    frontends
}

fn addresses(
    service: &ServiceInfo,
    cluster_ip: IpAddr,
    port: &PortInfo,
    family: IpFamily,
    mut add: impl FnMut(FrontendAddress, u16, FrontendKind),
) {
    add(FrontendAddress::Ip(cluster_ip), port.port, FrontendKind::ClusterIp);
    for ip in of_family(&service.local_ips, family) {
        add(FrontendAddress::Ip(ip), port.port, FrontendKind::ClusterIp);
    }
    for vip in service.vips_of(family) {
        add(FrontendAddress::Ip(vip), port.port, FrontendKind::LoadBalancer);
    }
    for ip in of_family(&service.external_ips, family) {
        add(FrontendAddress::Ip(ip), port.port, FrontendKind::ExternalIp);
    }
    if let Some(node_port) = port.node_port {
        add(FrontendAddress::NodePort(family), node_port, FrontendKind::NodePort);
    }
}
