//! Frontends beyond ClusterIPs, dialled from the node and its pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tests::Cluster;

const PORT: u16 = 30080;

#[tokio::test]
async fn every_address_of_the_node_serves_a_node_port() {
    let cluster = Cluster::start("nodeport").nodes(2).await;
    let _web = cluster.service("web").tcp(80).node_port(PORT).backends(["a", "b"]).await;
    let to = cluster.node(0).addresses.both().map(|ip| SocketAddr::new(ip, PORT));
    cluster.pod("client").dials(to).times(80).reaches_each_of(["a", "b"]).await;
    cluster.pod("host").on_host(0).dials(to).times(80).reaches_each_of(["a", "b"]).await;
}

#[tokio::test]
async fn loopback_serves_node_ports_over_ipv4_and_refuses_over_ipv6() {
    let cluster = Cluster::start("nodeport-loopback").await;
    let _web = cluster.service("web").tcp(80).node_port(PORT).backends(["a", "b"]).await;
    let host = cluster.pod("host").on_host(0);
    let v4 = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
    host.clone().dials(v4).times(40).reaches_each_of(["a", "b"]).await;
    host.dials(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), PORT)).times(4).is_refused().await;
    // A pod's loopback is its own.
    cluster.pod("client").dials(v4).times(4).is_refused().await;
}

#[tokio::test]
async fn node_ports_on_loopback_can_be_turned_off() {
    let cluster = Cluster::start("nodeport-switch").flag("--localhost-nodeports=false").await;
    let _web = cluster.service("web").tcp(80).node_port(PORT).backends(["a"]).await;
    let host = cluster.pod("host").on_host(0);
    host.clone().dials(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)).times(4).is_refused().await;
    let to = SocketAddr::new(cluster.node(0).addresses.v4.into(), PORT);
    host.dials(to).times(4).always_reaches_one_of(["a"]).await;
}

#[tokio::test]
async fn a_node_port_without_endpoints_refuses() {
    let cluster = Cluster::start("nodeport-empty").await;
    let _web = cluster.service("web").tcp(80).node_port(PORT).await;
    let to = cluster.node(0).addresses.both().map(|ip| SocketAddr::new(ip, PORT));
    cluster.pod("client").dials(to).times(8).is_refused().await;
}

#[tokio::test]
async fn external_and_load_balancer_addresses_are_reached_without_leaving_the_node() {
    let cluster = Cluster::start("external").nodes(2).await;
    let external = ["192.0.2.10", "2001:db8:2::10"];
    let balancer: [IpAddr; 2] = [[203, 0, 113, 10].into(), [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10].into()];
    let _web = cluster
        .service("web")
        .tcp(80)
        .external_ips(external)
        .load_balancer_ips(balancer)
        .backends(["a", "b"])
        .await;
    let external = external.map(|ip| SocketAddr::new(ip.parse().expect("an address"), 80));
    for to in [external, balancer.map(|ip| SocketAddr::new(ip, 80))] {
        let report = cluster.pod("client").dials(to).times(80).reaches_each_of(["a", "b"]).await;
        assert_eq!(report.peers.into_keys().collect::<Vec<_>>(), to, "getpeername");
        cluster.pod("host").on_host(1).dials(to).times(80).reaches_each_of(["a", "b"]).await;
    }
}

/// The words of kube-proxy 1.37.
#[tokio::test]
async fn localhost_serves_node_ports_on_both_families() {
    let builder = Cluster::start("nodeport-words").flag("--nodeport-addresses=primary,localhost");
    let cluster = builder.await;
    let _web = cluster.service("web").tcp(80).node_port(PORT).backends(["a", "b"]).await;
    let host = cluster.pod("host").on_host(0);
    let [v4, v6]: [std::net::IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for ip in [v4, v6, cluster.node(0).addresses.v6.into()] {
        host.clone().dials(SocketAddr::new(ip, PORT)).times(40).reaches_each_of(["a", "b"]).await;
    }
    cluster.pod("client").dials(SocketAddr::new(v6, PORT)).times(4).is_refused().await;
}
