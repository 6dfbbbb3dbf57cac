//! The dashboards of kube-proxy and CoreDNS have data of an agent in every panel, except those that the list names.

use anyhow::{Context as _, Result, ensure};
use hickory_server::proto::rr::RecordType;
use jiff::Timestamp;
use serde_json::json;
use tests::{
    Cluster,
    agent::{Agent, AgentSetting, Source},
    api_server::{
        ApiServer,
        objects::{node, service, slice},
    },
    cluster::pod_network,
    eventually,
    http::get,
    name_service::NameService,
    node::Node,
    objects::NAMESPACE,
    resolver::Resolver,
};

const LIST: &str = include_str!("../testdata/dashboards.txt");
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A selector of one panel.
struct Selector {
    panel: &'static str,
    metric: &'static str,
    labels: Vec<&'static str>,
    place: &'static str,
}

fn selectors() -> Result<Vec<Selector>> {
    let lines = LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let selector = |line: &'static str| {
        let fields: Vec<_> = line.split(" | ").collect();
        let [_, panel, metric, place] = fields[..] else { anyhow::bail!("{line}: four fields") };
        let mut words = metric.split(' ');
        let metric = words.next().context("a name")?;
        Ok(Selector { panel, metric, labels: words.collect(), place })
    };
    lines.map(selector).collect()
}

/// Errors: the first selector of a place without a series.
fn have_data(place: &str, text: &str) -> Result<()> {
    let mut count = 0;
    for Selector { panel, metric, labels, .. } in selectors()?.into_iter().filter(|one| one.place == place) {
        let is_of = |line: &&str| {
            let behind = line.strip_prefix(metric).filter(|rest| rest.starts_with(['{', ' ']));
            let has = |label: &&str| match label.split_once('=') {
                Some((name, value)) => line.contains(&format!("{name}=\"{value}\"")),
                None => line.contains(&format!("{label}=\"")),
            };
            behind.is_some() && labels.iter().all(has)
        };
        let found = text.lines().find(is_of);
        ensure!(found.is_some(), "`{panel}`: no {metric} with {labels:?} in\n{text}");
        count += 1;
    }
    ensure!(count > 0, "nothing is listed for {place}");
    Ok(())
}

/// What the list says to be absent is.
fn lack_data(text: &str) -> Result<()> {
    for Selector { metric, place, .. } in selectors()? {
        let exists = text
            .lines()
            .any(|line| line.starts_with(&format!("{metric}{{")) || line.starts_with(&format!("{metric} ")));
        let is_absent = matches!(place, "go" | "retired" | "prometheus");
        ensure!(!(exists && is_absent), "{metric} exists: it is not {place}");
        ensure!(is_absent || matches!(place, "agent" | "dns"), "{metric}: {place} is no place");
    }
    Ok(())
}

fn scrape(node: &Node, port: u16) -> Result<String> {
    Ok(get(node.netns(), ([127, 0, 0, 1], port).into(), "/metrics")?.body)
}

#[tokio::test]
async fn kube_proxys_dashboard_has_data_in_every_panel() -> Result<()> {
    let cluster = Cluster::start("dash-proxy").without_agents().build().await?;
    let server = ApiServer::start_in(cluster.node(0).netns())?;
    let name = cluster.node(0).name.clone();
    server.put_all([service("web", 1), slice("web", [1]), node(&name, "172.18.0.11")]);
    let source = Source::ApiServer(server.kubeconfig(cluster.directory())?);
    let setting = AgentSetting { source, ..cluster.node(0).setting().clone() };
    let mut agent = Agent::spawn(&setting, cluster.node(0).netns())?;
    agent.ready().await?;
    let mut changed = slice("web", [1, 2]);
    changed["metadata"]["annotations"] = json!({ TRIGGER: Timestamp::now().to_string() });
    server.put(&changed);
    eventually("every panel has data", async || {
        let text = scrape(cluster.node(0), 10249)?;
        have_data("agent", &text)?;
        lack_data(&text)
    })
    .await;
    agent.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn corednss_dashboard_has_data_in_every_panel() -> Result<()> {
    let names = NameService::new()?;
    names.forward_to(pod_network(1).host(100).v4.into())?;
    let metrics = "--dns-metrics-bind-address=127.0.0.1:9153";
    let cluster =
        names.configure(Cluster::start("dash-dns")).flag(metrics).flag("--dns-metrics-names=coredns").await;
    let serving = names.start(&cluster).await?;
    let peers = cluster.service("peers").tcp(80).headless().unawaited().backends(["a"]).await;
    let client = cluster.pod("client").start().await;
    let resolver = Resolver::new(&client, NAMESPACE, serving.vip.v4.into(), cluster.directory())?;
    let file = cluster.manifests().directory().join("peers.slice-ipv4.yaml");
    let slice: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    eventually("every panel has data", async || {
        // A change is measured if it is newer than the server.
        let mut slice = slice.clone();
        slice["metadata"]["annotations"] = json!({ TRIGGER: Timestamp::now().to_string() });
        cluster.manifests().write("peers.slice-ipv4.yaml", &slice)?;
        for name in ["peers.default.svc.cluster.local.", "www.example.org.", "www.example.org."] {
            resolver.query(name, RecordType::A)?;
        }
        let text = scrape(cluster.node(0), 9153)?;
        have_data("dns", &text)?;
        lack_data(&text)
    })
    .await;
    drop(peers);
    Ok(())
}
