//! Datagrams to ClusterIPs, from connected and unconnected sockets.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use tests::{
    Cluster,
    eventually::eventually,
    pod_network::PodNetwork,
    traffic::{Family, How},
    udp::Udp,
};

fn mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => to,
    }
}

#[tokio::test]
async fn connected_and_unconnected_sockets_reach_the_backends_over_both_families() {
    let cluster = Cluster::start("udp").nodes(2).await;
    let dns = cluster.service("dns").udp(53).backends(["a", "b"]).await;
    let client = cluster.pod("client");
    for to in dns.vips() {
        let dials = client.clone().dials(to).how(How::ConnectedUdp).times(40);
        let report = dials.reaches_each_of(["a", "b"]).await;
        assert_eq!(report.peers.into_keys().collect::<Vec<_>>(), [to], "getpeername");
        // Answers from another address than the frontend count as failures.
        client.clone().dials(to).how(How::UnconnectedUdp).times(20).always_reaches_one_of(["a", "b"]).await;
    }
}

#[tokio::test]
async fn an_ipv6_socket_reaches_ipv4_frontends() {
    let cluster = Cluster::start("udp-mapped").await;
    let dns = cluster.service("dns").udp(53).backends(["a"]).await;
    let client = cluster.pod("client").start().await;
    let socket = client.udp(Family::V6).await.expect("it opens");
    for to in [mapped(dns.vip()), dns.vip6()] {
        socket.send_to(to, "hello").await.expect("it is sent");
        let (from, text) = socket.receive().await.expect("an answer");
        assert_eq!((from, text.as_str()), (to, "a 0 hello"));
    }
}

#[tokio::test]
async fn an_unconnected_socket_keeps_its_backend_until_it_is_removed() {
    let cluster = Cluster::start("udp-stays").await;
    let dns = cluster.service("dns").udp(53).backends(["a", "b"]).await;
    let client = cluster.pod("client").start().await;
    let socket = client.udp(Family::V4).await.expect("it opens");
    let ask = async || {
        socket.send_to(dns.vip(), "who").await?;
        let (from, text) = socket.receive().await?;
        anyhow::ensure!(from == dns.vip(), "the answer came from {from}");
        Ok(text.split(' ').next().unwrap_or_default().to_owned())
    };
    let first = ask().await.expect("an answer");
    for _ in 0..20 {
        assert_eq!(ask().await.expect("an answer"), first);
    }
    dns.remove(&first);
    let other = if first == "a" { "b" } else { "a" };
    // No answer is lost: the old backend still serves.
    tests::eventually("the other backend answers", async || {
        let name = ask().await?;
        anyhow::ensure!(name == other, "{name} answers");
        Ok(())
    })
    .await;
}

/// The C library sorts a name's addresses by connecting datagram sockets to them, at any port (RFC 6724).
#[tokio::test]
async fn connecting_to_an_undefined_port_is_not_refused_but_sending_is() {
    let cluster = Cluster::start("udp-undefined").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    for client in [cluster.pod("client"), cluster.pod("host").on_host(0)] {
        let client = client.start().await;
        for (family, to) in [Family::V4, Family::V6].into_iter().zip(web.vips()) {
            let socket = client.udp(family).await.expect("it opens");
            socket.connect(to).await.unwrap_or_else(|error| panic!("{}: {error:#}", client.name));
            assert_eq!(socket.peer_name().await.expect("it is connected"), to);
            tests::eventually(&format!("{} is refused by {to}", client.name), async || {
                // An earlier datagram may be refused here already.
                let sent = socket.send("?").await.err();
                let error = match sent {
                    Some(error) => error,
                    None => socket.receive().await.err().context("the port answers")?,
                };
                ensure!(error.to_string().contains("ECONNREFUSED"), "{error}");
                Ok(())
            })
            .await;
        }
    }
}

/// Like musl's resolver: one socket queries all servers, and answers arrive in any order.
#[tokio::test]
async fn one_unconnected_socket_uses_eight_services() {
    uses_all_at_once("udp-eight", 8).await;
}

/// More than the capacity of a socket's own storage.
#[tokio::test]
async fn one_unconnected_socket_uses_twelve_services() {
    uses_all_at_once("udp-twelve", 12).await;
}

