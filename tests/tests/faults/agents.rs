//! Faults of a running agent and of its surroundings, found by `status`.

use std::{
    fs, net::SocketAddr, os::unix::fs::DirBuilderExt as _, process::Command, sync::Mutex, time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tests::{
    Cluster,
    agent::AgentSetting,
    cluster::outside_network,
    dns::{
        stub::Stub,
        upstream::{Behaviour, Upstream, listens_at},
    },
    eventually,
    node::Node,
    process::Process,
    sole_program::SoleProgram,
    stuck::StuckThreads,
    xdp::pass_all,
};

use super::asked::{is_absent, is_absent_by_verification, is_named, is_named_by_verification, names};

/// An agent in a mount namespace of its own, after this script.
fn start_after(script: &str, setting: &AgentSetting, node: &Node) -> Result<Process> {
    let agent = setting.command()?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{script} && exec \"$@\""), "sh"]);
    command.arg(agent.get_program()).args(agent.get_args()).env("NO_COLOR", "1");
    let log = fs::OpenOptions::new().create(true).append(true).open(&setting.log)?;
    command.stdout(log.try_clone()?).stderr(log);
    Process::start("an agent", command, node.netns(), None)
}

#[tokio::test]
async fn a_cgroup_of_too_few_sockets_is_named() -> Result<()> {
    let cluster = Cluster::start("fault-group").without_agents().build().await?;
    let node = cluster.node(0);
    let _pod = cluster.pod("pod").start().await;
    let (own, elsewhere) = ("the cgroup is the agent's own container", "pods are outside of the cgroup");

    // In a container without the node's cgroup2 its own group is the whole of the hierarchy.
    let container = node.cgroup().child("container")?;
    let setting = AgentSetting { cgroup: container.path().to_owned(), ..node.setting().clone() };
    let join = format!("echo $$ > {}/cgroup.procs", container.path().display());
    let mut agent = start_after(&join, &setting, node)?;
    is_named(node, own, &[]).await;
    is_absent(node, elsewhere, &[]).await;
    agent.kill()?;

    // The kubelet's pods are beside the group, in the same hierarchy.
    let hierarchy = cluster.directory().join("hierarchy");
    fs::DirBuilder::new().mode(0o700).create(&hierarchy)?;
    let _pods = cluster.cgroup().child("kubepods.slice")?;
    let at = hierarchy.join(node.cgroup().path().strip_prefix(cluster.cgroup().path())?);
    let setting = AgentSetting { cgroup: at, ..node.setting().clone() };
    let mount = format!("mount --bind {} {}", cluster.cgroup().path().display(), hierarchy.display());
    let mut agent = start_after(&mount, &setting, node)?;
    is_named(node, elsewhere, &[]).await;
    is_absent(node, own, &[]).await;
    agent.kill()?;
    Ok(())
}

/// Other software at the hooks of the cgroup and of a device.
#[tokio::test]
async fn a_hook_that_others_do_not_share_is_named() -> Result<()> {
    let cluster = Cluster::start("fault-hook").nics().without_agents().build().await?;
    let node = cluster.node(0);
    let (unattached, taken) = ("programs cannot be attached", "another XDP program is at the device");
    let other = pass_all(node.netns(), "eth0")?;
    node.start_agent_with(&["--xdp=native"]).await?;
    is_named(node, taken, &[]).await;
    drop(other);
    is_absent(node, unattached, &[]).await;
    let sole = SoleProgram::attach(cluster.cgroup())?;
    fs::remove_file(node.bpffs().join("links/connect4")).context("it is pinned")?;
    // Hooks are verified every ten seconds.
    is_named_by_verification(node, unattached).await?;
    drop(sole);
    is_absent_by_verification(node, unattached).await?;
    is_absent(node, taken, &[]).await;
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_dns_is_named() -> Result<()> {
    let at = [10, 11].map(|host| listens_at(outside_network().host(host).v4.into()));
    let directory = tempfile::tempdir()?;
    let corefile = directory.path().join("Corefile");
    // Answers expire with their TTL.
    let text = format!(
        ".:53 {{\n kubernetes cluster.local\n forward . {} {}\n cache 30 {{\n  success 9984 30 0\n  denial 9984 30 0\n }}\n}}\n",
        at[0], at[1]
    );
    fs::write(&corefile, text)?;
    let cluster = Cluster::start("fault-dns").flag(&format!("--corefile={}", corefile.display())).await;
    let node = cluster.node(0);
    let mut upstreams = Vec::new();
    for (name, at) in ["first", "second"].into_iter().zip(at) {
        let upstream = Upstream::start(cluster.client(name).start().await)?;
        ensure!(upstream.address == at, "the agent forwards elsewhere");
        upstreams.push(upstream);
    }
    let server = SocketAddr::new(node.addresses.v4.into(), 53);
    // Only a name that several clients know is believed against an upstream.
    let mut stubs = Vec::new();
    for name in ["client", "neighbour"] {
        let pod = cluster.pod(name).start().await;
        stubs.push(Mutex::new(Stub::new(&pod, server, Duration::from_secs(10))?));
    }
    let resolves = || {
        stubs.iter().try_for_each(|stub| {
            let answer = stub.lock().map_err(|_| anyhow!("a panic"))?.query("api.example.org")?;
            answer.address.context("no address").map(drop)
        })
    };
    eventually("a name is resolved", async || resolves()).await;

    let dead = "the node's name server does not answer";
    is_absent(node, dead, &[]).await;
    let stuck = StuckThreads::of(node.agent_id().await.context("it runs")?, "dns")?;
    is_named(node, dead, &[]).await;
    drop(stuck);
    is_absent(node, dead, &[]).await;

    for (fault, behaviours) in [
        (
            "upstreams of DNS contradict each other",
            [Behaviour::LosesNames, Behaviour::Slow(Duration::from_millis(30))],
        ),
        ("an upstream of DNS does not answer", [Behaviour::Dead, Behaviour::Dead]),
    ] {
        is_absent(node, fault, &[]).await;
        upstreams.iter().zip(behaviours).for_each(|(upstream, behaviour)| upstream.behaves(behaviour));
        // A name that was resolved, and whose answer has expired.
        eventually(&format!("`{fault}` is named, and the name is resolved all the same"), async || {
            resolves()?;
            names(node, fault, &[])
        })
        .await;
    }
    Ok(())
}
