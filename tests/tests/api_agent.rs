//! An agent with an API server as its source: objects and timestamps that only such a server has.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use tests::{
    Cluster,
    agent::{Agent, AgentSetting, Source, tail},
    api_server::{
        ApiServer,
        objects::{node, service, slice},
    },
    eventually,
    http::get,
    node::Node,
};

/// A cluster of one node without an agent, and an API server.
async fn fixture(name: &str) -> Result<(Cluster, ApiServer, AgentSetting)> {
    let cluster = Cluster::start(name).without_agents().build().await?;
    let server = ApiServer::start_in(cluster.node(0).netns())?;
    server.put_all([service("web", 1), slice("web", [1, 2])]);
    let setting = AgentSetting {
        source: Source::ApiServer(server.kubeconfig(cluster.directory())?),
        ..cluster.node(0).setting().clone()
    };
    Ok((cluster, server, setting))
}

/// The value of a series of the agent's metrics endpoint.
fn metric(node: &Node, series: &str) -> Result<f64> {
    let text = get(node.netns(), SocketAddr::from(([127, 0, 0, 1], 10249)), "/metrics")?.body;
    let line = text.lines().find(|line| line.starts_with(series)).with_context(|| format!("no {series}"))?;
    let (_, value) = line.rsplit_once(' ').context("a series without a value")?;
    Ok(value.parse()?)
}

/// A slice with the trigger time annotation (`endpoints.kubernetes.io/last-change-trigger-time`).
fn triggered(mut slice: Value, time: Timestamp) -> Value {
    let time = time.to_string();
    slice["metadata"]["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": time});
    slice
}

#[tokio::test]
async fn c14_the_time_since_a_pod_changed_is_measured_by_the_slice() -> Result<()> {
    let (cluster, server, setting) = fixture("trigger-time").await?;
    let here = cluster.node(0);
    // Triggered before the agent's start: no latency is measured.
    let long_ago = Timestamp::now() - Duration::from_secs(3600);
    server.put(&triggered(slice("web", [1, 2]), long_ago));
    let mut agent = Agent::spawn(&setting, here.netns())?;
    agent.ready().await?;
    let series =
        |kind: &str| format!("kubeproxy_network_programming_duration_seconds_{kind}{{ip_family=\"IPv4\"}}");
    ensure!(metric(here, &series("count")).unwrap_or_default() == 0.0, "a change of long ago counts");

    let change = Timestamp::now();
    server.put(&triggered(slice("web", [1, 2, 3]), change));
    eventually("the change is counted once", async || {
        ensure!(metric(here, &series("count"))? == 1.0);
        Ok(())
    })
    .await;
    let took = metric(here, &series("sum"))?;
    let at_most = Timestamp::now().duration_since(change).as_secs_f64();
    ensure!(took > 0.0 && took <= at_most, "{took} s, and the change is {at_most} s old");

    // A deleted slice without a trigger time adds nothing.
    server.delete("endpointslices", "default", "web-x7k2p");
    server.put(&service("later", 2));
    eventually("the later Service is there", async || {
        ensure!(metric(here, "portreeve_frontends ")? == 2.0);
        Ok(())
    })
    .await;
    ensure!(metric(here, &series("count"))? == 1.0);
    agent.terminate().await?;
    Ok(())
}

/// With `NodeCIDR`, pods are recognised by the Node object's CIDRs: the agent waits for them and exits if they change.
#[tokio::test]
async fn q2_r1_the_pod_networks_of_the_node_are_waited_for_and_stay() -> Result<()> {
    let (cluster, server, setting) = fixture("pod-cidrs").await?;
    let here = cluster.node(0);
    let joined = |network: Option<&str>| {
        let mut node = node(&here.name, "172.18.0.11");
        if let Some(network) = network {
            node["spec"] = json!({"podCIDR": network, "podCIDRs": [network]});
        }
        node
    };
    server.put(&joined(None));
    let mut command = setting.command()?;
    command.arg("--detect-local-mode=NodeCIDR");
    command
        .stdout(fs::File::create(&setting.log)?)
        .stderr(fs::File::options().append(true).open(&setting.log)?);
    let mut agent = setting.start(command, here.netns())?;
    let says = |text: &'static str| {
        let log = setting.log.clone();
        move || -> Result<()> {
            ensure!(fs::read_to_string(&log)?.contains(text), "{}", tail(&log, 20));
            Ok(())
        }
    };
    let waits = says("waiting for the pod CIDRs");
    eventually("it waits", async || waits()).await;
    ensure!(says("ready")().is_err(), "it does not go on without them");

    server.put(&joined(Some("10.128.0.0/24")));
    let is_ready = says("ready");
    eventually("it is ready", async || is_ready()).await;
    server.put(&joined(Some("10.129.0.0/24")));
    let ended = agent.ended().await?;
    ensure!(ended.code() == Some(1), "it ended with {ended}");
    says("the podCIDRs of node")()
}