async fn uses_all_at_once(story: &str, count: usize) {
    let cluster = Cluster::start(story).nodes(2).await;
    let mut services = Vec::new();
    for index in 0..count {
        let (service, pod) = (format!("dns-{index}"), format!("pod-{index}"));
        services.push((pod.clone(), cluster.service(&service).udp(53).backends([pod.as_str()]).await));
    }
    let client = cluster.pod("client").start().await;
    for family in [Family::V4, Family::V6] {
        let socket = client.udp(family).await.expect("it opens");
        let vip = |index: usize| {
            if family == Family::V4 { services[index].1.vip() } else { services[index].1.vip6() }
        };
        for round in 0..3 {
            for index in 0..services.len() {
                socket.send_to(vip(index), &format!("question-{round}")).await.expect("it is sent");
            }
            let mut answers = BTreeSet::new();
            for _ in 0..services.len() {
                answers.insert(socket.receive().await.expect("an answer"));
            }
            let want = (0..services.len())
                .map(|index| (vip(index), format!("{} 0 question-{round}", services[index].0)))
                .collect::<BTreeSet<_>>();
            assert_eq!(answers, want, "{family:?}, round {round}");
        }
    }
}

/// The table of pairs beyond a socket's own storage has a share for each pod.
#[tokio::test]
async fn a_pod_that_uses_many_services_costs_other_pods_nothing() {
    const SERVICES: usize = 12;
    /// More pairs than the table held when pods evicted each other's.
    const SOCKETS: usize = 5;
    const EXTERNAL_IPS: u16 = 20_000;
    let external_ip = |host: u16| Ipv4Addr::from(0xac14_0000 | u32::from(host));
    let cluster = Cluster::start("udp-share").await;
    let mut services = Vec::new();
    for index in 0..SERVICES {
        let (service, pod) = (format!("dns-{index}"), format!("pod-{index}"));
        services.push(cluster.service(&service).udp(53).backends([pod.as_str()]).await);
    }
    let external_ips = move || (1..=EXTERNAL_IPS).map(|host| external_ip(host).to_string()).collect();
    let wide = cluster.service("wide").udp(53).backends(["pod-0"]);
    wide.change(move |spec| spec.external_ips = Some(external_ips())).await;
    let [client, other] = [cluster.pod("client").start().await, cluster.pod("other").start().await];
    let socket = client.udp(Family::V4).await.expect("it opens");
    for service in &services {
        socket.send_to(service.vip(), "?").await.expect("it is sent");
    }
    for _ in 0..SOCKETS {
        let busy = other.udp(Family::V4).await.expect("it opens");
        for host in 1..=EXTERNAL_IPS {
            busy.send_to((external_ip(host), 53).into(), "?").await.expect("it is sent");
        }
    }
    let mut sources = BTreeSet::new();
    for _ in &services {
        sources.insert(socket.receive().await.expect("an answer").0);
    }
    assert_eq!(sources, services.iter().map(|service| service.vip()).collect());
}

#[tokio::test]
async fn two_services_with_one_backend_answer_from_a_dialled_frontend() {
    let cluster = Cluster::start("udp-shared").await;
    let first = cluster.service("first").udp(53).backends(["a"]).await;
    let second = cluster.service("second").udp(53).backends(["a"]).await;
    let client = cluster.pod("client").start().await;
    let socket = client.udp(Family::V4).await.expect("it opens");
    for to in [first.vip(), second.vip(), first.vip(), second.vip()] {
        socket.send_to(to, "?").await.expect("it is sent");
    }
    for _ in 0..4 {
        let (from, _) = socket.receive().await.expect("an answer");
        assert!([first.vip(), second.vip()].contains(&from), "an answer came from {from}");
    }
}

