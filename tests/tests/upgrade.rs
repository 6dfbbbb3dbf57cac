//! Agents replace each other under traffic, also across versions of the ABI.
//!
//! One story replaces the agent by one of another release, whose binary `$PORTREEVE_PREVIOUS` names; without it the story prints
//! that it was skipped.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use proxy::datapath::{maps_of, pin_name, pinned_map};
use proxy_ebpf::abi::{ABI_VERSION, MAPS};
use tests::{Cluster, pod::Dialling, service::Service, traffic::How};

/// Connections open during the whole story, over both families.
const CONNECTIONS: usize = 10_000;

#[tokio::test]
async fn long_lived_connections_outlive_an_upgrade_and_the_way_back() {
    let [next, present] = [ABI_VERSION + 1, ABI_VERSION].map(|version| version.to_string());
    replace_under_traffic(
        "upgrade",
        &[(None, &[]), (None, &["--abi-version", &next]), (None, &["--abi-version", &present])],
    )
    .await;
}

#[tokio::test]
async fn connections_outlive_an_upgrade_from_another_release_and_the_way_back() {
    let Some(previous) = env::var_os("PORTREEVE_PREVIOUS").map(PathBuf::from) else {
        eprintln!("upgrade from another release: skipped, as $PORTREEVE_PREVIOUS names no binary");
        return;
    };
    let previous = Some(&*previous);
    replace_under_traffic("releases", &[(previous, &[]), (None, &[]), (previous, &[]), (None, &[])]).await;
}

/// An agent: its binary, `None` for the one that was built with the tests, and its options.
type Successor<'a> = (Option<&'a Path>, &'a [&'a str]);

