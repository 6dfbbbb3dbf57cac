//! `cargo xtask build`: the agent with its eBPF programs inside.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{cargo, setup};

/// Builds the agent, `portreeve`, with its eBPF programs embedded.
#[derive(Args)]
pub struct Build {
    /// Optimise, as for a node: the build takes longer.
    #[arg(long)]
    release: bool,
}

impl Build {
    pub fn run(self) -> Result<ExitCode> {
        setup::ensure()?;
        let binary = cargo::build_portreeve(self.release)?;
        println!("built {}", binary.display());
        Ok(ExitCode::SUCCESS)
    }
}
