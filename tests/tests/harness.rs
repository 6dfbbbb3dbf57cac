//! The harness itself: its clusters carry traffic and leave nothing behind.

#![expect(clippy::unwrap_used, reason = "a story that cannot go on shall panic")]

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use tests::{
    Cluster, PodRef, firewall, mounts,
    pod_network::PodNetwork,
    traffic::{How, Protocol},
};

const PORT: u16 = 8080;

/// Both addresses of a pod that serves TCP and UDP.
async fn serving(pod: PodRef<'_>) -> [SocketAddr; 2] {
    let pod = pod.start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        pod.serve(protocol, PORT).await.unwrap();
    }
    pod.addresses.both().map(|address| SocketAddr::new(address, PORT))
}

#[tokio::test]
async fn pods_reach_each_other_across_nodes_over_both_families() {
    let cluster = Cluster::start("reach").nodes(2).without_agents().await;
    let near = serving(cluster.pod("near")).await;
    let far = serving(cluster.pod("far").on(1)).await;
    for how in [How::Tcp, How::MappedTcp, How::Http, How::ConnectedUdp, How::UnconnectedUdp] {
        cluster.pod("client").dials(near).how(how).times(4).always_reaches_one_of(["near"]).await;
        let report = cluster.pod("client").dials(far).how(how).times(4).always_reaches_one_of(["far"]).await;
        assert_eq!(report.answered_by("far"), 4, "{how:?}");
    }
}

#[tokio::test]
async fn every_form_of_pod_network_carries_traffic_and_keeps_its_source() {
    for network in PodNetwork::ALL {
        let cluster = Cluster::start("networks").nodes(2).pod_network(network).without_agents().await;
        let near = serving(cluster.pod("near").sandboxed_on(0)).await;
        let far = serving(cluster.pod("far").on(1)).await;
        let client = cluster.pod("client");
        let own = client.start().await.addresses;
        for how in [How::Tcp, How::ConnectedUdp] {
            for (name, to) in [("near", near), ("far", far)] {
                let report = client.clone().dials(to).how(how).times(2).reaches_each_of([name]).await;
                let sources: Vec<_> = report.answers[name].sources.keys().copied().collect();
                assert_eq!(sources, own.both(), "{network:?} {how:?} {name}");
            }
            // The masquerade address belongs to the node.
            for (to, is_here) in [(near, true), (far, false)] {
                let report = cluster.pod("host").on_host(0).dials(to).how(how).times(2).report().await;
                let sources = report.answers.values().flat_map(|answers| answers.sources.keys().copied());
                let want = network.masquerade(cluster.node(0).addressing(), is_here).both();
                assert_eq!(sources.collect::<Vec<_>>(), want, "{network:?} {how:?} from the host");
            }
        }
    }
}

#[tokio::test]
async fn a_firewall_applies_its_rules() {
    let cluster = Cluster::start("firewall").without_agents().await;
    let a = serving(cluster.pod("a")).await;
    let rules = format!(
        "table inet story {{
            counter denied {{}}
            chain forward {{ type filter hook forward priority 0; ip daddr {} counter name denied drop; }}
        }}",
        a[0].ip()
    );
    firewall::filter(cluster.node(0).netns(), &rules).unwrap();
    let client = cluster.client("client");
    client.clone().dials(a[1]).always_reaches_one_of(["a"]).await;
    let report = client.dials(a[0]).timeout_after(Duration::from_millis(100)).report().await;
    assert_eq!(report.failures.keys().collect::<Vec<_>>(), ["connect: timed out"]);
    assert_eq!(firewall::counted(cluster.node(0).netns(), "story", "denied").unwrap(), 1);
}

#[tokio::test]
async fn hosts_and_clients_outside_reach_the_nodes() {
    let cluster = Cluster::start("outside").nodes(2).without_agents().await;
    let host = serving(cluster.pod("host").on_host(1)).await;
    cluster.client("client").dials(host).times(4).always_reaches_one_of(["host"]).await;
    cluster.pod("neighbour").on_host(0).dials(host).times(4).always_reaches_one_of(["host"]).await;
}

