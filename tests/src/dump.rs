//! What a failed story shows: the agents' logs, the manifests, and what each node's kernel holds.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use proxy::{
    datapath::{KernelMaps, maps_of},
    reconcile::dump,
};
use proxy_ebpf::abi::ABI_VERSION;

use crate::{agent::tail, cluster::Cluster, netns::Netns, node::Node};

const LOG_LINES: usize = 60;
/// What `iproute2` can tell, where it is installed.
const QUESTIONS: &[&[&str]] =
    &[&["-brief", "address"], &["route"], &["-6", "route"], &["-statistics", "-brief", "link"]];

pub fn cluster(cluster: &Cluster) -> String {
    let mut text = String::from("---- the cluster as the story left it ----\n");
    for pod in cluster.all_pods() {
        let node = pod.node.as_deref().unwrap_or("outside");
        let _ = writeln!(text, "pod {} on {node}: {} {}", pod.name, pod.addresses.v4, pod.addresses.v6);
    }
    for node in cluster.nodes() {
        describe(&mut text, node);
    }
    manifests(&mut text, cluster);
    text
}

/// What the maps pinned below `bpffs` hold, whether or not an agent runs: one sorted line per frontend and backend.
pub fn pinned_state(bpffs: &Path) -> Result<String> {
    let maps = KernelMaps::inspect(&maps_of(bpffs, ABI_VERSION)).context("cannot open the pinned maps")?;
    dump(&maps).context("cannot read the pinned maps")
}

fn describe(text: &mut String, node: &Node) {
    let _ = writeln!(
        text,
        "---- {}: log of its agents ----\n{}",
        node.name,
        tail(&node.setting().log, LOG_LINES)
    );
    for question in QUESTIONS {
        if let Ok(answer) = ask(node.netns(), question) {
            let _ = writeln!(text, "---- {}: ip {} ----\n{answer}", node.name, question.join(" "));
        }
    }
    match node.state() {
        Ok(state) => {
            let _ = writeln!(text, "---- {}: pinned maps ----\n{state}", node.name);
        }
        Err(error) => {
            let _ = writeln!(text, "---- {}: the pinned maps cannot be read: {error:#}", node.name);
        }
    }
}

fn ask(netns: &Netns, question: &[&str]) -> Result<String> {
    netns.run(|| {
        let output =
            Command::new("ip").args(question).stdin(Stdio::null()).output().context("no iproute2")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

fn manifests(text: &mut String, cluster: &Cluster) {
    let Ok(entries) = fs::read_dir(cluster.manifests().directory()) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let content = fs::read_to_string(&path).unwrap_or_default();
        let compact = serde_json::from_str::<serde_json::Value>(&content).map(|value| value.to_string());
        let _ = writeln!(text, "---- {} ----\n{}", path.display(), compact.unwrap_or(content));
    }
}
