//! A client outside the cluster, in every kind of pod network: `tests::outside` has the table.

use tests::{
    Cluster, firewall,
    flows::{self, FlowResult},
    frontends::{Frontends, Kind},
    outside::{ENTRY, FAR, NEAR, OutsideFixture, Policy, ServiceRow, check_all_frontends},
    pod_network::PodNetwork,
    traffic::How,
};

async fn everything_is_reached_in(network: PodNetwork) {
    check_all_frontends(&OutsideFixture::new(&format!("outside-{network:?}").to_lowercase(), network).await)
        .await;
}

#[tokio::test]
async fn everything_is_reached_where_pods_are_bridged() {
    everything_is_reached_in(PodNetwork::Bridged).await;
}

#[tokio::test]
async fn everything_is_reached_where_pods_are_routed() {
    everything_is_reached_in(PodNetwork::Routed).await;
}

#[tokio::test]
async fn everything_is_reached_where_pods_are_tunnelled() {
    everything_is_reached_in(PodNetwork::Tunnelled).await;
}

#[tokio::test]
async fn source_ranges_admit_only_their_addresses() {
    let fixture = OutsideFixture::new("ranges", PodNetwork::Bridged).await;
    let mut flows = Vec::new();
    let mut services = Vec::new();
    for (number, ranges, lets_in) in [
        (0, ["198.51.100.0/24", "2001:db8:51::/48"], true),
        (1, ["198.51.100.128/25", "2001:db8:52::/48"], false),
    ] {
        let row =
            ServiceRow { policy: Policy::Cluster, backends: &[NEAR], frontends: Frontends::new(number) };
        let routed = fixture.cluster.route_to_node(row.frontends.routed(), ENTRY).await;
        routed.unwrap_or_else(|error| panic!("{error:#}"));
        let service = fixture.cluster.service(&format!("web-{number}")).external_frontends(row.frontends);
        services.push(service.source_ranges(ranges).backends([NEAR]).await);
        // Only the load balancer's addresses are filtered.
        let mut rows = fixture.flows(&format!("{ranges:?}"), &row);
        let balancer = row.frontends.load_balancer.both();
        let filtered = rows.iter_mut().filter(|flow| !lets_in && balancer.contains(&flow.to.ip()));
        filtered.for_each(|flow| flow.expected = FlowResult::NoReply);
        flows.extend(rows);
    }
    flows::check(&fixture.client, flows).await;
}

/// Affinity is shared by all frontends of a service port and keyed by the client's own address.
#[tokio::test]
async fn a_client_outside_stays_with_its_backend() {
    let fixture = OutsideFixture::new("outside-affinity", PodNetwork::Bridged).await;
    let frontends = Frontends::new(0);
    fixture
        .cluster
        .route_to_node(frontends.routed(), ENTRY)
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    let service = fixture.cluster.service("web").external_frontends(frontends);
    let _web = service.affinity(std::time::Duration::from_secs(600)).backends([NEAR, FAR]).await;
    let entry = fixture.cluster.node(ENTRY).addresses;
    let [v4, v6]: [Vec<_>; 2] =
        [0, 1].map(|family| Kind::ALL.map(|kind| frontends.dialled(kind, entry)[family]).to_vec());
    let mut chosen = Vec::new();
    for number in 0..12 {
        let client = fixture.cluster.client(&format!("client-{number}"));
        for (to, how) in [(&v4, How::Tcp), (&v6, How::Tcp), (&v4, How::ConnectedUdp)] {
            let report = client.clone().dials(to.clone()).how(how).times(9).report().await;
            assert_eq!((report.answered(), report.answers.len()), (9, 1), "{report:?}");
            chosen.extend(report.answers.into_keys());
        }
    }
    assert!(chosen.iter().any(|name| name == NEAR) && chosen.iter().any(|name| name == FAR), "{chosen:?}");
}

/// The entry node's stack does not forward: flows to another node pass, those to its own pods do not.
#[tokio::test]
async fn flows_bypass_the_stack_if_configured() {
    let cluster = Cluster::start("past-stack").flag("--forwarding=redirect");
    let fixture = OutsideFixture::on(cluster, PodNetwork::Routed).await;
    let rules =
        "table inet story {\nchain forward {\ntype filter hook forward priority 0; policy drop;\n}\n}\n";
    let (mut flows, mut services) = (Vec::new(), Vec::new());
    for (number, backends) in [(0, &[FAR]), (1, &[NEAR])] {
        let row = ServiceRow { policy: Policy::Cluster, backends, frontends: Frontends::new(number) };
        services.push(fixture.service(&format!("web-{number}"), &row).await);
        let mut rows = fixture.flows(backends[0], &row);
        let stopped = rows.iter_mut().filter(|_| backends[0] == NEAR);
        stopped.for_each(|flow| flow.expected = FlowResult::NoReply);
        flows.extend(rows);
    }
    firewall::filter(fixture.cluster.node(ENTRY).netns(), rules).expect("the rules are good");
    flows::check(&fixture.client, flows).await;
}
