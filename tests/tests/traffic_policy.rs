//! Traffic policies and terminating endpoints in the socket plane.

use std::net::SocketAddr;

use tests::{Cluster, objects::Condition};

const PORT: u16 = 30080;

/// Backends are placed in turn: `a` on the first node, `b` on the second.
#[tokio::test]
async fn internal_traffic_stays_on_its_node() {
    let cluster = Cluster::start("itp").nodes(2).await;
    let web = cluster.service("web").tcp(80).internal_traffic_is_local().backends(["a", "b"]).await;
    for (node, name) in [(0, "a"), (1, "b")] {
        let client = cluster.pod(&format!("client-{node}")).on(node);
        client.dials(web.vips()).times(30).always_reaches_one_of([name]).await;
    }
}

#[tokio::test]
async fn internal_traffic_policy_local_without_local_endpoints_fails() {
    let cluster = Cluster::start("itp-none").nodes(2).await;
    // Only the first node has an endpoint; from the second, the policy forbids it.
    let web = cluster.service("web").tcp(80).internal_traffic_is_local().unawaited().backends(["a"]).await;
    cluster.pod("client-0").dials(web.vips()).times(10).comes_to_reach_each_of(["a"]).await;
    let report = cluster.pod("client-1").on(1).dials(web.vips()).times(4).report().await;
    assert_eq!((report.answered(), report.failed()), (0, 4), "{report:?}");
}

#[tokio::test]
async fn pods_and_nodes_reach_every_endpoint_of_a_local_only_node_port() {
    let cluster = Cluster::start("etp").nodes(2).flag("--cluster-cidr=10.244.0.0/16,fd00:10:244::/48").await;
    let web =
        cluster.service("web").tcp(80).node_port(PORT).external_traffic_is_local().backends(["a", "b"]).await;
    web.remove("a");
    for (name, node) in [("host-0", 0), ("host-1", 1)] {
        let to = cluster.node(node).addresses.both().map(|ip| SocketAddr::new(ip, PORT));
        cluster.pod(name).on_host(node).dials(to).times(20).comes_to_reach_each_of(["b"]).await;
        let pod = cluster.pod(&format!("client-{node}")).on(node);
        pod.dials(to).times(20).always_reaches_one_of(["b"]).await;
    }
}

#[tokio::test]
async fn terminating_endpoints_serve_if_no_others_do() {
    let cluster = Cluster::start("terminating").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let dials = || cluster.pod("client").dials(web.vips()).times(40);
    web.set("a", Condition::Terminating);
    dials().comes_to_reach_each_of(["b"]).await;
    web.set("b", Condition::Terminating);
    dials().comes_to_reach_each_of(["a", "b"]).await;
    web.set("a", Condition::Gone);
    dials().comes_to_reach_each_of(["b"]).await;
    web.set("b", Condition::Unready);
    dials().comes_to_be_refused().await;
}
