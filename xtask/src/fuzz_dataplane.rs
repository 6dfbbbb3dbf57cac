//! `cargo xtask fuzz-dataplane`: an optimised build of the differential test of `tests`.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;

use crate::{cargo, needs, setup};

/// Compares the programs' verdicts on random packets with the model's: `--cases N`. Needs root.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct FuzzDataplane {
    /// Options of the comparison.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

impl FuzzDataplane {
    pub fn run(self) -> Result<ExitCode> {
        let asks_for_help = self.arguments.iter().any(|argument| argument == "--help" || argument == "-h");
        let missing = needs::missing();
        if !missing.is_empty() && !asks_for_help {
            bail!("the comparison cannot run here; it needs {}", missing.join(", and "));
        }
        setup::ensure()?;
        let mut command = cargo::cargo();
        command.args(["run", "--release", "--quiet", "--package", "tests", "--bin", "fuzz-dataplane", "--"]);
        match cargo::become_command(command.args(self.arguments))? {}
    }
}
