//! `cargo xtask fuzz-dataplane`: builds with optimisations and becomes the comparison of `tests`.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;

use crate::{cargo, needs, setup};

/// Random packets through the programs, held against the model: `--cases N`. Needs root.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct FuzzDataplane {
    /// What to pass to the comparison itself.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

impl FuzzDataplane {
    pub fn run(self) -> Result<ExitCode> {
        let asks_for_help = self.arguments.iter().any(|argument| argument == "--help" || argument == "-h");
        let missing = needs::missing();
        if !missing.is_empty() && !asks_for_help {
            bail!("nothing can be compared here; it needs {}", missing.join(", and "));
        }
        setup::ensure()?;
        let mut command = cargo::cargo();
        command.args(["run", "--release", "--quiet", "--package", "tests", "--bin", "fuzz-dataplane", "--"]);
        match cargo::become_command(command.args(self.arguments))? {}
    }
}
