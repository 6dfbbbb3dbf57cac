//! `cargo xtask image`: a container image that holds one static binary.

use std::{env::consts::ARCH, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    cargo::{self, workspace_root},
    setup,
};

mod archive;

use archive::Image;

/// Builds the agent as a static binary and puts it into an image, without Docker.
///
/// The archive is an OCI layout and a Docker archive at once: `ctr --namespace k8s.io images import FILE`,
/// `docker load --input FILE`, `podman load --input FILE`.
#[derive(Args)]
pub struct MakeImage {
    /// Name of the image.
    #[arg(long, default_value_t = default_name(), value_name = "NAME:TAG")]
    name: String,
    /// Path of the archive.
    #[arg(long, default_value = "target/portreeve-image.tar", value_name = "FILE")]
    output: PathBuf,
}

fn default_name() -> String {
    format!("portreeve:{}", env!("CARGO_PKG_VERSION"))
}

impl MakeImage {
    pub fn run(self) -> Result<ExitCode> {
        let target = setup::ensure_for_image()?;
        let binary = cargo::build_static(&target)?;
        let program = fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?;
        let image = Image { name: &self.name, architecture: architecture(), program: &program };
        let output = workspace_root().join(&self.output);
        let archive = image.archive()?;
        fs::write(&output, &archive).with_context(|| format!("writing {}", output.display()))?;
        println!("built {} ({} KiB)", binary.display(), program.len() / 1024);
        println!("image {} in {} ({} KiB)", self.name, output.display(), archive.len() / 1024);
        Ok(ExitCode::SUCCESS)
    }
}

/// The name of the architecture in Go and OCI.
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
