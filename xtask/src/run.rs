//! `cargo xtask run`: builds the agent and becomes it.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
};

use anyhow::Result;
use clap::Args;

use crate::{cargo, setup};

/// Builds the agent and runs it with the arguments after `--`.
#[derive(Args)]
#[command(after_help = "Example: cargo xtask run -- plan --manifests examples/voting --node-name node-1")]
pub struct Run {
    /// Optimise the build.
    #[arg(long)]
    release: bool,
    /// What to pass to portreeve.
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

impl Run {
    pub fn run(self) -> Result<ExitCode> {
        setup::ensure()?;
        let binary = cargo::build_portreeve(self.release)?;
        // In the directory the user is in: relative paths among the arguments mean what they say.
        match cargo::become_command(Command::new(binary).args(self.arguments))? {}
    }
}
