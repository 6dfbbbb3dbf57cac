//! `--socket-lb` modes, and the repair of detached programs. With the packet plane, clients without socket translation are
//! served by packets.

use std::fs;

use anyhow::ensure;
use tests::{Cluster, agent::VERIFICATION, eventually::within};

/// Disables the packet plane: without socket translation there is none.
const NO_DEVICES: [&str; 2] = ["--devices=none", "--pod-devices=none"];

#[tokio::test]
async fn host_only_does_not_translate_sockets_of_pods() {
    let [external, pod] = NO_DEVICES;
    let cluster = Cluster::start("host-only").flag("--socket-lb=host-only").flag(external).flag(pod).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).unawaited().await;
    cluster.pod("agent").on_host(0).dials(web.vips()).times(40).comes_to_reach_each_of(["a", "b"]).await;
    let report = cluster.pod("client").dials(web.vips()).times(4).report().await;
    assert_eq!((report.answered(), report.failed()), (0, 4), "{report:?}");
}

#[tokio::test]
async fn pods_without_socket_translation_are_served_by_packets() {
    for how in ["--socket-lb=host-only", "--socket-lb=off"] {
        let cluster = Cluster::start("by-packets").flag(how).await;
        let web = cluster.service("web").tcp(80).backends(["a", "b"]).unawaited().await;
        cluster.pod("client").dials(web.vips()).times(40).comes_to_reach_each_of(["a", "b"]).await;
    }
}

#[tokio::test]
async fn off_translates_no_sockets() {
    let [external, pod] = NO_DEVICES;
    let cluster = Cluster::start("off").flag("--socket-lb=off").flag(external).flag(pod).await;
    let web = cluster.service("web").tcp(80).backends(["a"]).unawaited().await;
    for client in [cluster.pod("client"), cluster.pod("host").on_host(0)] {
        let report = client.dials(web.vips()).times(4).report().await;
        assert_eq!(report.answered(), 0, "{report:?}");
    }
}

#[tokio::test]
async fn a_detached_hook_is_attached_again() {
    let [external, pod] = NO_DEVICES;
    let cluster = Cluster::start("repair").flag(external).flag(pod).await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    for hook in ["connect4", "connect6"] {
        fs::remove_file(node.bpffs().join("links").join(hook)).expect("it is pinned");
    }
    // They may be attached again at once: only the log shows that they were missing.
    for hook in ["connect4", "connect6"] {
        let back = within(VERIFICATION, "it is attached again", async || {
            let log = fs::read_to_string(&node.setting().log)?;
            let is_logged = |line: &str| line.contains("attached again") && line.contains(hook);
            ensure!(log.lines().any(is_logged), "{hook} is not named: {log}");
            Ok(())
        });
        back.await.unwrap_or_else(|error| panic!("{error:#}"));
    }
    cluster.pod("client").dials(web.vips()).times(10).reaches_each_of(["a"]).await;
}