#[tokio::test]
async fn a_socket_that_connects_elsewhere_forgets_the_frontend() {
    let cluster = Cluster::start("udp-reconnect").await;
    let dns = cluster.service("dns").udp(53).backends(["a"]).await;
    let b = cluster.pod("b").start().await;
    let port = dns.port(0);
    b.serve(port.protocol, port.target).await.expect("b serves");
    let client = cluster.pod("client").start().await;
    for (family, vip, pod) in [
        (Family::V4, dns.vip(), SocketAddr::new(b.addresses.v4.into(), port.target)),
        (Family::V6, dns.vip6(), SocketAddr::new(b.addresses.v6.into(), port.target)),
    ] {
        let socket = client.udp(family).await.expect("it opens");
        for (to, name) in [(vip, "a"), (pod, "b"), (vip, "a")] {
            socket.connect(to).await.expect("it connects");
            assert_eq!(socket.peer_name().await.expect("a name"), to, "getpeername");
            socket.send("?").await.expect("it is sent");
            let (from, text) = socket.receive().await.expect("an answer");
            assert_eq!((from, text), (to, format!("{name} 0 ?")));
        }
    }
}

#[tokio::test]
async fn without_endpoints_datagrams_are_refused_at_once() {
    let cluster = Cluster::start("udp-empty").await;
    let dns = cluster.service("dns").udp(53).await;
    for (how, want) in
        [(How::ConnectedUdp, "connect: ECONNREFUSED"), (How::UnconnectedUdp, "send: ECONNREFUSED")]
    {
        let report = cluster.pod("client").dials(dns.vips()).how(how).times(4).report().await;
        assert_eq!(report.failures.into_iter().collect::<Vec<_>>(), [(want.to_owned(), 4)], "{how:?}");
    }
}

#[tokio::test]
async fn tcp_and_udp_share_a_port_and_not_their_backends() {
    let cluster = Cluster::start("udp-tcp").await;
    let dns = cluster.service("dns").tcp(53).udp(53).backends(["a"]).await;
    let client = cluster.pod("client");
    for how in [How::Tcp, How::ConnectedUdp, How::UnconnectedUdp] {
        client.clone().dials(dns.vips()).how(how).times(4).always_reaches_one_of(["a"]).await;
    }
}

/// The kernel delivers to a connected socket only datagrams of its peer, so a `sendto` to the same frontend must reach the
/// same backend.
#[tokio::test]
async fn a_connected_socket_that_names_its_frontend_again_gets_its_answers() {
    let cluster = Cluster::start("udp-again").await;
    let dns = cluster.service("dns").udp(53).backends(["a", "b", "c", "d"]).await;
    let client = cluster.pod("client").start().await;
    for (family, to) in [(Family::V4, dns.vip()), (Family::V6, dns.vip6())] {
        let socket = client.udp(family).await.expect("it opens");
        socket.connect(to).await.expect("it connects");
        for _ in 0..10 {
            socket.send_to(to, "by name").await.expect("it is sent");
            let (from, _) = socket.receive().await.expect("an answer");
            assert_eq!(from, to);
        }
    }
}

/// A connected socket whose backend is removed is redirected to another one, with the first backend's address as the source
/// of replies. The next socket at its port, connected to the other backend, gets replies from that backend's own address.
#[tokio::test]
async fn a_port_gets_its_replies_after_a_redirected_socket() {
    let cluster = Cluster::start("udp-port-again").nodes(2).await;
    let dns = cluster.service("dns").udp(53).backends(["a"]).await;
    let client = cluster.pod("client").start().await;
    let ways = client.addresses.both().map(|ip| SocketAddr::new(ip, 5353)).into_iter().zip(dns.vips());
    let ways: Vec<_> = ways.collect();
    let mut sockets = Vec::new();
    for (own, to) in &ways {
        let socket = client.udp_at(*own).await.expect("it opens");
        socket.connect(*to).await.expect("it connects");
        sockets.push(socket);
    }
    dns.add("b").await;
    dns.remove("a");
    for socket in sockets {
        tests::eventually("the other backend answers", async || {
            socket.send("who").await?;
            let (_, text) = socket.receive().await?;
            anyhow::ensure!(text.starts_with("b "), "{text}");
            Ok(())
        })
        .await;
        socket.close().await.expect("it is open");
    }
    for (own, to) in ways {
        let socket = client.udp_at(own).await.expect("it opens");
        socket.connect(to).await.expect("it connects");
        socket.send("who").await.expect("it is sent");
        let (from, text) = socket.receive().await.expect("an answer");
        assert!(from == to && text.starts_with("b "), "{text} from {from}");
    }
}

