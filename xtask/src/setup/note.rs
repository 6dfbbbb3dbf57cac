//! `.ebpf-toolchain`: the result of setup, for the build script of `proxy`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::machine::which;
use crate::cargo::workspace_root;

const FILE: &str = ".ebpf-toolchain";

pub struct Note {
    /// The name for `rustup run`; without rustup, a placeholder for the cargo on PATH.
    pub toolchain: String,
    /// The directory that holds `bpf-linker`.
    pub path: PathBuf,
}

impl Note {
    /// Reads the result of an earlier setup.
    pub fn read() -> Result<Self> {
        let file = workspace_root().join(FILE);
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let toolchain = value("toolchain").context("the note names no toolchain")?.to_owned();
        Ok(Self { toolchain, path: value("path").context("the note names no path")?.into() })
    }

    /// Does not touch an equal file: cargo would rebuild the eBPF programs.
    pub fn write(&self) -> Result<()> {
        let file = workspace_root().join(FILE);
        let text = self.text();
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// The cargo of the eBPF programs, started as by aya-build, in the workspace's root.
    pub fn cargo(&self) -> Command {
        let mut words = vec!["cargo"];
        if which("rustup").is_some() {
            words.splice(..0, ["rustup", "run", &self.toolchain]);
        }
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(workspace_root());
        command
    }

    pub fn describe(&self) -> String {
        format!("toolchain {}, bpf-linker in {}", self.toolchain, self.path.display())
    }

    fn text(&self) -> String {
        format!("toolchain={}\npath={}\n", self.toolchain, self.path.display())
    }
}
