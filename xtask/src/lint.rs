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
        setup::ensure()?;
        Ok(if check()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Runs every check, so that one run names all there is to mend; true when all hold.
pub fn check() -> Result<bool> {
    setup::ensure_lint_tools()?;
    let formatted = passes(cargo::cargo().args(["fmt", "--all", "--check"]))?;
    let tidy = tidy()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    let clippy = passes(cargo::cargo().args(clippy))?;
    for (holds, what) in [
        (formatted, "formatting differs: run `cargo fmt --all`"),
        (tidy, "rules of the house are broken, see above"),
        (clippy, "clippy has complaints, see above"),
    ] {
        if !holds {
            eprintln!("lint: {what}");
        }
    }
    Ok(formatted && tidy && clippy)
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
