//! The packet plane's programs at devices' hooks: attached with a device, persistent, and beside others' programs.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proxy::datapath::programs_at;
use proxy_ebpf::abi::Direction;
use tests::{
    Cluster,
    agent::{VERIFICATION, portreeve},
    eventually::{eventually, within},
    node::Node,
    pod_network::device_of,
};

/// Length of a program's name in the kernel.
const NAME: usize = 15;

/// The programs at both hooks of a device; Portreeve's without their prefix.
fn attached(node: &Node, device: &str) -> Result<Vec<String>> {
    node.netns().run(|| {
        let mut found: Vec<String> = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for name in programs_at(device, direction)? {
                found.push(name.trim_start_matches("portreeve:").chars().take(NAME).collect());
            }
            // One cls_bpf filter is listed several times.
            found.dedup();
        }
        Ok(found)
    })
}

fn names(want: &[&str]) -> Vec<String> {
    want.iter().map(|name| name.chars().take(NAME).collect()).collect()
}

/// Output of a command in the node's network namespace.
fn run(node: &Node, words: &str) -> String {
    let output = node.netns().run(|| {
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        let output = command.args(words).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    });
    output.unwrap_or_else(|error| panic!("{words}: {error:#}"))
}

async fn eventually_has(node: &Node, device: &str, want: &[&str]) {
    eventually(&format!("{want:?} at {device}"), async || has_programs(node, device, want)).await;
}

fn has_programs(node: &Node, device: &str, want: &[&str]) -> Result<()> {
    let found = attached(node, device)?;
    ensure!(found == names(want), "{found:?}");
    Ok(())
}

const EXTERNAL: &[&str] = &["tc_external_ingress", "tc_external_egress"];
const POD: &[&str] = &["tc_pod_ingress", "tc_pod_egress"];

fn links(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.bpffs().join("links")).expect("it is there");
    entries.map(|entry| entry.expect("it is readable").file_name().to_string_lossy().into_owned()).collect()
}

async fn devices_are_followed(how: &str) {
    let cluster = Cluster::start(&format!("devices-{how}")).flag(&format!("--tc={how}")).await;
    let node = cluster.node(0);
    eventually_has(node, "eth0", EXTERNAL).await;
    eventually_has(node, "lo", &["tc_loopback_egress"]).await;
    let pod = cluster.pod("a").start().await;
    let device = device_of(pod.addresses);
    eventually_has(node, &device, POD).await;
    eventually_has(node, "pods", POD).await;

    // A removed device, a new one, and one whose kind changes.
    run(node, "ip link add bridge9 type bridge");
    run(node, &format!("ip link set {device} master bridge9"));
    eventually_has(node, "pods", &[]).await;
    eventually_has(node, "bridge9", POD).await;
    let before = links(node).len();
    run(node, "ip link del bridge9");
    eventually("the pins of the device are gone", async || {
        ensure!(links(node).len() < before, "{:?}", links(node));
        Ok(())
    })
    .await;
    run(node, "ip link add tun9 type vxlan id 9 dstport 4789 dev eth0");
    run(node, "ip address add 10.9.0.1/24 dev tun9");
    eventually_has(node, "tun9", EXTERNAL).await;
    run(node, "ip address del 10.9.0.1/24 dev tun9");
    eventually_has(node, "tun9", &[]).await;
}

#[tokio::test]
async fn devices_are_followed_by_links() {
    devices_are_followed("tcx").await;
}

#[tokio::test]
async fn devices_are_followed_by_filters() {
    devices_are_followed("clsact").await;
}

#[tokio::test]
async fn devices_can_be_named_on_the_command_line() {
    let cluster = Cluster::start("devices-named").flag("--devices=none").flag("--pod-devices=po*").await;
    let node = cluster.node(0);
    let pod = cluster.pod("a").start().await;
    eventually_has(node, &device_of(pod.addresses), POD).await;
    has_programs(node, "pods", POD).expect("it is attached with the others");
    has_programs(node, "eth0", &[]).expect("it was not selected");
}

/// The programs stay while no agent runs; the next agent attaches to new devices and drops the links of removed ones.
async fn an_agent_takes_over(how: &str) {
    let cluster = Cluster::start(&format!("devices-adopt-{how}")).flag(&format!("--tc={how}")).await;
    let node = cluster.node(0);
    let (old, gone) = (cluster.pod("old").start().await, cluster.pod("gone").start().await);
    for pod in [&old, &gone] {
        eventually_has(node, &device_of(pod.addresses), POD).await;
    }
    node.kill_agent().await.expect("it runs");
    has_programs(node, "eth0", EXTERNAL).expect("it stays attached");
    let (pins, gone_device) = (links(node).len(), device_of(gone.addresses));
    run(node, &format!("ip link del {gone_device}"));
    node.start_agent().await.expect("it starts");
    has_programs(node, "eth0", EXTERNAL).expect("replaced in place");
    has_programs(node, &device_of(old.addresses), POD).expect("replaced in place");
    assert!(links(node).len() < pins, "the links of removed devices stay: {:?}", links(node));
}

