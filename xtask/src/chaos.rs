//! `cargo xtask chaos`: builds everything and starts the chaos run of `tests`.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;

use crate::{cargo, needs, setup};

/// Kills, stops and replaces agents and changes objects at random, under load: `--minutes N --seed S`. Needs root.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Chaos {
    /// Options of the run.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

impl Chaos {
    pub fn run(self) -> Result<ExitCode> {
        let asks_for_help = self.arguments.iter().any(|argument| argument == "--help" || argument == "-h");
        let missing = needs::missing();
        if !missing.is_empty() && !asks_for_help {
            bail!("chaos cannot run here; it needs {}", missing.join(", and "));
        }
        setup::ensure()?;
        let binary = cargo::build_portreeve(false)?;
        let mut command = cargo::cargo();
        command.args(["run", "--quiet", "--package", "tests", "--bin", "chaos", "--"]).args(self.arguments);
        match cargo::become_command(command.env("PORTREEVE_BIN", binary))? {}
    }
}