/// Replaces the agent by each successor in turn. No connection breaks that was opened under the first, no new one fails, and the maps
/// are the same after all of them.
async fn replace_under_traffic(name: &str, successors: &[Successor<'_>]) {
    let cluster = Cluster::start(name).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b", "c"]).await;
    let node = cluster.node(0);
    let before = node.state().expect("the maps are pinned");
    let [(first, options), successors @ ..] = successors else { return };
    node.replace_agent_by(*first, options).await.expect("it takes over");
    let client = cluster.pod("client").start().await;
    let (held, opened) = client.hold(web.vips().into(), CONNECTIONS).await.expect("it opens");
    assert_eq!((opened.answered(), opened.failed()), (CONNECTIONS as u64, 0), "{:?}", opened.failures);
    let dials = cluster.pod("dialler").dials(web.vips()).at_once(2).every(Duration::from_millis(1));
    let traffic = dials.in_background().await;

    for (binary, options) in successors {
        node.replace_agent_by(*binary, options).await.expect("it takes over");
        let echoes = client.echo(held).await.expect("it answers");
        assert_eq!(echoes.failed(), 0, "after the change to {binary:?} {options:?}: {:?}", echoes.failures);
    }
    assert_eq!(node.state().expect("the maps are pinned"), before, "there and back nothing changed");
    let report = traffic.stop().await.expect("it answers");
    assert!(report.attempts > 0 && report.failures.is_empty(), "{report:?}");
    // The new agent applies changes: its state is not stale.
    web.remove("a");
    cluster.pod("client").dials(web.vips()).times(40).comes_to_reach_each_of(["b", "c"]).await;
}

/// Larger tables replace those of the earlier agent while connections through the packet plane are open, and others begin all the
/// time.
async fn tables_grow(how: &str) {
    let name = format!("grow-{how}");
    let cluster = Cluster::start(&name).flag("--socket-lb=off").flag(&format!("--tc={how}")).await;
    let web = cluster.service("web").tcp(80).udp(53).backends(["a", "b", "c"]).await;
    let node = cluster.node(0);
    let client = cluster.pod("client").start().await;
    let (held, opened) = client.hold(web.vips().into(), 1000).await.expect("it opens");
    assert_eq!((opened.answered(), opened.failed()), (1000, 0), "{:?}", opened.failures);
    // The device of the pod has its programs.
    cluster.pod("dialler").dials(web.vips()).times(60).comes_to_reach_each_of(["a", "b", "c"]).await;
    let dials = cluster.pod("dialler").dials(web.vips()).at_once(50).every(Duration::from_millis(1));
    let traffic = dials.in_background().await;
    let datagrams = datagrams(&cluster, web.port(1).port, &web).await;
    let before = node.state().expect("the maps are pinned");
    for flows in ["--max-flows=150000", "--max-flows=160000", "--max-flows=170000"] {
        node.replace_agent(&[flows]).await.expect("it takes over");
    }
    let grown = [
        "--max-flows=200000",
        "--max-frontends=140000",
        "--max-backends=300000",
        "--max-slots=600000",
        "--max-service-ports=70000",
    ];
    for options in [&grown[..], &[]] {
        node.replace_agent(options).await.expect("it takes over");
        let echoes = client.echo(held).await.expect("it answers");
        assert_eq!(echoes.failed(), 0, "after {options:?}: {:?}", echoes.failures);
        let entries = ["FLOWS_V6", "CONNTRACK_V4", "FRONTENDS_V4", "BACKENDS_V6", "SLOTS", "SERVICES"];
        let sizes = entries.map(|name| capacity(node.bpffs(), name));
        assert_eq!(sizes, [200_000, 200_000, 140_000, 300_000, 600_000, 70_000], "after {options:?}");
    }
    assert_eq!(node.state().expect("the maps are pinned"), before);
    let log = fs::read_to_string(&node.setting().log).expect("the agent logs");
    assert!(log.contains("copied flows to other tables"), "{log}");
    for traffic in datagrams.into_iter().chain([traffic]) {
        let report = traffic.stop().await.expect("it answers");
        assert!(report.attempts > 0 && report.failures.is_empty(), "{report:?}");
        assert_eq!(report.slow, 0, "a packet was lost: {report:?}");
    }
    web.remove("a");
    cluster.pod("client").dials(web.vips()).times(40).comes_to_reach_each_of(["b", "c"]).await;
}

/// Datagrams of new sockets, and of two that stay open.
async fn datagrams(cluster: &Cluster, port: u16, service: &Service<'_>) -> [Dialling; 2] {
    let to = service.vips().map(|vip| SocketAddr::new(vip.ip(), port));
    let dials = |how| cluster.pod("dialler").dials(to).how(how).at_once(2).every(Duration::from_millis(1));
    [dials(How::ConnectedUdp).in_background().await, dials(How::OneConnectedUdp).in_background().await]
}

/// The change from filters to links: for a moment both are at each hook. The way back adds qdiscs, and the kernel drops what is sent
/// to a device meanwhile.
#[tokio::test]
async fn flows_outlive_the_change_from_filters_to_links() {
    let cluster = Cluster::start("mechanisms").flag("--socket-lb=off").without_agents().await;
    let node = cluster.node(0);
    node.start_agent_with(&["--tc=clsact"]).await.expect("it starts");
    let service = cluster.service("web").tcp(80).udp(53).backends(["a", "b", "c"]);
    let web = service.create().await.expect("it is written");
    web.wait_programmed().await.expect("it is served");
    // The device of the pod has its programs.
    cluster.pod("dialler").dials(web.vips()).times(60).comes_to_reach_each_of(["a", "b", "c"]).await;
    let dials = cluster.pod("dialler").dials(web.vips()).at_once(2).every(Duration::from_millis(1));
    let traffic = dials.in_background().await;
    let datagrams = datagrams(&cluster, web.port(1).port, &web).await;
    node.replace_agent(&["--tc=tcx"]).await.expect("it takes over");
    for traffic in datagrams.into_iter().chain([traffic]) {
        let report = traffic.stop().await.expect("it answers");
        assert!(report.attempts > 0 && report.failures.is_empty(), "{report:?}");
        assert_eq!(report.slow, 0, "a packet was lost: {report:?}");
    }
}

#[tokio::test]
async fn tables_grow_under_open_connections_through_links() {
    tables_grow("tcx").await;
}

#[tokio::test]
async fn tables_grow_under_open_connections_through_filters() {
    tables_grow("clsact").await;
}

/// The entries of a pinned map.
fn capacity(bpffs: &Path, name: &str) -> u32 {
    let spec = MAPS.iter().find(|spec| spec.name == name).expect("it is in the table");
    pinned_map(&maps_of(bpffs, ABI_VERSION).join(pin_name(spec))).expect("it is pinned").capacity
}

#[tokio::test]
async fn affinity_outlives_an_upgrade() {
    let cluster = Cluster::start("upgrade-affinity").await;
    let builder = cluster.service("web").tcp(80).affinity(Duration::from_secs(600));
    let web = builder.backends(["a", "b", "c", "d", "e", "f"]).await;
    let client = cluster.pod("client");
    let first = client.clone().dials(web.vip()).times(5).report().await;
    let chosen: Vec<_> = first.answers.keys().cloned().collect();
    assert_eq!(chosen.len(), 1, "{first:?}");
    let next = (ABI_VERSION + 1).to_string();
    cluster.node(0).replace_agent(&["--abi-version", &next]).await.expect("it takes over");
    let again = client.clone().dials(web.vip()).times(20).report().await;
    assert_eq!(again.answers.keys().cloned().collect::<Vec<_>>(), chosen);
}

#[tokio::test]
async fn an_agent_that_waited_starts_with_the_present_objects() {
    let cluster = Cluster::start("takeover").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let dials = cluster.pod("dialler").dials(web.vips()).at_once(2).every(Duration::from_millis(1));
    let traffic = dials.in_background().await;
    for name in ["b", "c"] {
        cluster.node(0).replace_agent(&[]).await.expect("it takes over");
        web.add(name).await;
    }
    cluster.pod("client").dials(web.vips()).times(90).comes_to_reach_each_of(["a", "b", "c"]).await;
    let report = traffic.stop().await.expect("it answers");
    assert!(report.attempts > 0 && report.failures.is_empty(), "{report:?}");
}
