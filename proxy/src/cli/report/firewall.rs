//! The firewall rules of the node, as its own tools print them. The image has none of the tools; a node's shell may.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{anonymize::Form, collection::Collection};

/// A file, and the command whose output it is.
const FILES: [(&str, &str, &[&str]); 3] = [
    ("nftables.txt", "nft", &["list", "ruleset"]),
    ("iptables.txt", "iptables-save", &[]),
    ("ip6tables.txt", "ip6tables-save", &[]),
];
/// A tool that needs longer hangs.
const TIMEOUT: Duration = Duration::from_secs(10);
/// In octets; the rules of a node with many Services of kube-proxy have a tenth.
const LIMIT: u64 = 16 << 20;

pub fn collect(collection: &mut Collection) {
    for (file, program, arguments) in FILES {
        collection.add(file, Form::Text, printed(program, arguments));
    }
}

fn printed(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    let stdout = child.stdout.take().context("it has an output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut octets = Vec::new();
        let read = stdout.take(LIMIT + 1).read_to_end(&mut octets);
        // Nobody waits any longer after the timeout.
        let _ = sender.send(read.map(|_| octets));
    });
    let read = receiver.recv_timeout(TIMEOUT);
    let is_whole = matches!(&read, Ok(Ok(octets)) if octets.len() as u64 <= LIMIT);
    if !is_whole {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait().with_context(|| format!("{program} cannot be waited for"))?;
    let octets = read.with_context(|| format!("{program} did not end within {} s", TIMEOUT.as_secs()))??;
    ensure!(is_whole, "{program} prints more than {} MiB", LIMIT >> 20);
    ensure!(status.success(), "{program} failed: {status}");
    Ok(String::from_utf8_lossy(&octets).into_owned())
}
