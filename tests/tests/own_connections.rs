//! The node's own connections to its own addresses. Their packets pass the loopback device alone, so they are translated at their
//! sockets, whose source is known: the bound address, else the destination itself.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tests::{
    Cluster, PodRef,
    addresses::Addresses,
    frontends::{Frontends, Kind, PORT},
    traffic::{How, Protocol},
};

const NODE_PORT: u16 = 30_080;
const HOWS: [How; 4] = [How::Tcp, How::MappedTcp, How::ConnectedUdp, How::UnconnectedUdp];
/// Long enough to establish that no answer arrives.
const SILENCE: Duration = Duration::from_millis(300);

/// Gives a node the load-balancer addresses of a Service, as servers of virtual addresses do.
async fn make_local(cluster: &Cluster, addresses: Addresses) {
    let netlink = cluster.node(0).netns().netlink().expect("a netlink socket");
    for ip in addresses.both() {
        netlink.address("lo", ip.into()).await.expect("it is added");
    }
}

/// The ranges that hold exactly these addresses.
fn ranges(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<String> {
    addresses.into_iter().map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })).collect()
}

async fn reaches(host: &PodRef<'_>, to: [SocketAddr; 2]) {
    for how in HOWS {
        let report =
            host.clone().dials(to).how(how).times(8).timeout_after(Duration::from_secs(3)).report().await;
        assert_eq!((report.answered_by("a"), report.failed()), (8, 0), "{how:?} {to:?}: {report:?}");
    }
}

/// Neither answered nor refused.
async fn is_silent(host: &PodRef<'_>, to: [SocketAddr; 2]) {
    for how in HOWS {
        let report = host.clone().dials(to).how(how).times(2).timeout_after(SILENCE).report().await;
        let is_timeout = |failure: &String| failure.ends_with("timed out");
        assert_eq!((report.answered(), report.failed()), (0, 2), "{how:?} {to:?}: {report:?}");
        assert!(report.failures.keys().all(is_timeout), "{how:?} {to:?}: {report:?}");
    }
}

/// TCP, and UDP of an unconnected socket, from this address of the node.
async fn from_answers(host: &PodRef<'_>, from: IpAddr, to: SocketAddr) -> [bool; 2] {
    let from = SocketAddr::new(from, 0);
    let report = host.clone().dials(to).from(from).timeout_after(SILENCE).report().await;
    assert!(
        report.failures.keys().all(|failure| failure.ends_with("timed out")),
        "from {from} to {to}: {report:?}"
    );
    let pod = host.start().await;
    let socket = pod.udp_at(from).await.expect("the address is local");
    socket.send_to(to, "hello").await.expect("it is sent");
    let received = socket.receive().await;
    socket.close().await.expect("it closes");
    [report.answered_by("a") == 1, received.is_ok_and(|(from, _)| from == to)]
}

/// Cases: whom the ranges of a Service admit, and the answers to be expected for an unbound socket, and one bound to
/// the node's own address.
#[tokio::test]
async fn the_ranges_of_a_local_address_apply_to_the_node() {
    let cluster = Cluster::start("own-vip").await;
    let node = cluster.node(0).addresses;
    let host = cluster.pod("host").on_host(0);
    for (number, name, is_admitted, is_bound_admitted) in
        [(0, "nobody", false, false), (1, "vip", true, false), (2, "node", true, true)]
    {
        let frontends = Frontends::new(number);
        let vip = frontends.load_balancer;
        make_local(&cluster, vip).await;
        let ranges = match name {
            "vip" => ranges(vip.both()),
            "node" => ranges(node.both()),
            _ => vec!["198.51.100.0/24".to_owned(), "2001:db8:51::/48".to_owned()],
        };
        let service = cluster.service(name).external_frontends(frontends);
        let set = move |spec: &mut k8s_openapi::api::core::v1::ServiceSpec| {
            spec.load_balancer_source_ranges = Some(ranges.clone());
        };
        let _service = service.change(set).backends(["a"]).await;
        let to = frontends.dialled(Kind::LoadBalancer, node);
        if is_admitted {
            reaches(&host, to).await;
        } else {
            is_silent(&host, to).await;
        }
        for (from, to) in node.both().into_iter().zip(to) {
            let answered = from_answers(&host, from, to).await;
            assert_eq!(answered, [is_bound_admitted; 2], "{name}: from {from} to {to}");
        }
        for to in to {
            let answered = from_answers(&host, to.ip(), to).await;
            assert_eq!(answered, [is_admitted; 2], "{name}: from the VIP to {to}");
        }
        // NodePorts are not filtered.
        reaches(&host, frontends.dialled(Kind::NodePort, node)).await;
    }
}

/// A server of the node at all of its addresses does not get what the ranges exclude.
#[tokio::test]
async fn excluded_connections_do_not_reach_the_nodes_servers() {
    let cluster = Cluster::start("own-server").await;
    let frontends = Frontends::new(0);
    make_local(&cluster, frontends.load_balancer).await;
    let host = cluster.pod("host").on_host(0);
    let server = host.start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        server.serve(protocol, PORT).await.expect("it serves");
    }
    let to = frontends.dialled(Kind::LoadBalancer, cluster.node(0).addresses);
    let service = cluster.service("web").external_frontends(frontends);
    let _web = service.source_ranges(["198.51.100.0/24", "2001:db8:51::/48"]).backends(["a"]).await;
    is_silent(&host, to).await;
    // Other ports of the address, and this port of other addresses, are the node's.
    let other = cluster.node(0).addresses.both().map(|ip| SocketAddr::new(ip, PORT));
    host.clone().dials(other).times(4).always_reaches_one_of(["host"]).await;
    host.dials(to.map(|to| SocketAddr::new(to.ip(), PORT + 1))).times(4).is_refused().await;
}

#[tokio::test]
async fn own_addresses_are_served_without_socket_translation() {
    let cluster = Cluster::start("own-off").flag("--socket-lb=off").await;
    let node = cluster.node(0).addresses;
    let service = cluster.service("web").tcp(80).node_port(NODE_PORT).udp(80).node_port(NODE_PORT);
    let _web = service.backends(["a"]).await;
    let host = cluster.pod("host").on_host(0);
    let to = node.both().map(|ip| SocketAddr::new(ip, NODE_PORT));
    reaches(&host, to).await;
    let report = host.clone().dials(to).times(4).always_reaches_one_of(["a"]).await;
    assert_eq!(report.peers.into_keys().collect::<Vec<_>>(), to, "getpeername");
    // Other sockets are not translated: packets are.
    cluster.pod("client").dials(to).times(4).always_reaches_one_of(["a"]).await;
}
