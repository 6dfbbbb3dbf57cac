//! The output of a failed story: the agents' logs, the manifests, and the state of each node's kernel.

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
    sync::Arc,
};

use crate::lab::{agent::tail, kernel::netns::Netns, node::Node, objects::Manifests, pod::Pod};
use anyhow::{Context as _, Result};

const LOG_LINES: usize = 60;
/// Commands of `iproute2`, if it is installed.
const IP_COMMANDS: &[&[&str]] =
    &[&["-brief", "address"], &["route"], &["-6", "route"], &["-statistics", "-brief", "link"]];

pub fn text(pods: &[Arc<Pod>], nodes: &[Node], objects: &Manifests) -> String {
    let mut text = String::from("---- the cluster at the end of the story ----\n");
    for pod in pods {
        let node = pod.node.as_deref().unwrap_or("outside");
        let _ = writeln!(text, "pod {} on {node}: {} {}", pod.name, pod.addresses.v4, pod.addresses.v6);
    }
    for node in nodes {
        describe(&mut text, node);
    }
    manifests(&mut text, objects);
    text
}

fn describe(text: &mut String, node: &Node) {
    let _ = writeln!(
        text,
        "---- {}: log of its agents ----\n{}",
        node.name,
        tail(&node.setting().log, LOG_LINES)
    );
    for arguments in IP_COMMANDS {
        if let Ok(output) = ip_output(node.netns(), arguments) {
            let _ = writeln!(text, "---- {}: ip {} ----\n{output}", node.name, arguments.join(" "));
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

fn ip_output(netns: &Netns, arguments: &[&str]) -> Result<String> {
    netns.run(|| {
        let output =
            Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("no iproute2")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

fn manifests(text: &mut String, objects: &Manifests) {
    let Ok(entries) = fs::read_dir(objects.directory()) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let content = fs::read_to_string(&path).unwrap_or_default();
        let compact = serde_json::from_str::<serde_json::Value>(&content).map(|value| value.to_string());
        let _ = writeln!(text, "---- {} ----\n{}", path.display(), compact.unwrap_or(content));
    }
}
