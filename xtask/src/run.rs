//! `cargo xtask run`: builds and starts the agent.

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
    /// Arguments of portreeve.
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

impl Run {
    pub fn run(self) -> Result<ExitCode> {
        setup::ensure()?;
        let binary = cargo::build_portreeve(self.release)?;
        // In the user's directory, to which relative paths among the arguments refer.
        match cargo::become_command(Command::new(binary).args(self.arguments))? {}
    }
}
