//! The faults of docs/troubleshooting.md on nodes that run, each told by one command: by its identifier and within its words.
//! Those of an API server are in `conditions.rs`.

#[path = "faults/agents.rs"]
mod agents;
#[path = "faults/asked.rs"]
mod asked;
#[path = "faults/names.rs"]
mod names;
#[path = "faults/nodes.rs"]
mod nodes;
#[path = "faults/objects.rs"]
mod objects;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use asked::{command, status, text};
use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;
use tests::{
    Cluster,
    agent::{Agent, AgentSetting, portreeve},
    eventually, firewall,
    http::get,
    traffic::Protocol,
};

#[tokio::test]
async fn a_backend_that_refuses_and_one_that_is_silent_are_named() -> Result<()> {
    let cluster = Cluster::start("fault-backend").await;
    let web = cluster.service("web").tcp(80).backends(["sound", "refusing", "silent"]).await;
    let all = ["connectivity", "--service", "default/web"];
    let output = command(cluster.node(0), &all)?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(text(&output.stdout) == "8 of 8 connections succeeded\n", "{output:?}");

    let pod = async |name| cluster.pod(name).start().await;
    let (refusing, silent) = (pod("refusing").await, pod("silent").await);
    let target = web.port(0).target;
    refusing.stop(Protocol::Tcp, target).await?;
    let drops = format!(
        "table inet fault {{ chain input {{ type filter hook input priority 0; tcp dport {target} drop\n }}\n }}"
    );
    firewall::filter(silent.netns(), &drops)?;
    let output = command(cluster.node(0), &all)?;
    let table = text(&output.stdout);
    ensure!(output.status.code() == Some(1), "{output:?}");
    for (pod, words) in [
        (&refusing, format!("refused nothing listens on port {target}")),
        (&silent, "silent no answer within 2 s: a firewall or a NetworkPolicy drops it".to_owned()),
    ] {
        let address = format!("{}:{target}", pod.addresses.v4);
        let line = table.lines().find(|line| line.contains(&address)).context(table.clone())?;
        let line: Vec<_> = line.split_whitespace().filter(|word| !word.ends_with("ms")).collect();
        ensure!(line.join(" ").contains(&words), "`{words}` is not in {line:?}");
    }
    let sound = pod("sound").await.addresses.v4.to_string();
    ensure!(!table.contains(&sound), "only failures are listed: {table}");

    let json = command(cluster.node(0), &[&all[..], &["-o", "json", "--timeout", "1"]].concat())?;
    let report: Value = serde_json::from_slice(&json.stdout)?;
    let results: Vec<_> = report["connections"].as_array().context("a list")?.iter().collect();
    let of_backends = results.iter().filter(|one| one["target"] == "backend");
    let mut of_backends: Vec<_> = of_backends.filter_map(|one| one["result"].as_str()).collect();
    of_backends.sort_unstable();
    ensure!(
        of_backends == ["connected", "connected", "refused", "refused", "silent", "silent"],
        "{report:#}"
    );
    Ok(())
}

/// The pod's device is down, as if its address were that of a machine that is gone.
#[tokio::test]
async fn a_backend_whose_pod_is_gone_is_unreachable() -> Result<()> {
    let cluster = Cluster::start("fault-gone-pod").await;
    cluster.service("web").tcp(80).backends(["a"]).await;
    let pod = cluster.pod("a").start().await;
    pod.netns().run(|| {
        let down = Command::new("ip").args(["link", "set", "eth0", "down"]).output()?;
        ensure!(down.status.success(), "{down:?}");
        Ok(())
    })?;
    // Three neighbour solicitations in as many seconds.
    let output = command(cluster.node(0), &["connectivity", "--service", "default/web", "--timeout", "10"])?;
    let table = text(&output.stdout);
    let words = "unreachable  no route, or no neighbour answers";
    let words: Vec<_> = words.split_whitespace().collect();
    let lines = table.lines().map(|line| {
        line.split_whitespace().filter(|word| !word.ends_with("ms")).collect::<Vec<_>>().join(" ")
    });
    let address = pod.addresses.v4.to_string();
    let mut of_pod = lines.filter(|line| line.contains(&address));
    ensure!(of_pod.any(|line| line.contains(&words.join(" "))), "{table}");
    Ok(())
}

/// The line of `connectivity` with these words in succession, whatever the widths of its columns.
fn line_with(table: &str, address: &str, words: &str) -> Result<()> {
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = table.lines().filter(|line| line.contains(address)).map(squeezed);
    ensure!(lines.any(|line| line.contains(words)), "`{words}` is in no line of {address}: {table}");
    Ok(())
}

