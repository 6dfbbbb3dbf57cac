//! An external client, and the table of all frontends: every kind of frontend, policy, location of the backends,
//! protocol and family. Each line names the servers that answer, and the source address that they see.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::lab::{
    addresses::Addresses,
    client::flows::{self, Flow, FlowResult},
    cluster::{Builder, Cluster},
    frontends::{Frontends, Kind},
    pod::Pod,
    pod_network::PodNetwork,
    service::Service,
    traffic::How,
};

const HOWS: [How; 2] = [How::Tcp, How::ConnectedUdp];
/// The node at which packets for Services arrive.
pub const ENTRY: usize = 0;
/// Pods on the entry node and on another one.
pub const NEAR: &str = "near";
pub const FAR: &str = "far";

/// `externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Cluster,
    Local,
}

/// A Service of the table.
pub struct ServiceRow {
    pub policy: Policy,
    pub backends: &'static [&'static str],
    pub frontends: Frontends,
}

/// A cluster of two nodes with a pod on each, and an external client.
pub struct OutsideFixture {
    pub cluster: Cluster,
    network: PodNetwork,
    pub client: Arc<Pod>,
}

impl OutsideFixture {
    pub async fn new(name: &str, network: PodNetwork) -> Self {
        Self::on(Cluster::start(name), network).await
    }

    /// With these options beyond its nodes and pods.
    pub async fn on(cluster: Builder, network: PodNetwork) -> Self {
        let cluster = cluster.nodes(2).pod_network(network).await;
        cluster.pod(NEAR).on(ENTRY).start().await;
        cluster.pod(FAR).on(1).start().await;
        let client = cluster.client("client").start().await;
        Self { cluster, network, client }
    }

    /// Publishes a row, with routes of its addresses to the entry node.
    pub async fn service(&self, name: &str, row: &ServiceRow) -> Service<'_> {
        let routed = self.cluster.route_to_node(row.frontends.routed(), ENTRY).await;
        routed.unwrap_or_else(|error| panic!("{error:#}"));
        let service = self.cluster.service(name).external_frontends(row.frontends);
        let service = service.backends(row.backends.iter().copied());
        match row.policy {
            Policy::Cluster => service.await,
            Policy::Local => service.external_traffic_is_local().await,
        }
    }

    /// All frontends of a row, with the expected results.
    pub fn flows(&self, name: &str, row: &ServiceRow) -> Vec<Flow> {
        let entry = self.cluster.node(ENTRY);
        let mut flows = Vec::new();
        for kind in Kind::ALL {
            for to in row.frontends.dialled(kind, entry.addresses) {
                let expected = self.expected(row, to.ip());
                let flow =
                    |how| Flow { name: format!("{name} {kind:?}"), to, how, expected: expected.clone() };
                flows.extend(HOWS.map(flow));
            }
        }
        flows
    }

    fn expected(&self, row: &ServiceRow, family: IpAddr) -> FlowResult {
        if row.backends.is_empty() {
            return FlowResult::Refused;
        }
        let seen: BTreeMap<String, IpAddr> = row
            .backends
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), of_family(self.seen(row.policy, name)?, family))))
            .collect();
        if seen.is_empty() { FlowResult::NoReply } else { FlowResult::Reaches(seen) }
    }

    /// The source address that a backend sees. Returns `None` if the policy excludes the backend.
    fn seen(&self, policy: Policy, backend: &str) -> Option<Addresses> {
        let is_near = backend == NEAR;
        match policy {
            Policy::Cluster => Some(self.network.masquerade(self.cluster.node(ENTRY).addressing(), is_near)),
            Policy::Local => is_near.then_some(self.client.addresses),
        }
    }
}

fn of_family(addresses: Addresses, like: IpAddr) -> IpAddr {
    if like.is_ipv4() { addresses.v4.into() } else { addresses.v6.into() }
}

/// Checks the whole table: every policy, location of backends, kind of frontend, family and protocol.
pub async fn check_all_frontends(fixture: &OutsideFixture) {
    let placements: [&'static [&'static str]; 4] = [&[NEAR], &[FAR], &[NEAR, FAR], &[]];
    let (mut flows, mut services, mut number) = (Vec::new(), Vec::new(), 0);
    for policy in [Policy::Cluster, Policy::Local] {
        for backends in placements {
            let row = ServiceRow { policy, backends, frontends: Frontends::new(number) };
            let name = format!(
                "{policy:?}-{}",
                if backends.is_empty() { "no-backend".to_owned() } else { backends.join("-") }
            );
            services.push(fixture.service(&name.to_lowercase(), &row).await);
            flows.extend(fixture.flows(&name, &row));
            number += 1;
        }
    }
    assert_eq!(flows.len(), 2 * 4 * 3 * 2 * 2, "policies, placements, kinds, families, protocols");
    flows::check(&fixture.client, flows).await;
}
