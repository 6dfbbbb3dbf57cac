//! `portreeve explain` on a running node: its programs on its maps, then the model on the objects of its agent.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use proxy::datapath::{self, Access, MmapArray};
use proxy_ebpf::abi::{ABI_VERSION, BackendFlags, BackendV4, map};
use serde_json::Value;
use tests::{Cluster, agent::portreeve, node::Node, objects::Condition};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";
const HOUR: Duration = Duration::from_secs(3600);

/// A command beside the agent of a node, in its network namespace.
fn explain(node: &Node, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(portreeve()?);
    command.arg("explain").args(arguments);
    command.arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(node.setting().run_dir());
    node.netns().run(|| command.output().context("it starts"))
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// The explanation of a flow, in which programs and model agree.
fn agreed(node: &Node, from: IpAddr, to: SocketAddr, more: &[&str]) -> Result<Value> {
    let (from, to) = (from.to_string(), to.to_string());
    let output = explain(node, &[&["--from", &from, "--to", &to, "-o", "json"], more].concat())?;
    let value: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(output.status.success() && value["differs"] == Value::Array(Vec::new()), "{output:?}");
    Ok(value)
}

#[tokio::test]
async fn the_programs_tell_where_a_connection_goes() -> Result<()> {
    let cluster = Cluster::start("explain").flag(PODS).await;
    let node = cluster.node(0);
    let web = cluster.service("web").tcp(80).affinity(HOUR).backends(["a", "b", "c"]).await;
    web.set("c", Condition::Unready);
    let client = cluster.pod("client").start().await;
    let source = client.addresses.v4.into();
    tests::eventually("the endpoint is out", async || {
        let explained = agreed(node, source, web.vip(), &[])?;
        ensure!(explained["backends"].as_array().is_some_and(|all| all.len() == 2), "{explained:#}");
        Ok(())
    })
    .await;

    let explained = agreed(node, source, web.vip(), &[])?;
    let live = &explained["live"];
    ensure!(explained["result"] == "dnat" && explained["plane"] == "socket", "{explained:#}");
    ensure!(explained["frontend"]["service"] == "default/web", "{explained:#}");
    ensure!(live["affinity"]["backend"].is_null() && live["affinity"]["seconds"] == 3600, "{live:#}");
    ensure!(live["socket"]["verdict"] == "translated" && live["scope"] == "internal", "{live:#}");
    let out = live["excluded"].as_array().context("a list")?;
    let unready = cluster.pod("c").start().await.addresses.v4;
    let names_it = out[0]["endpoint"].as_str().is_some_and(|it| it.starts_with(&unready.to_string()));
    ensure!(out.len() == 1 && names_it && out[0]["reason"] == "not ready", "{live:#}");

    // The socket of the client gets a backend; from then on `explain` names it, and asking changes nothing.
    let report = cluster.pod("client").dials(web.vip()).times(1).report().await;
    let name = report.answers.keys().next().context("an answer")?.clone();
    let backend = SocketAddr::new(cluster.pod(&name).start().await.addresses.v4.into(), web.port(0).target);
    for _ in 0..20 {
        let live = agreed(node, source, web.vip(), &[])?["live"].clone();
        ensure!(live["affinity"]["backend"] == backend.to_string(), "{live:#}");
        ensure!(live["chosen"] == backend.to_string() && live["route"]["device"].is_string(), "{live:#}");
    }
    cluster.pod("client").dials(web.vip()).times(20).always_reaches_one_of([name.as_str()]).await;

    // Names, and every frontend of a Service.
    let address = web.vip().to_string();
    let pod = explain(node, &["--from", "default/a", "--to", &address])?;
    let table = text(&pod.stdout);
    for words in ["RESULT ", "SCOPE ", "AFFINITY ", "CHOSEN ", "OUT ", "DEVICE ", "SOCKET ", "MODEL "] {
        ensure!(table.lines().any(|line| line.starts_with(words)), "no line `{words}`:\n{table}");
    }
    let service = explain(node, &["default/web:80"])?;
    let table = text(&service.stdout);
    ensure!(service.status.success() && table.matches("RESULT").count() == 2, "{service:?}");
    let unknown = explain(node, &["default/web:81"])?;
    ensure!(text(&unknown.stderr).contains("no frontend of default/web:81"), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn each_refusal_has_its_name() -> Result<()> {
    let cluster = Cluster::start("refusals").nodes(2).flag(PODS).await;
    let node = cluster.node(0);
    let empty = cluster.service("empty").tcp(80).await;
    let far = cluster.service("far").tcp(80).node_port(30081).external_traffic_is_local().unawaited();
    far.backends(["far-a"]).await;
    let ranged = cluster.service("ranged").tcp(80).source_ranges(["192.0.2.0/24"]);
    let ranged = ranged.load_balancer_ips(["203.0.113.77".parse()?]).backends(["ranged-a"]).await;
    let outside: IpAddr = "198.51.100.9".parse()?;
    let client: IpAddr = cluster.pod("client").start().await.addresses.v4.into();
    let at_node = |port| SocketAddr::new(node.addresses.v4.into(), port);
    let vip = |port| SocketAddr::new(ranged.vip().ip(), port);
    let second = cluster.node(1);
    let at_second = SocketAddr::new(second.addresses.v4.into(), 30_081);
    for (node, from, to, result, reason) in [
        (node, client, empty.vip(), "reject", "no_endpoint"),
        (node, client, vip(81), "reject", "undefined_port"),
        (node, client, at_node(31_999), "none", "no_frontend"),
        (node, outside, "203.0.113.77:80".parse()?, "drop", "source_not_in_ranges"),
        (node, outside, at_node(30_081), "dnat", "translated"),
        (second, outside, at_second, "drop", "policy_has_no_local_endpoint"),
    ] {
        tests::eventually(&format!("{to} from {from}: {reason}"), async || {
            let explained = agreed(node, from, to, &[])?;
            let found = (&explained["result"], &explained["reason_code"]);
            ensure!(found == (&result.into(), &reason.into()), "{explained:#}");
            Ok(())
        })
        .await;
    }
    let mixed = explain(node, &["--from", "fd00::1", "--to", &empty.vip().to_string()])?;
    ensure!(text(&mixed.stdout).contains("differ in address family"), "{mixed:?}");
    Ok(())
}

#[tokio::test]
async fn a_dead_agent_is_no_obstacle_and_a_damaged_map_is_told() -> Result<()> {
    let cluster = Cluster::start("damage").flag(PODS).await;
    let node = cluster.node(0);
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let client: IpAddr = cluster.pod("client").start().await.addresses.v4.into();
    agreed(node, client, web.vip(), &[])?;

    let maps = datapath::maps_of(node.bpffs(), ABI_VERSION);
    let mut backends: MmapArray<BackendV4> = datapath::mapped(&maps, map::BACKENDS_V4, Access::Write)?;
    let address = cluster.pod("a").start().await.addresses.v4.octets();
    let mut found = None;
    for index in 0..backends.capacity() {
        if let Some(entry) = backends.read(index)?
            && entry.address == address
            && entry.flags.contains(BackendFlags::ALIVE)
        {
            found = Some((index, entry));
            break;
        }
    }
    let (index, entry) = found.context("the backend is in the map")?;
    backends.write(index, BackendV4 { port: 4711_u16.to_be_bytes(), ..entry })?;
    let arguments = ["--from", &client.to_string(), "--to", &web.vip().to_string()];
    let output = explain(node, &arguments)?;
    let (table, message) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(message.contains("the programs of this node and the model differ in backends"), "{message}");
    ensure!(message.lines().count() == 1 && table.contains(":4711"), "{message}{table}");
    let differs = table.lines().find(|line| line.starts_with("DIFFERS")).context(table.clone())?;
    ensure!(differs.contains(" backends: the programs say `"), "{table}");
    let json: Value =
        serde_json::from_slice(&explain(node, &[&arguments[..], &["-o", "json"]].concat())?.stdout)?;
    ensure!(json["differs"][0]["field"] == "backends" && json["model"]["result"] == "dnat", "{json:#}");
    // The next agent finds the maps and writes what differs.
    node.kill_agent().await?;
    node.start_agent().await?;
    tests::eventually("the map is repaired", async || agreed(node, client, web.vip(), &[]).map(drop)).await;

    node.kill_agent().await?;
    let output = explain(node, &arguments)?;
    let table = text(&output.stdout);
    ensure!(output.status.success(), "{output:?}");
    ensure!(
        table.contains("RESULT") && table.contains("dnat") && table.contains("of default/web"),
        "{table}"
    );
    ensure!(table.contains("could not be asked: no agent runs"), "{table}");
    let by_name = explain(node, &["--from", "default/a", "--to", &web.vip().to_string()])?;
    ensure!(text(&by_name.stderr).contains("no pod is known by name"), "{by_name:?}");
    ensure!(explain(node, &["default/web"])?.status.success(), "Services are known by the maps");
    Ok(())
}