/// The kernel of the pod accepts, its process does not.
#[tokio::test]
async fn a_backend_that_accepts_and_never_answers_is_named() -> Result<()> {
    let cluster = Cluster::start("fault-mute").await;
    // Not dialled before: a backend that has ever answered is not told by its sums, but by `top`.
    let web = cluster.service("web").tcp(80).backends(["mute"]).unawaited().await;
    let (pod, target) = (cluster.pod("mute").start().await, web.port(0).target);
    pod.stop(Protocol::Tcp, target).await?;
    let at = SocketAddr::new(pod.addresses.v4.into(), target);
    let _listener = pod.netns().run(|| TcpListener::bind(at).context("the port is free"))?;
    let node = cluster.node(0);
    eventually("the Service is served", async || {
        let output = command(node, &["get", "backends", "web"])?;
        ensure!(text(&output.stdout).contains(&at.to_string()), "{output:?}");
        Ok(())
    })
    .await;
    let dials = cluster.pod("client").dials(web.vip()).timeout_after(Duration::from_millis(200));
    dials.times(4).at_once(4).report().await;
    eventually("connectivity tells that it is mute", async || {
        let output = command(node, &["connectivity", "--service", "web"])?;
        line_with(&text(&output.stdout), &at.to_string(), "accepts, but over")
    })
    .await;
    let json = command(node, &["connectivity", "--service", "web", "-o", "json"])?;
    let report: Value = serde_json::from_slice(&json.stdout)?;
    let results: Vec<_> = report["connections"].as_array().context("a list")?.iter().collect();
    ensure!(results.iter().any(|one| one["result"] == "unanswered"), "{report:#}");
    Ok(())
}

