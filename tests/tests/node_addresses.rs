//! The node's own servers and connections, while its addresses and ports are also frontends.

use std::net::SocketAddr;

use tests::{
    Cluster,
    frontends::{Frontends, Kind, PORT},
    traffic::{How, Protocol},
};

/// Port of a server on the node.
const OWN: u16 = 9000;

fn at(addresses: tests::addresses::Addresses, port: u16) -> [SocketAddr; 2] {
    addresses.both().map(|ip| SocketAddr::new(ip, port))
}

#[tokio::test]
async fn a_load_balancer_address_of_the_node_keeps_its_other_ports_open() {
    let cluster = Cluster::start("own-address").nodes(2).await;
    let node = cluster.node(0).addresses;
    let host = cluster.pod("host").on_host(0).start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        host.serve(protocol, OWN).await.expect("it serves");
    }
    let frontends = Frontends { load_balancer: node, ..Frontends::new(0) };
    let _web = cluster.service("web").external_frontends(frontends).backends(["a", "b"]).await;
    let client = cluster.client("client");
    for how in [How::Tcp, How::ConnectedUdp] {
        client.clone().dials(at(node, PORT)).how(how).times(48).reaches_each_of(["a", "b"]).await;
        client.clone().dials(at(node, OWN)).how(how).times(4).always_reaches_one_of(["host"]).await;
        let pod = cluster.pod("vm").sandboxed_on(1);
        pod.clone().dials(at(node, OWN)).how(how).times(4).always_reaches_one_of(["host"]).await;
        pod.dials(at(node, PORT)).how(how).times(48).reaches_each_of(["a", "b"]).await;
    }
    // The node refuses a port without a server.
    client.dials(at(node, OWN + 1)).times(4).is_refused().await;
}

/// Replies to the node's own connection arrive at a port that is also a NodePort.
#[tokio::test]
async fn the_nodes_own_connections_may_leave_from_a_node_port() {
    let cluster = Cluster::start("own-port").await;
    let node = cluster.node(0).addresses;
    let frontends = Frontends::new(0);
    let _web = cluster.service("web").external_frontends(frontends).backends(["a"]).await;
    let server = cluster.client("server").start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        server.serve(protocol, OWN).await.expect("it serves");
    }
    let host = cluster.pod("host").on_host(0).start().await;
    let sources = frontends.dialled(Kind::NodePort, node);
    for (from, to) in sources.into_iter().zip(at(server.addresses, OWN)) {
        let dials = cluster.pod("host").on_host(0).dials(to).from(from);
        let report = dials.always_reaches_one_of(["server"]).await;
        assert_eq!(report.answers["server"].sources.keys().copied().collect::<Vec<_>>(), [from.ip()]);
        let socket = host.udp_at(from).await.expect("the port is free");
        socket.send_to(to, "hello").await.expect("it is sent");
        let (answered, text) = socket.receive().await.unwrap_or_else(|error| panic!("{from}: {error:#}"));
        assert_eq!((answered, text.as_str()), (to, "server 0 hello"));
        socket.close().await.expect("it closes");
        // The NodePort still serves.
        cluster.client("client").dials(from).times(4).always_reaches_one_of(["a"]).await;
    }
}
