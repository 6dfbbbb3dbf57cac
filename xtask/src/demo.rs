//! `cargo xtask demo`: builds everything and starts the demo of `tests`.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;

use crate::{cargo, needs, setup};

/// Shows load balancing between pods in network namespaces, in this terminal.
///
/// Creates nodes and pods from the objects of examples/, starts an agent per node, and suggests commands to try.
/// Needs root. Ctrl-C ends it and removes everything.
#[derive(Args)]
pub struct Demo {
    /// Arguments of the demo.
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

impl Demo {
    pub fn run(self) -> Result<ExitCode> {
        let missing = needs::missing();
        if !missing.is_empty() {
            bail!("the demo cannot run here; it needs {}", missing.join(", and "));
        }
        setup::ensure()?;
        let binary = cargo::build_portreeve(false)?;
        let mut command = cargo::cargo();
        command.args(["run", "--quiet", "--package", "tests", "--bin", "demo", "--"]).args(self.arguments);
        match cargo::become_command(command.env("PORTREEVE_BIN", binary))? {}
    }
}