/// As of a network plugin that did not clean up.
#[tokio::test]
async fn a_permanent_neighbour_entry_is_named() -> Result<()> {
    let cluster = Cluster::start("fault-neighbour").await;
    cluster.service("web").tcp(80).backends(["a"]).await;
    let (pod, node) = (cluster.pod("a").start().await, cluster.node(0));
    let address = pod.addresses.v4.to_string();
    let entry =
        ["neigh", "replace", &address, "lladdr", "02:00:00:00:00:66", "dev", "pods", "nud", "permanent"];
    node.netns().run(|| {
        let done = Command::new("ip").args(entry).output()?;
        ensure!(done.status.success(), "{done:?}");
        Ok(())
    })?;
    let output = command(node, &["connectivity", "--service", "web", "--timeout", "1"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    line_with(
        &text(&output.stdout),
        &address,
        "its neighbour entry on pods is permanent with 02:00:00:00:00:66",
    )
}

/// A device on the way drops what is larger, and tells nobody.
#[tokio::test]
async fn a_path_that_loses_large_packets_is_named() -> Result<()> {
    let cluster = Cluster::start("fault-mtu").nodes(2).await;
    cluster.service("web").tcp(80).backends(["near", "far"]).await;
    let far = cluster.pod("far").on(1).start().await;
    let node = cluster.node(0);
    let all = ["connectivity", "--service", "web", "--timeout", "1"];
    let output = command(node, &all)?;
    ensure!(text(&output.stdout) == "6 of 6 connections succeeded\n", "{output:?}");
    let drops = "table inet fault { chain pre { type filter hook prerouting priority -300; meta length > 1400 drop\n }\n }";
    firewall::filter(far.netns(), drops)?;
    let output = command(node, &all)?;
    ensure!(output.status.success(), "a warning: {output:?}");
    for address in [far.addresses.v4.to_string(), far.addresses.v6.to_string()] {
        line_with(&text(&output.stdout), &address, "bytes are lost, and no ICMP error says so")?;
    }
    ensure!(
        text(&output.stdout).ends_with("6 of 6 connections succeeded, 2 of them with a warning\n"),
        "{output:?}"
    );
    Ok(())
}

/// Whose ARP nobody answers.
#[tokio::test]
async fn an_address_that_nobody_announces_is_named() -> Result<()> {
    let cluster = Cluster::start("fault-vip").nodes(2).await;
    let ips = ["172.18.0.200", "172.18.0.201"].map(|ip| ip.parse().expect("an address"));
    cluster.service("web").tcp(80).load_balancer_ips(ips).backends(["a"]).await;
    // Another machine has the second one.
    cluster.node(1).netns().run(|| {
        let done = Command::new("ip").args(["addr", "add", "172.18.0.201/32", "dev", "eth0"]).output()?;
        ensure!(done.status.success(), "{done:?}");
        Ok(())
    })?;
    // Of the node's own cgroup, so that its connections are translated as those of its processes are.
    let node = cluster.node(0);
    let mut command = Command::new("sh");
    let enters = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", node.cgroup().path().display());
    command.args(["-c", &enters, "sh"]).arg(portreeve()?).args(["connectivity", "--service", "web"]);
    command.arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(node.setting().run_dir());
    let output = node.netns().run(|| command.output().context("it starts"))?;
    ensure!(output.status.success(), "{output:?}");
    let table = text(&output.stdout);
    line_with(&table, "172.18.0.200:80", "unannounced")?;
    line_with(&table, "172.18.0.200:80", "answers ARP for 172.18.0.200, so clients outside cannot reach it")?;
    ensure!(!table.contains("172.18.0.201"), "it is announced: {table}");
    Ok(())
}

#[tokio::test]
async fn the_time_when_the_agent_ended_tells() -> Result<()> {
    let cluster = Cluster::start("fault-gone").await;
    let node = cluster.node(0);
    let modified = || -> Result<_> { Ok(fs::symlink_metadata(node.bpffs())?.modified()?) };
    let at_start = modified()?;
    eventually("the agent marks that it is alive", async || {
        ensure!(modified()? > at_start);
        Ok(())
    })
    .await;
    ensure!(!status(node)?.0.contains("LAST ALIVE"));
    let alive_at = Timestamp::try_from(modified()?)?;
    node.kill_agent().await?;
    let gone_at = Timestamp::now();
    let (table, report) = status(node)?;
    let last: Timestamp = report["last_alive"].as_str().context("a time")?.parse()?;
    ensure!(
        last >= alive_at && last <= gone_at + 1.second(),
        "{last} is not between {alive_at} and {gone_at}"
    );
    ensure!(
        table.contains("LAST ALIVE") && table.contains(&format!("no agent runs since {last:.0}")),
        "{table}"
    );
    Ok(())
}

#[tokio::test]
async fn a_cgroup_without_the_pods_tells() -> Result<()> {
    let cluster = Cluster::start("fault-cgroup").without_agents().build().await?;
    let node = cluster.node(0);
    let _pod = cluster.pod("pod").start().await;
    let empty = node.cgroup().child("empty")?;
    let tells = async |want: &str, words: &str| {
        eventually(&format!("`{words}` is told"), async || {
            let (table, report) = status(node)?;
            let conditions = report["agent"]["conditions"].as_array().context("there are conditions")?;
            let found = conditions.iter().find(|one| one["type"] == "SocketsTranslated");
            ensure!(found.context("not known yet")?["status"] == want, "{report:#}");
            ensure!(table.contains(words), "{table}");
            Ok(())
        })
        .await;
    };
    let setting = AgentSetting { cgroup: empty.path().to_owned(), ..node.setting().clone() };
    let mut agent = Agent::spawn(&setting, node.netns())?;
    agent.ready().await?;
    tells("False", "sockets of pods are not translated: no process is in").await;
    tells("False", "/empty, no process\n").await;
    agent.terminate().await?;
    let mut agent = Agent::spawn(node.setting(), node.netns())?;
    agent.ready().await?;
    tells("True", ", the processes below it\n").await;
    agent.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn the_fill_of_the_tables_of_programs_tells() -> Result<()> {
    let cluster = Cluster::start("fault-fill").await;
    let hour = std::time::Duration::from_secs(3600);
    let web = cluster.service("web").tcp(80).affinity(hour).backends(["a"]).await;
    let node = cluster.node(0);
    cluster.pod("vm").sandboxed_on(0).dials(web.vip()).times(3).always_reaches_one_of(["a"]).await;
    let (table, report) = status(node)?;
    for name in ["FLOWS_V4", "FLOWS_V6", "AFFINITY_V4", "AFFINITY_V6", "NEW_AFFINITY_V4", "NEW_AFFINITY_V6"] {
        ensure!(table.contains(&format!("{name} ")), "{name} is missing: {table}");
    }
    let used = |name: &str| -> Result<u64> {
        let tables = report["flow_tables"].as_array().context("a list")?;
        let table = tables.iter().find(|table| table["name"] == name).context("it is there")?;
        table["used"].as_u64().context("a number")
    };
    let flows = used("FLOWS_V4")?;
    ensure!((3..100).contains(&flows), "{report:#}");
    ensure!(used("AFFINITY_V4")? + used("NEW_AFFINITY_V4")? > 0, "{report:#}");
    let metrics = get(node.netns(), ([127, 0, 0, 1], 10249).into(), "/metrics")?.body;
    for series in
        ["portreeve_table_entries{table=\"FLOWS_V4\"}", "portreeve_table_capacity{table=\"AFFINITY_V6\"}"]
    {
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<u64>().ok());
        ensure!(value.is_some_and(|value| value > 0), "{series} is missing in:\n{metrics}");
    }
    Ok(())
}
