//! `cargo xtask lint`: formatting, clippy, and the rules of the house that no other tool knows.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{cargo, setup};

mod abi;
mod arrows;
mod forbidden;
mod size;
mod source;

use source::Source;

/// Checks formatting, clippy and the rules of the house; changes nothing.
///
/// The rules: `aya` only in proxy/src/datapath, kube types only in proxy/src/k8s, no I/O in proxy/src/model and
/// proxy/src/index; files under 1,000 lines and functions of at most 80; no `todo!`, `unimplemented!` or
/// `#[ignore]`; no change of proxy-ebpf/src/abi without a new ABI_VERSION.
#[derive(Args)]
pub struct Lint {
    /// Write down the ABI as it is now, after ABI_VERSION was raised; checks nothing.
    #[arg(long)]
    bless: bool,
}

/// A rule that is broken somewhere.
#[derive(Debug, PartialEq)]
pub struct Finding {
    file: String,
    line: usize,
    what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

impl Lint {
    pub fn run(self) -> Result<ExitCode> {
        if self.bless {
            println!("{}", abi::bless(cargo::workspace_root())?);
            return Ok(ExitCode::SUCCESS);
        }
        Ok(if check()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Runs every check, so that one run names all there is to mend; true when all hold.
pub fn check() -> Result<bool> {
    let note = setup::ensure_for_lint()?;
    let checks = [
        (
            passes(cargo::cargo().args(["fmt", "--all", "--check"]))?,
            "formatting differs: run `cargo fmt --all`",
        ),
        (tidy()?, "rules of the house are broken, see above"),
        (clippy_of_programs(&note)?, "clippy has complaints about the eBPF programs, see above"),
        (clippy()?, "clippy has complaints, see above"),
    ];
    for (_, what) in checks.iter().filter(|(holds, _)| !holds) {
        eprintln!("lint: {what}");
    }
    Ok(checks.iter().all(|(holds, _)| *holds))
}

fn clippy() -> Result<bool> {
    let mut command = cargo::cargo();
    command.args(["clippy", "--workspace", "--all-targets"]);
    passes(deny_warnings(&mut command)?)
}

/// The workspace's clippy sees the programs' crate without the programs, which exist for BPF alone.
fn clippy_of_programs(note: &setup::Note) -> Result<bool> {
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let mut command = note.cargo();
    command.args(["clippy", "--package", "proxy-ebpf", "--bins", "--target", target]);
    // A directory of its own: the flags differ, and sharing one would compile everything anew each time.
    command.args(["-Z", "build-std=core", "--target-dir", "target/lint-ebpf"]);
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    passes(deny_warnings(&mut command)?)
}

/// Makes warnings errors, where clippy is of the pinned release: each release has lints that are new, and a machine
/// that builds with another one must not fail for them.
fn deny_warnings(clippy: &mut Command) -> Result<&mut Command> {
    let pinned = setup::pinned_name()?;
    let mut version = Command::new(clippy.get_program());
    version.current_dir(cargo::workspace_root());
    let words = clippy.get_args().take_while(|word| *word != "clippy");
    let version = version.args(words).arg("--version").output().context("asking cargo for its version")?;
    let version = String::from_utf8_lossy(&version.stdout);
    if version.split(' ').nth(1) == Some(pinned.as_str()) {
        return Ok(clippy.args(["--", "--deny", "warnings"]));
    }
    eprintln!("lint: warnings of clippy do not count here: it comes with {}, not {pinned}", version.trim());
    Ok(clippy)
}

fn passes(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("starting {}", command.get_program().display()))?;
    Ok(status.success())
}

fn tidy() -> Result<bool> {
    let root = cargo::workspace_root();
    let sources = source::read_all(root)?;
    let mut findings: Vec<Finding> = sources.iter().flat_map(broken_rules).collect();
    findings.extend(abi::check(root, &sources)?);
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
