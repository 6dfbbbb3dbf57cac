//! What a failed story shows: the agents' logs, the manifests, and what each node's kernel holds.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use proxy::{
    datapath::{KernelMaps, maps_of},
    model::address::IpFamily,
    reconcile::{LbMaps as _, dump},
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

/// The maps pinned by the agents of a node, open for reading whether or not an agent runs.
pub struct PinnedMaps(KernelMaps);

impl PinnedMaps {
    pub fn open(bpffs: &Path) -> Result<Self> {
        let maps = KernelMaps::inspect(&maps_of(bpffs, ABI_VERSION));
        maps.context("cannot open the pinned maps").map(Self)
    }

    /// One sorted line per frontend and backend.
    pub fn text(&self) -> Result<String> {
        dump(&self.0).context("cannot read the pinned maps")
    }

    /// The index of the TCP frontend at this address.
    pub fn frontend(&self, address: SocketAddr) -> Result<u32> {
        let wanted = format!("{address}/TCP");
        let frontends = self.0.frontends().context("cannot read the frontends")?;
        let found = frontends.into_iter().find(|(key, _)| key.to_string() == wanted);
        found.map(|(_, index)| index).with_context(|| format!("there is no frontend {wanted}"))
    }

    /// Who serves a frontend at this instant.
    pub fn serving(&self, frontend: u32, family: IpFamily) -> Vec<SocketAddr> {
        let descriptor = self.0.descriptor(self.0.published(frontend));
        let slots = self.0.slots(descriptor.internal).into_iter();
        slots.map(|slot| self.0.backend(family, slot.index).address).collect()
    }
}

pub fn pinned_state(bpffs: &Path) -> Result<String> {
    PinnedMaps::open(bpffs)?.text()
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
