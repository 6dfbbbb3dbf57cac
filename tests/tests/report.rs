//! `portreeve report` of a node with a data plane, and the commands that answer from its archive elsewhere.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Cluster, agent::portreeve, name_service::NameService, node::Node};

const FIREWALL_TOOLS: [&str; 3] = ["nft", "iptables-save", "ip6tables-save"];

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn run(mut command: Command) -> Result<String> {
    let output: Output = command.output().context("it starts")?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(text(&output.stdout))
}

/// A command beside the agent of a node.
fn live(node: &Node, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(portreeve()?);
    command.args(arguments).arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(node.setting().run_dir());
    node.netns().run(|| run(command))
}

/// A command on an archive, in a directory without anything else.
fn offline(archive: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(portreeve()?);
    command.args(arguments).arg("--report").arg(archive);
    run(command)
}

fn report(node: &Node, directory: &Path, name: &str, more: &[&str]) -> Result<PathBuf> {
    let archive = directory.join(name);
    let path = archive.to_str().context("it is a text")?;
    live(node, &[&["report", "--events", "1", "--output", path], more].concat())?;
    Ok(archive)
}

/// A file of an archive, as tar(1) shows it.
fn file(archive: &Path, name: &str) -> Result<String> {
    let mut command = Command::new("tar");
    command.arg("-xzOf").arg(archive).arg(format!("portreeve-report/{name}"));
    run(command)
}

#[tokio::test]
async fn a_report_answers_as_the_node_does() -> Result<()> {
    let names = NameService::new()?;
    let cluster = names.configure(Cluster::start("report")).await;
    let serving = names.start(&cluster).await?;
    let hour = std::time::Duration::from_secs(3600);
    let web = cluster.service("web").tcp(80).affinity(hour).backends(["a", "b"]).await;
    let peers = cluster.service("peers").tcp(80).headless().unawaited().backends(["c"]).await;
    cluster.pod("vm").sandboxed_on(0).dials(web.vip()).times(3).report().await;
    let node = cluster.node(0);
    let directory = tempfile::tempdir()?;
    let archive = report(node, directory.path(), "a.tar.gz", &[])?;

    for resource in ["services", "backends", "affinity", "connections"] {
        let all = ["get", resource, "-o", "json"];
        let json = |text: String| -> Result<Value> { Ok(serde_json::from_str(&text)?) };
        let (here, there) = (json(live(node, &all)?)?, json(offline(&archive, &all)?)?);
        let rows = |value: &Value| -> Result<Vec<String>> {
            let rows = value.as_object().and_then(|fields| fields.values().find_map(Value::as_array));
            Ok(rows.context("a list")?.iter().map(|row| without_time(row.clone()).to_string()).collect())
        };
        ensure!(rows(&here)? == rows(&there)? && !rows(&there)?.is_empty(), "{here:#} {there:#}");
    }
    let table = offline(&archive, &["get", "services", "web"])?;
    ensure!(table.contains("default/web") && !table.contains("kube-system/"), "{table}");

    let to = web.vip().to_string();
    let client: IpAddr = cluster.pod("client").start().await.addresses.v4.into();
    let explained = offline(&archive, &["explain", "--from", &client.to_string(), "--to", &to])?;
    ensure!(explained.contains("dnat") && explained.contains("of default/web"), "{explained}");
    let name = offline(&archive, &["explain", "--dns", "peers"])?;
    let of_peers = cluster.pod("c").start().await.addresses.v4.to_string();
    ensure!(name.contains(&of_peers), "a headless Service, which only the name server knows: {name}");
    drop(peers);
    let plan = offline(&archive, &["plan"])?;
    ensure!(plan.contains("default/web") && plan.contains("served on this node"), "{plan}");
    ensure!(serving.vip.v4.to_string().len() > 6);

    let programs = file(&archive, "programs.json")?;
    for hook in ["connect4", "tc_pod_ingress", "tc_loopback_egr"] {
        ensure!(programs.contains(hook), "{hook} is not in {programs}");
    }
    for (name, words) in [
        ("log.txt", " ready frontends="),
        ("events.jsonl", ""),
        ("metrics.txt", "portreeve_table_capacity"),
        ("flags.txt", "--node-name"),
        ("corefile.txt", "kubernetes"),
        ("status.json", "\"agent\""),
        ("routes.txt", "unicast"),
        ("rules.txt", "from all"),
        ("sysctls.txt", "net.ipv4.ip_forward = 1"),
        ("pins.txt", "links/connect4\n"),
        ("kernel.json", "\"release\""),
        ("check.json", "\"verdict\""),
    ] {
        let content = file(&archive, name)?;
        ensure!(content.contains(words), "`{words}` is not in {name}:\n{content}");
    }
    // Not every machine has the tools that print firewall rules.
    let missing = file(&archive, "missing.txt")?;
    let is_tool =
        |line: &str| FIREWALL_TOOLS.iter().any(|tool| line.contains(&format!("cannot run {tool}:")));
    ensure!(missing.lines().all(is_tool), "{missing}");

    let hidden = report(node, directory.path(), "hidden.tar.gz", &["--anonymize"])?;
    for name in ["objects.yaml", "log.txt", "metrics.txt", "maps/services.json", "status.json"] {
        let content = file(&hidden, name)?;
        let is_there = content.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "peers");
        ensure!(!is_there, "{name}:\n{content}");
    }
    ensure!(offline(&hidden, &["plan"])?.contains(&web.vip().ip().to_string()), "addresses stay");
    Ok(())
}

/// Without fields that pass with time, and without traffic, which is added later.
fn without_time(mut row: Value) -> Value {
    const TRAFFIC: [&str; 4] = ["flows", "tcp", "sent", "received"];
    if let Some(fields) = row.as_object_mut() {
        fields.retain(|field, _| !field.ends_with("_seconds") && !TRAFFIC.contains(&field.as_str()));
    }
    row
}

#[tokio::test]
async fn a_report_without_an_agent_has_the_maps() -> Result<()> {
    let cluster = Cluster::start("report-gone").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    node.kill_agent().await?;
    let directory = tempfile::tempdir()?;
    let archive = report(node, directory.path(), "a.tar.gz", &[])?;
    ensure!(offline(&archive, &["get", "services"])?.contains(&web.vip().ip().to_string()));
    let missing = file(&archive, "missing.txt")?;
    let objects = missing.lines().find(|line| line.starts_with("objects.yaml: ")).context(missing.clone())?;
    ensure!(objects.contains("no agent runs"), "{objects}");
    ensure!(file(&archive, "status.json")?.contains("last_alive"));
    ensure!(fs::metadata(&archive)?.len() < 1 << 20, "a small node has a small report");
    Ok(())
}
