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
    list(node, "connections", "connections")
}

fn services(node: &Node) -> Result<Vec<Value>> {
    list(node, "services", "frontends")
}

fn list(node: &Node, resource: &str, list: &str) -> Result<Vec<Value>> {
    let mut command = Command::new(portreeve()?);
    let output = command.args(["get", resource, "-A", "-o", "json", "--bpffs"]).arg(node.bpffs()).output()?;
    ensure!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout)?;
    document[list].as_array().cloned().context("no list")
}

/// What the flows of a Service carried, by direction: of `get connections`, and of `get services`, which has what ended.
fn carried(node: &Node) -> Result<[[u64; 2]; 2]> {
    let bytes = |row: &Value| ["sent", "received"].map(|of| row[of]["bytes"].as_u64().unwrap_or_default());
    let sum = |rows: Vec<Value>, of: fn(&Value) -> &Value| {
        rows.iter().map(|row| bytes(of(row))).fold([0; 2], |[a, b], [c, d]| [a + c, b + d])
    };
    let of_flows = sum(connections(node)?, |row| row);
    // Each frontend of a service port has its counters.
    let services: Vec<Value> = services(node)?.into_iter().take(1).collect();
    Ok([of_flows, sum(services, |row| &row["flows"])])
}

/// A connection that goes on is counted, too.
#[tokio::test]
async fn traffic_is_counted_while_a_connection_goes_on() {
    const PAYLOAD: usize = 10_000;
    const HELD: u64 = 8;
    let cluster = Cluster::start("traffic").await;
    let frontends = Frontends::new(0);
    let _web = cluster.service("web").external_frontends(frontends).backends(["a"]).await;
    cluster.route_to_node(frontends.routed(), 0).await.unwrap_or_else(|error| panic!("{error:#}"));
    let node = cluster.node(0);
    let to = frontends.dialled(Kind::LoadBalancer, node.addresses);
    let client = cluster.client("client").start().await;
    let (held, report) = client.hold(to.into(), HELD as usize).await.expect("it opens");
    assert_eq!(report.failed(), 0, "{report:?}");
    assert_eq!(client.transfer(held, PAYLOAD).await.expect("it answers").failed(), 0);
    let least = HELD * PAYLOAD as u64;
    let [of_flows, _] = carried(node).expect("the tables can be read");
    assert!(of_flows.iter().all(|bytes| (least..2 * least).contains(bytes)), "{of_flows:?}");
    eventually("the sweep has added them to the Service", async || {
        let [of_flows, of_service] = carried(node)?;
        // Connections that ended before are no flows any more, or will not be for long.
        ensure!(of_service.iter().zip(of_flows).all(|(service, flows)| *service >= flows), "{of_service:?}");
        Ok(())
    })
    .await;
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
