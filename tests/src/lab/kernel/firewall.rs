//! A host's own packet filter, independent of Services.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::kernel::netns::Netns;

/// Loads rules of `nft` in a network namespace.
pub fn filter(netns: &Netns, rules: &str) -> Result<()> {
    nft(netns, &["-f", "-"], rules).map(drop)
}

/// The packets counted by a named counter of `table`.
pub fn counted(netns: &Netns, table: &str, counter: &str) -> Result<u64> {
    let words = ["--json", "list", "counter", "inet", table, counter];
    let answer: serde_json::Value = serde_json::from_str(&nft(netns, &words, "")?)?;
    answer
        .pointer("/nftables/1/counter/packets")
        .and_then(serde_json::Value::as_u64)
        .with_context(|| format!("no counter in {answer}"))
}

fn nft(netns: &Netns, words: &[&str], input: &str) -> Result<String> {
    netns.run(|| {
        let mut command = Command::new("nft");
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start nft: `apt-get install nftables`")?;
        child.stdin.take().context("nft has no input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output().context("cannot wait for nft")?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}
