//! The connection tracking table under flows from outside the cluster.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{
    Cluster,
    agent::portreeve,
    eventually,
    frontends::{Frontends, Kind},
    node::Node,
    traffic::How,
};

fn connections(node: &Node) -> Result<Vec<Value>> {
    let mut command = Command::new(portreeve()?);
    let output =
        command.args(["get", "connections", "-A", "-o", "json", "--bpffs"]).arg(node.bpffs()).output()?;
    ensure!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout)?;
    document["connections"].as_array().cloned().context("no list of connections")
}

/// The sweep is a BPF timer: entries expire without any process.
#[tokio::test]
async fn expired_entries_are_deleted_without_an_agent() {
    let cluster = Cluster::start("sweeper")
        .flag("--conntrack-udp-timeout=1s")
        .flag("--conntrack-udp-timeout-stream=1s")
        .await;
    let frontends = Frontends::new(0);
    let _web = cluster.service("web").external_frontends(frontends).backends(["a"]).await;
    cluster.route_to_node(frontends.routed(), 0).await.unwrap_or_else(|error| panic!("{error:#}"));
    let node = cluster.node(0);
    let to = frontends.dialled(Kind::LoadBalancer, node.addresses);
    cluster.client("client").dials(to).how(How::ConnectedUdp).times(8).always_reaches_one_of(["a"]).await;
    node.kill_agent().await.expect("it ends");
    cluster.client("client").dials(to).how(How::ConnectedUdp).times(8).always_reaches_one_of(["a"]).await;
    let held = connections(node).expect("the tables can be read");
    assert!(!held.is_empty(), "flows are followed without an agent");
    eventually("expired flows are gone", async || {
        let held = connections(node)?;
        ensure!(held.is_empty(), "{held:?}");
        Ok(())
    })
    .await;
}
