//! Connections to ClusterIPs, from the view of client pods.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tests::{
    Cluster,
    dials::only,
    objects::Condition,
    pod::Dialling,
    service::Service,
    traffic::{How, Report, now_us},
};

/// Attempts after which each backend has answered: with three, one is never chosen in 40 with probability 1e-7.
const ROUND: u64 = 40;
/// TCP_TIMEOUT_INIT.
const SYN_RETRANSMISSION: Duration = Duration::from_secs(1);

fn mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => to,
    }
}

/// Clients on both nodes that dial without pause, until stopped for their reports.
async fn traffic(cluster: &Cluster, web: &Service<'_>) -> [Dialling; 2] {
    let start = async |name, node| {
        let dials = cluster.pod(name).on(node).dials(web.vips()).every(Duration::from_millis(1));
        dials.at_once(2).in_background().await
    };
    [start("runner-1", 0).await, start("runner-2", 1).await]
}

async fn ended(traffic: [Dialling; 2]) -> Vec<Report> {
    let mut reports = Vec::new();
    for dialling in traffic {
        reports.push(dialling.stop().await.expect("the runners answer"));
    }
    reports
}

/// Waits until both nodes have switched: complete rounds from each reach these backends only.
async fn all_reach<const N: usize>(cluster: &Cluster, web: &Service<'_>, names: [&str; N]) {
    for (client, node) in [("observer-1", 0), ("observer-2", 1)] {
        cluster.pod(client).on(node).dials(web.vips()).times(2 * ROUND).comes_to_reach_each_of(names).await;
    }
}

#[tokio::test]
async fn connections_are_balanced_over_both_families() {
    let cluster = Cluster::start("balance").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b", "c"]).await;
    let cases = [
        ("IPv4", web.vip(), How::Tcp, web.vip()),
        ("IPv6", web.vip6(), How::Tcp, web.vip6()),
        ("IPv4 through an IPv6 socket", web.vip(), How::MappedTcp, mapped(web.vip())),
        ("HTTP", web.vip(), How::Http, web.vip()),
    ];
    let clients = [cluster.pod("near"), cluster.pod("far").on(1), cluster.pod("host").on_host(0)];
    for (name, to, how, shown) in cases {
        for client in &clients {
            let report =
                client.clone().dials(to).how(how).times(ROUND).reaches_each_of(["a", "b", "c"]).await;
            // getpeername returns the frontend, not the backend.
            assert_eq!(report.peers.into_iter().collect::<Vec<_>>(), [(shown, ROUND)], "{name}");
        }
    }
}

#[tokio::test]
async fn every_backend_gets_its_share() {
    let cluster = Cluster::start("share").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b", "c"]).await;
    let report =
        cluster.pod("client").dials(web.vips()).at_once(4).times(900).reaches_each_of(["a", "b", "c"]).await;
    for name in ["a", "b", "c"] {
        // 300 are expected; 6 standard deviations are 85.
        let share = report.answered_by(name);
        assert!((215..=385).contains(&share), "{name} answered {share} of 900: {report:?}");
    }
}

#[tokio::test]
async fn endpoints_come_and_go_while_connections_flow() {
    let cluster = Cluster::start("endpoints").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let traffic = traffic(&cluster, &web).await;

    web.add("c").await;
    all_reach(&cluster, &web, ["a", "b", "c"]).await;
    web.remove("a");
    all_reach(&cluster, &web, ["b", "c"]).await;
    let a_is_out = now_us();
    // New connections do not reach it. One whose SYN was lost before the switch retransmits it a second later, so the server
    // ends only when it has had no connection for longer.
    let (pod, port) = (cluster.pod("a").start().await, web.port(0));
    pod.drain(port.protocol, port.target, 2 * SYN_RETRANSMISSION).await.expect("a serves");
    web.set("b", Condition::Unready);
    all_reach(&cluster, &web, ["c"]).await;
    web.set("b", Condition::Ready);
    all_reach(&cluster, &web, ["b", "c"]).await;

    for report in ended(traffic).await {
        assert!(report.failures.is_empty(), "{report:?}");
        assert!(report.answered_by("a") > 0 && report.answers["a"].last_began_us < a_is_out, "{report:?}");
    }
}

#[tokio::test]
async fn a_service_scaled_to_zero_refuses_at_once_and_returns() {
    let cluster = Cluster::start("zero").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let dials = || cluster.pod("client").dials(web.vips()).times(20);
    dials().always_reaches_one_of(["a"]).await;
    let (held, _) = cluster.pod("client").start().await.hold(web.vips().into(), 10).await.expect("it opens");

    web.scale_to_zero();
    dials().comes_to_be_refused().await;
    let before = Instant::now();
    dials().is_refused().await;
    cluster.pod("client").dials(web.vip()).how(How::MappedTcp).times(20).is_refused().await;
    assert!(before.elapsed() < Duration::from_secs(1), "40 refusals took {:?}", before.elapsed());

    web.add("a").await;
    dials().comes_to_reach_each_of(["a"]).await;
    let echo = cluster.pod("client").start().await.echo(held).await.expect("it answers");
    assert_eq!((echo.answered_by("a"), echo.failed()), (10, 0), "connections made before go on: {echo:?}");
}

#[tokio::test]
async fn a_service_without_endpoints_refuses_from_the_start() {
    let cluster = Cluster::start("empty").await;
    let web = cluster.service("web").tcp(80).await;
    cluster.pod("client").dials(web.vips()).times(10).is_refused().await;
    web.add("a").await;
    cluster.pod("client").dials(web.vips()).times(10).comes_to_reach_each_of(["a"]).await;
}

#[tokio::test]
async fn a_deleted_service_returns_with_its_present_endpoints() {
    let cluster = Cluster::start("recreate").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let other = cluster.service("other").tcp(80).backends(["o"]).await;
    let client = cluster.pod("client");
    let (held, _) = client.start().await.hold(web.vips().into(), 10).await.expect("it opens");

    web.delete();
    let untouched = |report: &Report| report.failures.keys().all(|failure| failure.ends_with("UNREACH"));
    tests::eventually("the address is no longer translated", async || {
        let report = client.clone().dials(web.vips()).times(2).report().await;
        anyhow::ensure!(report.failed() == 2 && untouched(&report), "{report:?}");
        Ok(())
    })
    .await;
    let echo = client.start().await.echo(held).await.expect("it answers");
    assert_eq!((echo.answered_by("a"), echo.failed()), (10, 0), "connections made before go on: {echo:?}");
    client.clone().dials(other.vips()).times(10).always_reaches_one_of(["o"]).await;

    // The slices change while there is no Service, and so precede it.
    web.add("b").await;
    web.remove("a");
    web.write();
    client.dials(web.vips()).times(ROUND).comes_to_reach_each_of(["b"]).await;
}

#[tokio::test]
async fn services_do_not_mix() {
    let cluster = Cluster::start("mix").nodes(2).await;
    let web = cluster.service("web").tcp(80).tcp(443).backends(["a", "b"]).await;
    let api = cluster.service("api").tcp(80).backends(["b", "c"]).await;
    let https = web.vips().map(|vip| SocketAddr::new(vip.ip(), 443));
    let client = cluster.pod("client");
    for (to, names) in [(web.vips(), ["a", "b"]), (https, ["a", "b"]), (api.vips(), ["b", "c"])] {
        let report = client.clone().dials(to).times(2 * ROUND).reaches_each_of(names).await;
        only(&report, &names).expect("no other backend answers");
    }
}