#[tokio::test]
async fn an_agent_takes_over_links() {
    an_agent_takes_over("tcx").await;
}

#[tokio::test]
async fn an_agent_takes_over_filters() {
    an_agent_takes_over("clsact").await;
}

/// The change between tcx links and clsact filters leaves no device without programs, and no program twice.
#[tokio::test]
async fn links_and_filters_replace_each_other() {
    let cluster = Cluster::start("devices-change").without_agents().await;
    let node = cluster.node(0);
    node.start_agent_with(&["--tc=clsact"]).await.expect("it starts");
    for how in ["tcx", "clsact"] {
        has_programs(node, "eth0", EXTERNAL).expect("attached");
        let flag = format!("--tc={how}");
        node.replace_agent(&[&flag]).await.expect("it takes over");
        has_programs(node, "eth0", EXTERNAL).unwrap_or_else(|error| panic!("by {how}: {error:#}"));
        let has_links = links(node).iter().any(|pin| pin.starts_with("tc_"));
        assert_eq!(has_links, how == "tcx", "{:?}", links(node));
    }
}

#[tokio::test]
async fn detached_programs_are_attached_again() {
    let cluster = Cluster::start("devices-repair").nodes(2).without_agents().await;
    let (first, second) = (cluster.node(0), cluster.node(1));
    for (node, how) in [(first, "--tc=tcx"), (second, "--tc=clsact")] {
        node.start_agent_with(&[how]).await.expect("it starts");
    }
    let pin = links(first).into_iter().find(|pin| pin.starts_with("tc_external_ingress")).expect("pinned");
    fs::remove_file(first.bpffs().join("links").join(pin)).expect("it can be unpinned");
    run(second, "tc filter del dev eth0 egress");
    for node in [first, second] {
        // They may be attached again at once: only the log shows that they were missing.
        let back = within(VERIFICATION, "the programs are back", async || {
            has_programs(node, "eth0", EXTERNAL)?;
            let log = fs::read_to_string(&node.setting().log)?;
            ensure!(log.contains("attached again"), "no repair was needed");
            Ok(())
        });
        back.await.unwrap_or_else(|error| panic!("{}: {error:#}", node.name));
    }
}

#[tokio::test]
async fn cleanup_leaves_the_programs_of_others() {
    let cluster = Cluster::start("devices-others").without_agents().await;
    let node = cluster.node(0);
    run(node, "tc qdisc add dev eth0 clsact");
    run(node, "tc filter add dev eth0 ingress prio 7 protocol all u32 match u32 0 0 flowid 1:1");
    let pod = cluster.pod("a").start().await;
    node.start_agent_with(&["--tc=clsact"]).await.expect("it starts");
    eventually_has(node, &device_of(pod.addresses), POD).await;
    has_programs(node, "eth0", &["tc_external_ingress", "u32", "tc_external_egress"])
        .expect("ours before theirs");

    node.terminate_agent().await.expect("it ends");
    let mut cleanup = Command::new(portreeve().expect("it is built"));
    cleanup.arg("cleanup").arg("--bpffs").arg(node.bpffs());
    let output = node.netns().run(|| cleanup.output().context("it starts")).expect("it runs");
    assert!(output.status.success(), "{output:?}");
    has_programs(node, "eth0", &["u32"]).expect("theirs stays");
    assert!(run(node, "tc qdisc show dev eth0").contains("clsact"), "so does their qdisc");
    has_programs(node, "pods", &[]).expect("ours is gone");
    assert!(!run(node, "tc qdisc show dev pods").contains("clsact"), "so is our qdisc");
}

/// More netlink notifications than a socket buffers, while the agent is stopped.
#[tokio::test]
async fn an_agent_that_missed_notifications_reads_all_devices_again() {
    let cluster = Cluster::start("devices-overrun").await;
    let node = cluster.node(0);
    eventually_has(node, "eth0", EXTERNAL).await;
    let agent = node.agent_id().await.expect("it runs");
    let pid = Pid::from_raw(i32::try_from(agent).expect("a process id"));
    kill(pid, Signal::SIGSTOP).expect("it can be stopped");
    let batch = cluster.directory().join("batch");
    let lines = (0..20_000).map(|n| format!("link set eth0 txqueuelen {}\n", 1000 + n % 2));
    fs::write(&batch, lines.collect::<String>()).expect("it can be written");
    run(node, &format!("ip -batch {}", batch.display()));
    run(node, "ip link add tun9 type vxlan id 9 dstport 4789 dev eth0");
    run(node, "ip address add 10.9.0.1/24 dev tun9");
    let dropped = dropped_notifications(agent);
    kill(pid, Signal::SIGCONT).expect("it continues");
    assert!(dropped > 0, "the story made the agent miss something");
    eventually_has(node, "tun9", EXTERNAL).await;
}

/// Dropped notifications of all netlink sockets in a process's network namespace.
fn dropped_notifications(process: u32) -> u64 {
    let table = fs::read_to_string(format!("/proc/{process}/net/netlink")).expect("it is readable");
    let drops = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    drops.sum()
}