/// The clients of an address that moves to another Service move too, though their backend still serves.
#[tokio::test]
async fn an_unconnected_socket_follows_an_address_to_another_service() {
    let cluster = Cluster::start("udp-moves").await;
    let old = cluster.service("a-old").udp(53).backends(["a"]).await;
    let new = cluster.service("b-new").udp(53).backends(["b"]).external_ips(["192.0.2.53"]).await;
    let to: SocketAddr = "192.0.2.53:53".parse().expect("an address");
    let client = cluster.pod("client").start().await;
    let socket = client.udp(Family::V4).await.expect("it opens");
    let ask = async || {
        socket.send_to(to, "who").await?;
        let (_, text) = socket.receive().await?;
        Ok::<_, anyhow::Error>(text.split(' ').next().unwrap_or_default().to_owned())
    };
    assert_eq!(ask().await.expect("an answer"), "b");
    // The first Service by name wins the address once it claims it.
    let claimant = cluster.service("a-claims").udp(53).backends(["c"]).external_ips(["192.0.2.53"]).await;
    tests::eventually("the new owner answers", async || {
        let name = ask().await?;
        anyhow::ensure!(name == "c", "{name} answers");
        Ok(())
    })
    .await;
    drop((old, new, claimant));
}

async fn is_answered_by(socket: &Udp<'_>, name: &str) -> Result<()> {
    socket.send("who").await?;
    let (_, text) = socket.receive().await?;
    ensure!(text.split(' ').next() == Some(name), "{text}");
    Ok(())
}

async fn is_refused(socket: &Udp<'_>) -> Result<()> {
    // An earlier datagram may be refused here already.
    let error = match socket.send("?").await.err() {
        Some(error) => error,
        None => socket.receive().await.err().context("it is answered")?,
    };
    ensure!(error.to_string().contains("ECONNREFUSED"), "{error}");
    Ok(())
}

/// A removed backend still serves at its address, as another pod may later. Sockets that are connected to it through the
/// frontend are refused once there is no other backend, return with the next one, and do not outlive the Service.
#[tokio::test]
async fn connected_sockets_end_with_the_endpoints_and_return_with_the_next() {
    let cluster = Cluster::start("udp-ends").nodes(2).pod_network(PodNetwork::Routed).await;
    cluster.pod("a").on(0).start().await;
    cluster.pod("b").on(1).start().await;
    let dns = cluster.service("dns").udp(53).backends(["a", "b"]).await;
    dns.list_only(|pod| pod == "a");
    let pods = [
        cluster.pod("near").on(0).start().await,
        cluster.pod("far").on(1).start().await,
        cluster.pod("host-near").on_host(0).start().await,
        cluster.pod("host-far").on_host(1).start().await,
        cluster.pod("boxed").sandboxed_on(0).start().await,
    ];
    let mut sockets = Vec::new();
    for pod in &pods {
        for (family, to) in [Family::V4, Family::V6].into_iter().zip(dns.vips()) {
            let socket = pod.udp(family).await.expect("it opens");
            let what = format!("{} at {to}", pod.name);
            eventually(&format!("a answers {what}"), async || {
                socket.connect(to).await?;
                is_answered_by(&socket, "a").await
            })
            .await;
            sockets.push((what, socket));
        }
    }
    dns.list_only(|_| false);
    for (what, socket) in &sockets {
        eventually(&format!("{what} is refused"), async || is_refused(socket).await).await;
        is_refused(socket).await.unwrap_or_else(|error| panic!("{what} is refused no longer: {error:#}"));
    }
    dns.list_only(|pod| pod == "b");
    for (what, socket) in &sockets {
        eventually(&format!("b answers {what}"), async || is_answered_by(socket, "b").await).await;
    }
    dns.delete();
    // Without the Service, the network itself refuses packets to its address.
    for (what, socket) in sockets.iter().filter(|(what, _)| !what.starts_with("boxed")) {
        eventually(&format!("{what} is refused"), async || is_refused(socket).await).await;
        is_refused(socket).await.unwrap_or_else(|error| panic!("{what} is refused no longer: {error:#}"));
    }
}
