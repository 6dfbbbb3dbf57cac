//! rustfmt and clippy, which `cargo xtask lint` runs.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::{
    apt,
    machine::{output, which},
};
use crate::{cargo::cargo, progress::Step};

pub fn ensure() -> Result<()> {
    if missing().is_empty() {
        return Ok(());
    }
    install().context("rustfmt and clippy, which lint needs, cannot be had")?;
    let missing = missing();
    anyhow::ensure!(missing.is_empty(), "cargo still has no {}", missing.join(" and no "));
    Ok(())
}

fn missing() -> Vec<&'static str> {
    ["fmt", "clippy"].into_iter().filter(|tool| output(cargo().args([tool, "--version"])).is_none()).collect()
}

fn install() -> Result<()> {
    if which("rustup").is_none() {
        return apt::install(&["rustfmt-web", "rust-web-clippy"].map(String::from));
    }
    let step = Step::start("adding rustfmt and clippy");
    let mut command = Command::new("rustup");
    // Of the toolchain in force in the workspace, whichever that is.
    command.args(["component", "add", "rustfmt", "clippy"]).current_dir(crate::cargo::workspace_root());
    step.run(command)?;
    step.done();
    Ok(())
}
