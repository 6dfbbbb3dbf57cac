//! `cargo xtask lint`: formatting, clippy, and this repository's own rules.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{cargo, setup};

mod abi;
mod arrows;
mod circles;
mod dependencies;
mod finding;
mod forbidden;
mod paths;
mod retired;
mod size;
mod source;
mod text;

use finding::Finding;
use source::Source;

/// Checks formatting, clippy and this repository's own rules; changes nothing.
///
/// The rules: `aya` only in proxy/src/datapath, kube types only in proxy/src/k8s, no I/O in proxy/src/model and
/// proxy/src/index; no import circles between the top-level modules of a crate; files under 1,000 lines and
/// functions of at most 80; no `todo!`, `unimplemented!` or `#[ignore]`; no retired words; no change of
/// proxy-ebpf/src/abi without a new ABI_VERSION; dependencies in one version, from a registry, with permissive licences.
/// Advisories are checked where cargo-deny and its database can be had.
#[derive(Args)]
pub struct Lint {
    /// Record the present ABI after ABI_VERSION was raised; checks nothing.
    #[arg(long)]
    bless: bool,

    /// With --bless: keep ABI_VERSION, because names or functions changed and the maps' content did not.
    #[arg(long, requires = "bless")]
    same_layout: bool,

    /// Check the rules of this repository alone, without formatting and clippy.
    #[arg(long, conflicts_with = "bless")]
    rules: bool,
}

impl Lint {
    pub fn run(self) -> Result<ExitCode> {
        if self.bless {
            println!("{}", abi::bless(cargo::workspace_root(), self.same_layout)?);
            return Ok(ExitCode::SUCCESS);
        }
        let holds = if self.rules { rules_hold()? } else { check()? };
        Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Runs every check, so that one run reports every problem. Returns `false` if one failed.
pub fn check() -> Result<bool> {
    let note = setup::ensure_for_lint()?;
    let checks = [
        (
            passes(cargo::cargo().args(["fmt", "--all", "--check"]))?,
            "formatting differs: run `cargo fmt --all`",
        ),
        (rules_hold()?, "rules of this repository are broken, see above"),
        (clippy_of_programs(&note)?, "clippy reports problems in the eBPF programs, see above"),
        (clippy()?, "clippy reports problems, see above"),
        (dependencies::has_no_advisories()?, "there are advisories about dependencies, see above"),
    ];
    for (_, problem) in checks.iter().filter(|(holds, _)| !holds) {
        eprintln!("lint: {problem}");
    }
    Ok(checks.iter().all(|(holds, _)| *holds))
}

fn clippy() -> Result<bool> {
    let mut command = cargo::cargo();
    command.args(["clippy", "--workspace", "--all-targets"]);
    passes(deny_warnings(&mut command)?)
}

/// Clippy of the eBPF programs: they exist for the BPF target alone, so the workspace's clippy does not cover them.
fn clippy_of_programs(note: &setup::Note) -> Result<bool> {
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let mut command = note.cargo();
    command.args(["clippy", "--package", "proxy-ebpf", "--bins", "--target", target]);
    // A separate target directory: the flags differ, and a shared one would recompile everything each time.
    command.args(["-Z", "build-std=core", "--target-dir", "target/lint-ebpf"]);
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    passes(deny_warnings(&mut command)?)
}

/// Turns warnings into errors if clippy is of the pinned release: other releases have other lints.
fn deny_warnings(clippy: &mut Command) -> Result<&mut Command> {
    let pinned = setup::pinned_name()?;
    let mut version = Command::new(clippy.get_program());
    version.current_dir(cargo::workspace_root());
    let words = clippy.get_args().take_while(|word| *word != "clippy");
    let version = version.args(words).arg("--version").output().context("reading cargo's version")?;
    let version = String::from_utf8_lossy(&version.stdout);
    if version.split(' ').nth(1) == Some(pinned.as_str()) {
        return Ok(clippy.args(["--", "--deny", "warnings"]));
    }
    eprintln!("lint: clippy's warnings are ignored: it belongs to {}, not {pinned}", version.trim());
    Ok(clippy)
}

fn passes(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("starting {}", command.get_program().display()))?;
    Ok(status.success())
}

fn rules_hold() -> Result<bool> {
    let root = cargo::workspace_root();
    let texts = text::read_all(root, retired::ENDINGS)?;
    let sources = source::parse_all(&texts)?;
    let mut findings: Vec<Finding> = sources.iter().flat_map(broken_rules).collect();
    findings.extend(texts.iter().flat_map(retired::check));
    findings.extend(circles::check(&sources));
    findings.extend(abi::check(root, &sources)?);
    findings.extend(dependencies::check()?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    Ok(findings.is_empty())
}

fn broken_rules(source: &Source) -> Vec<Finding> {
    let mut findings = arrows::check(source);
    findings.extend(size::check(source));
    findings.extend(forbidden::check(source));
    findings
}
