//! rustfmt and clippy for `cargo xtask lint`: of the workspace's toolchain, and clippy also of the toolchain of the eBPF
//! programs, if it differs.

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
    let missing = Missing::find(note);
    if missing.any() {
        missing.install(note).context("lint needs rustfmt and clippy")?;
        ensure!(
            !Missing::find(note).any(),
            "rustfmt and clippy were installed, but cargo does not find them"
        );
    }
    Ok(())
}

struct Missing {
    in_workspace: bool,
    for_programs: bool,
}

impl Missing {
    fn find(note: &Note) -> Missing {
        let lacks = |mut cargo: Command, tool: &str| output(cargo.args([tool, "--version"])).is_none();
        Missing {
            in_workspace: lacks(cargo(), "fmt") || lacks(cargo(), "clippy"),
            for_programs: lacks(note.cargo(), "clippy"),
        }
    }

    fn any(&self) -> bool {
        self.in_workspace || self.for_programs
    }

    fn install(&self, note: &Note) -> Result<()> {
        let has_rustup = which("rustup").is_some();
        let is_debian = note.toolchain == toolchain::LINKED;
        if !has_rustup || (self.for_programs && is_debian) {
            apt::install(&["rustfmt-web", "rust-web-clippy"].map(String::from))?;
        }
        if has_rustup && (self.in_workspace || !is_debian) {
            let step = Step::start("adding rustfmt and clippy");
            let mut command = Command::new("rustup");
            // Of the workspace's active toolchain.
            command.args(["component", "add", "rustfmt", "clippy"]).current_dir(workspace_root());
            step.run(command)?;
            step.done();
        }
        Ok(())
    }
}