#[tokio::test]
async fn an_untranslated_service_fails_at_once() {
    let cluster = Cluster::start("untranslated").without_agents().await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let report = cluster.pod("client").dials(web.vips()).times(8).report().await;
    assert_eq!(
        report.failures.keys().collect::<Vec<_>>(),
        ["connect: EHOSTUNREACH", "connect: ENETUNREACH"],
        "{report:?}"
    );
    assert_eq!(report.failed(), 8);
}

#[tokio::test]
async fn a_stopped_server_refuses_and_returns() {
    let cluster = Cluster::start("stop").without_agents().await;
    let a = serving(cluster.pod("a")).await;
    let client = cluster.pod("client");
    let (held, opened) = client.start().await.hold(a.into(), 10).await.unwrap();
    assert_eq!((opened.answered_by("a"), opened.failed()), (10, 0), "{opened:?}");
    assert_eq!(client.start().await.echo(held).await.unwrap().answered_by("a"), 10);

    let pod = cluster.pod("a").start().await;
    pod.stop(Protocol::Tcp, PORT).await.unwrap();
    client.clone().dials(a).times(4).is_refused().await;
    assert_eq!(client.start().await.echo(held).await.unwrap().failed(), 10);
    pod.serve(Protocol::Tcp, PORT).await.unwrap();
    client.dials(a).times(4).always_reaches_one_of(["a"]).await;
}

#[tokio::test]
async fn dials_in_the_background_are_counted() {
    let cluster = Cluster::start("background").without_agents().await;
    let a = serving(cluster.pod("a")).await;
    let dialling = cluster.pod("client").dials(a).at_once(4).in_background().await;
    tests::eventually("a hundred connections", async || {
        let report = dialling.progress().await?;
        anyhow::ensure!(report.answered() >= 100, "{report:?}");
        Ok(())
    })
    .await;
    cluster.pod("a").start().await.stop(Protocol::Tcp, PORT).await.unwrap();
    tests::eventually("a refusal", async || {
        let report = dialling.progress().await?;
        anyhow::ensure!(report.failures.contains_key("connect: ECONNREFUSED"), "{report:?}");
        Ok(())
    })
    .await;
    let report = dialling.stop().await.unwrap();
    assert_eq!(report.attempts, report.answered() + report.failed());
}

/// A bridge once took the MAC address of a new pod's port, and traffic between nodes stalled for seconds.
#[tokio::test]
async fn new_pods_disturb_no_traffic() {
    let cluster = Cluster::start("disturb").nodes(2).without_agents().await;
    let far = serving(cluster.pod("far").on(1)).await;
    let dialling = cluster.pod("client").dials(far).in_background().await;
    for index in 0..12 {
        cluster.pod(&format!("new-{index}")).on(index % 2).start().await;
    }
    let report = dialling.stop().await.unwrap();
    assert!(report.failures.is_empty() && report.latency.max_us < 900_000, "{report:?}");
}

#[tokio::test]
async fn nothing_is_left() {
    let cluster = Cluster::start("left").nodes(2).without_agents().await;
    serving(cluster.pod("a")).await;
    serving(cluster.pod("host").on_host(1)).await;
    let processes: Vec<_> = cluster.all_pods().iter().map(|pod| pod.id()).collect();
    let group = cluster.cgroup().path().to_owned();
    let pins: Vec<_> = cluster.nodes().iter().map(|node| node.bpffs().to_owned()).collect();
    let manifests = cluster.manifests().directory().to_owned();
    assert!(group.starts_with(mounts::cgroup2().unwrap()) && group.exists());
    assert!(pins.iter().chain([&manifests]).all(|path| path.exists()));

    drop(cluster);
    for process in processes {
        assert!(!Path::new("/proc").join(process.to_string()).exists(), "process {process} lives on");
    }
    for path in pins.iter().chain([&manifests, &group]) {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

#[tokio::test]
async fn nothing_is_left_when_a_story_panics() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let story = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::start("panic").without_agents().await;
            serving(cluster.pod("a")).await;
            tell.send((cluster.cgroup().path().to_owned(), cluster.all_pods()[0].id())).unwrap();
            panic!("the story fails, as this one shall");
        });
    });
    let (group, process) = told.await.unwrap();
    assert!(story.join().is_err());
    assert!(!group.exists(), "{} is left", group.display());
    assert!(fs::metadata(format!("/proc/{process}")).is_err(), "process {process} lives on");
}
