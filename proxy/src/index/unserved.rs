//! Parts of Services that have no effect although their objects are valid.

use std::collections::HashSet;

use super::Index;
use crate::model::{
    address::{IpFamily, Protocol},
    backend::SlicePort,
    frontend::{FrontendAddress, FrontendKey},
    service::{ServiceInfo, ServiceKey},
    unserved::{PortNames, Unserved},
};

impl Index {
    /// The parts of all Services that clients cannot use, sorted by Service. Visits every object.
    pub fn unserved(&self) -> Vec<(ServiceKey, Unserved)> {
        let mut found: Vec<_> = self.lost_claims().chain(sctp_ports(self)).collect();
        for service in self.services().filter(|service| service.is_served()) {
            let parts = port_names(self, service).chain(health_check_ports(self, service));
            found.extend(parts.map(|unserved| (service.key.clone(), unserved)));
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }

    /// The claims of Services on addresses that another Service has. Costs no more than there are.
    pub fn lost_claims(&self) -> impl Iterator<Item = (ServiceKey, Unserved)> {
        self.claims.lost().filter_map(|(key, lost, winner)| {
            let (loser, _) = lost.claimant()?;
            let (service, port) = winner.claimant()?;
            let owner = service.port_key(port);
            Some((loser.key.clone(), Unserved::LostClaim { frontend: *key, kind: lost.kind(), owner }))
        })
    }
}

fn sctp_ports(index: &Index) -> impl Iterator<Item = (ServiceKey, Unserved)> {
    let sctp = index.frontend_keys().filter(|key| key.protocol == Protocol::Sctp);
    sctp.filter_map(|key| index.frontend(key)).filter_map(|frontend| {
        let mut endpoint_ports = frontend.refused_ports(&frontend.internal);
        endpoint_ports.extend(frontend.refused_ports(&frontend.external));
        let (key, kind) = (frontend.key, frontend.kind);
        let unserved = Unserved::SctpPorts { frontend: key, kind, endpoint_ports: endpoint_ports.clone() };
        (!endpoint_ports.is_empty()).then_some((frontend.service.service, unserved))
    })
}

fn health_check_ports(index: &Index, service: &ServiceInfo) -> impl Iterator<Item = Unserved> {
    let port = service.health_check_node_port;
    let served = IpFamily::BOTH.into_iter().filter(|family| service.cluster_ips.get(*family).is_some());
    served.filter_map(move |family| {
        let port = port?;
        let key = FrontendKey { address: FrontendAddress::NodePort(family), port, protocol: Protocol::Tcp };
        let (service, owner) = index.claims.winner(&key)?.claimant()?;
        Some(Unserved::HealthCheckPort { port, family, owner: service.port_key(owner) })
    })
}

/// The ports without endpoints of a Service whose slices have endpoints for other ports.
fn port_names(index: &Index, service: &ServiceInfo) -> impl Iterator<Item = Unserved> {
    let served = IpFamily::BOTH.into_iter().filter(|family| service.cluster_ips.get(*family).is_some());
    served.flat_map(move |family| {
        let theirs = unmatched_ports(index, service, family);
        if theirs.is_empty() {
            return Vec::new();
        }
        let fed: HashSet<(&str, Protocol)> =
            offered_ports(index, service, family).map(|port| (&*port.name, port.protocol)).collect();
        let ports = service.ports.iter().filter(|port| !fed.contains(&(&*port.name, port.protocol)));
        ports
            .map(|port| Unserved::PortNames { port: service.port_key(port), family, theirs: theirs.clone() })
            .collect()
    })
}

/// The ports of a Service's slices of a family with endpoints.
fn offered_ports<'a>(
    index: &'a Index,
    service: &'a ServiceInfo,
    family: IpFamily,
) -> impl Iterator<Item = &'a SlicePort> {
    let slices = index.slices_of(&service.key, family).filter(|slice| !slice.candidates.is_empty());
    slices.flat_map(|slice| slice.ports.iter())
}

/// The ports for which a Service's slices of a family have endpoints, but which the Service does not define.
pub fn unmatched_ports(index: &Index, service: &ServiceInfo, family: IpFamily) -> PortNames {
    let defined: HashSet<(&str, Protocol)> =
        service.ports.iter().map(|own| (&*own.name, own.protocol)).collect();
    offered_ports(index, service, family)
        .filter(|port| !defined.contains(&(&*port.name, port.protocol)))
        .map(|port| (port.name.clone(), port.protocol))
        .collect()
}
