//! rustfmt and clippy, which `cargo xtask lint` runs: of the workspace's toolchain, and clippy also of the one that
//! compiles the eBPF programs, where that is another.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{
    Note, apt,
    machine::{output, which},
    toolchain,
};
use crate::{
    cargo::{cargo, workspace_root},
    progress::Step,
};

pub fn ensure(note: &Note) -> Result<()> {
    if is_missing(note) {
        install(note).context("lint needs rustfmt and clippy")?;
        ensure!(!is_missing(note), "rustfmt and clippy were installed, but cargo does not find them");
    }
    Ok(())
}

fn is_missing(note: &Note) -> bool {
    let lacks = |mut cargo: Command, tool: &str| output(cargo.args([tool, "--version"])).is_none();
    lacks(cargo(), "fmt") || lacks(cargo(), "clippy") || lacks(note.cargo(), "clippy")
}

fn install(note: &Note) -> Result<()> {
    if which("rustup").is_none() || note.toolchain == toolchain::LINKED {
        apt::install(&["rustfmt-web", "rust-web-clippy"].map(String::from))?;
    }
    if which("rustup").is_some() {
        let step = Step::start("adding rustfmt and clippy");
        let mut command = Command::new("rustup");
        // Of the toolchain in force in the workspace, whichever that is.
        command.args(["component", "add", "rustfmt", "clippy"]).current_dir(workspace_root());
        step.run(command)?;
        step.done();
    }
    Ok(())
}
