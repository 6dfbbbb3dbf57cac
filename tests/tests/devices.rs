//! The packet plane's programs at the hooks of devices: they come with a device, stay, and harm nobody else's.

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

/// The kernel keeps this much of a program's name.
const NAME: usize = 15;

/// Who stands at both hooks of a device, ours by the end of their names.
fn standing(node: &Node, device: &str) -> Result<Vec<String>> {
    node.netns().run(|| {
        let mut found: Vec<String> = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for name in programs_at(device, direction)? {
                found.push(name.trim_start_matches("portreeve:").chars().take(NAME).collect());
            }
            // A filter of this kind consists of several.
            found.dedup();
        }
        Ok(found)
    })
}

fn names(want: &[&str]) -> Vec<String> {
    want.iter().map(|name| name.chars().take(NAME).collect()).collect()
}

/// Runs a command in the node's namespace, and returns what it prints.
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

async fn comes_to(node: &Node, device: &str, want: &[&str]) {
    eventually(&format!("{want:?} at {device}"), async || stands(node, device, want)).await;
}

fn stands(node: &Node, device: &str, want: &[&str]) -> Result<()> {
    let found = standing(node, device)?;
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
    comes_to(node, "eth0", EXTERNAL).await;
    comes_to(node, "lo", &[]).await;
    let pod = cluster.pod("a").start().await;
    let device = device_of(pod.addresses);
    comes_to(node, &device, POD).await;
    comes_to(node, "pods", POD).await;

    // A device that goes, one that comes, and one that becomes something else.
    run(node, "ip link add bridge9 type bridge");
    run(node, &format!("ip link set {device} master bridge9"));
    comes_to(node, "pods", &[]).await;
    comes_to(node, "bridge9", POD).await;
    let before = links(node).len();
    run(node, "ip link del bridge9");
    eventually("the pins of the device are gone", async || {
        ensure!(links(node).len() < before, "{:?}", links(node));
        Ok(())
    })
    .await;
    run(node, "ip link add tun9 type vxlan id 9 dstport 4789 dev eth0");
    run(node, "ip address add 10.9.0.1/24 dev tun9");
    comes_to(node, "tun9", EXTERNAL).await;
    run(node, "ip address del 10.9.0.1/24 dev tun9");
    comes_to(node, "tun9", &[]).await;
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
async fn the_command_line_says_which_devices_there_are() {
    let cluster = Cluster::start("devices-named").flag("--devices=none").flag("--pod-devices=po*").await;
    let node = cluster.node(0);
    let pod = cluster.pod("a").start().await;
    comes_to(node, &device_of(pod.addresses), POD).await;
    stands(node, "pods", POD).expect("it comes with the others");
    stands(node, "eth0", &[]).expect("nobody asked for it");
}

/// While no agent runs, the programs stay; the next one attaches to what came meanwhile, and forgets what went.
async fn an_agent_takes_over(how: &str) {
    let cluster = Cluster::start(&format!("devices-adopt-{how}")).flag(&format!("--tc={how}")).await;
    let node = cluster.node(0);
    let (old, gone) = (cluster.pod("old").start().await, cluster.pod("gone").start().await);
    for pod in [&old, &gone] {
        comes_to(node, &device_of(pod.addresses), POD).await;
    }
    node.kill_agent().await.expect("it runs");
    stands(node, "eth0", EXTERNAL).expect("nobody detached it");
    let (pins, gone_device) = (links(node).len(), device_of(gone.addresses));
    run(node, &format!("ip link del {gone_device}"));
    node.start_agent().await.expect("it starts");
    stands(node, "eth0", EXTERNAL).expect("replaced in place");
    stands(node, &device_of(old.addresses), POD).expect("replaced in place");
    assert!(links(node).len() < pins, "what is gone is forgotten: {:?}", links(node));
}

#[tokio::test]
async fn an_agent_takes_over_links() {
    an_agent_takes_over("tcx").await;
}

#[tokio::test]
async fn an_agent_takes_over_filters() {
    an_agent_takes_over("clsact").await;
}

/// From one way of attaching to the other there is no moment without a program, and none stands there twice.
#[tokio::test]
async fn links_and_filters_replace_each_other() {
    let cluster = Cluster::start("devices-change").without_agents().await;
    let node = cluster.node(0);
    node.start_agent_with(&["--tc=clsact"]).await.expect("it starts");
    for how in ["tcx", "clsact"] {
        stands(node, "eth0", EXTERNAL).expect("attached");
        let flag = format!("--tc={how}");
        node.replace_agent(&[&flag]).await.expect("it takes over");
        stands(node, "eth0", EXTERNAL).unwrap_or_else(|error| panic!("by {how}: {error:#}"));
        let has_links = links(node).iter().any(|pin| pin.starts_with("tc_"));
        assert_eq!(has_links, how == "tcx", "{:?}", links(node));
    }
}

#[tokio::test]
async fn programs_that_were_taken_away_come_back() {
    let cluster = Cluster::start("devices-repair").nodes(2).without_agents().await;
    let (first, second) = (cluster.node(0), cluster.node(1));
    for (node, how) in [(first, "--tc=tcx"), (second, "--tc=clsact")] {
        node.start_agent_with(&[how]).await.expect("it starts");
    }
    let pin = links(first).into_iter().find(|pin| pin.starts_with("tc_external_ingress")).expect("pinned");
    fs::remove_file(first.bpffs().join("links").join(pin)).expect("it can be unpinned");
    run(second, "tc filter del dev eth0 egress");
    for node in [first, second] {
        // They may be back at once: what says that they were away is the log.
        let back = within(VERIFICATION, "the programs are back", async || {
            stands(node, "eth0", EXTERNAL)?;
            let log = fs::read_to_string(&node.setting().log)?;
            ensure!(log.contains("attached again"), "no repair was needed");
            Ok(())
        });
        back.await.unwrap_or_else(|error| panic!("{}: {error:#}", node.name));
    }
}

#[tokio::test]
async fn cleanup_leaves_what_others_attached() {
    let cluster = Cluster::start("devices-others").without_agents().await;
    let node = cluster.node(0);
    run(node, "tc qdisc add dev eth0 clsact");
    run(node, "tc filter add dev eth0 ingress prio 7 protocol all u32 match u32 0 0 flowid 1:1");
    let pod = cluster.pod("a").start().await;
    node.start_agent_with(&["--tc=clsact"]).await.expect("it starts");
    comes_to(node, &device_of(pod.addresses), POD).await;
    stands(node, "eth0", &["tc_external_ingress", "u32", "tc_external_egress"]).expect("ours before theirs");

    node.terminate_agent().await.expect("it ends");
    let mut cleanup = Command::new(portreeve().expect("it is built"));
    cleanup.arg("cleanup").arg("--bpffs").arg(node.bpffs());
    let output = node.netns().run(|| cleanup.output().context("it starts")).expect("it runs");
    assert!(output.status.success(), "{output:?}");
    stands(node, "eth0", &["u32"]).expect("theirs stays");
    assert!(run(node, "tc qdisc show dev eth0").contains("clsact"), "so does their qdisc");
    stands(node, "pods", &[]).expect("ours is gone");
    assert!(!run(node, "tc qdisc show dev pods").contains("clsact"), "so is our qdisc");
}

/// More notices than a socket holds, while the agent does not listen.
#[tokio::test]
async fn an_agent_that_missed_notices_sees_what_came_of_it() {
    let cluster = Cluster::start("devices-overrun").await;
    let node = cluster.node(0);
    comes_to(node, "eth0", EXTERNAL).await;
    let agent = node.agent_id().await.expect("it runs");
    let pid = Pid::from_raw(i32::try_from(agent).expect("a process id"));
    kill(pid, Signal::SIGSTOP).expect("it can be stopped");
    let batch = cluster.directory().join("batch");
    let lines = (0..20_000).map(|n| format!("link set eth0 txqueuelen {}\n", 1000 + n % 2));
    fs::write(&batch, lines.collect::<String>()).expect("it can be written");
    run(node, &format!("ip -batch {}", batch.display()));
    run(node, "ip link add tun9 type vxlan id 9 dstport 4789 dev eth0");
    run(node, "ip address add 10.9.0.1/24 dev tun9");
    let dropped = dropped_notices(agent);
    kill(pid, Signal::SIGCONT).expect("it goes on");
    assert!(dropped > 0, "the story made the agent miss something");
    comes_to(node, "tun9", EXTERNAL).await;
}

/// Of all netlink sockets in the namespace of a process.
fn dropped_notices(process: u32) -> u64 {
    let table = fs::read_to_string(format!("/proc/{process}/net/netlink")).expect("it is readable");
    let drops = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    drops.sum()
}
