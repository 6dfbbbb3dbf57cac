//! `cargo xtask image`: a container image that holds one static binary.

use std::{
    env::consts::ARCH,
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    cargo::{self, workspace_root},
    setup,
};

mod archive;
mod sbom;

use archive::{Image, sha256};

/// Builds the agent as a static binary and puts it into an image, without Docker.
///
/// The archive is an OCI layout and a Docker archive at once: `ctr --namespace k8s.io images import FILE`,
/// `docker load --input FILE`, `podman load --input FILE`. Beside it lies the list of the packages in the program, as SPDX
/// (`.spdx.json`).
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
        let revision = revision();
        let image = Image {
            name: &self.name,
            architecture: architecture(),
            program: &program,
            revision: revision.as_deref(),
        };
        let output = workspace_root().join(&self.output);
        let archive = image.archive()?;
        fs::write(&output, &archive).with_context(|| format!("writing {}", output.display()))?;
        let source = sbom::Source { time: &commit_time(), sha256: &sha256(&program) };
        let packages = output.with_extension("spdx.json");
        let document = serde_json::to_vec_pretty(&sbom::document(&target.name, source)?)?;
        fs::write(&packages, document).with_context(|| format!("writing {}", packages.display()))?;
        println!("built {} ({} KiB)", binary.display(), program.len() / 1024);
        println!("image {} in {} ({} KiB)", self.name, output.display(), archive.len() / 1024);
        println!("its packages in {}", packages.display());
        Ok(ExitCode::SUCCESS)
    }
}

/// The commit that is built, with `-dirty` if files were changed. `None` outside of a git repository.
fn revision() -> Option<String> {
    git(&["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"])
}

/// Its time; the image and its list of packages depend on the source only.
fn commit_time() -> String {
    let time = git(&["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"]);
    time.unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    let output = command.args(arguments).current_dir(workspace_root()).env("TZ", "UTC").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The name of the architecture in Go and OCI.
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
