//! The packet plane's programs at the hooks of devices: they come with a device, stay, and harm nobody else's.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use proxy::datapath::standing_at;
use proxy_ebpf::abi::Direction;
use tests::{Cluster, eventually, node::Node};

/// The kernel keeps this much of a program's name.
const NAME: usize = 15;

/// Who stands at both hooks of a device, ours by the end of their names.
fn standing(node: &Node, device: &str) -> Result<Vec<String>> {
    node.netns().run(|| {
        let mut found = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for name in standing_at(device, direction)? {
                found.push(name.trim_start_matches("portreeve:").chars().take(NAME).collect());
            }
        }
        Ok(found)
    })
}

fn names(want: &[&str]) -> Vec<String> {
    want.iter().map(|name| name.chars().take(NAME).collect()).collect()
}

fn run(node: &Node, words: &str) -> Result<()> {
    node.netns().run(|| {
        let mut words = words.split(' ');
        let output =
            Command::new(words.next().unwrap_or_default()).args(words).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
}

async fn comes_to(node: &Node, device: &str, want: &[&str]) {
    eventually(&format!("{want:?} at {device}"), async || {
        let found = standing(node, device)?;
        ensure!(found == names(want), "{found:?}");
        Ok(())
    })
    .await;
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
    let device = format!("pod{}", pod.addresses.v4.octets()[3]);
    comes_to(node, &device, POD).await;
    comes_to(node, "pods", POD).await;

    // A device that goes, one that comes, and one that becomes something else.
    run(node, "ip link add dummy9 type bridge").expect("it works");
    run(node, &format!("ip link set {device} master dummy9")).expect("it works");
    comes_to(node, "pods", &[]).await;
    comes_to(node, "dummy9", POD).await;
    let before = links(node).len();
    run(node, "ip link del dummy9").expect("it works");
    eventually("the pins of the device are gone", async || {
        ensure!(links(node).len() < before, "{:?}", links(node));
        Ok(())
    })
    .await;
    run(node, "ip link add tun9 type vxlan id 9 dstport 4789 dev eth0").expect("it works");
    run(node, "ip address add 10.9.0.1/24 dev tun9").expect("it works");
    comes_to(node, "tun9", EXTERNAL).await;
    run(node, "ip address del 10.9.0.1/24 dev tun9").expect("it works");
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
