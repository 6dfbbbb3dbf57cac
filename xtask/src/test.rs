//! `cargo xtask test`: all tests, with a summary in the last line.

use std::{
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{
    bench, cargo, fuzz_targets, lint, mutants, needs,
    progress::{command_line, seconds},
    setup,
};

/// The time of each fuzz target, in seconds.
const FUZZ_SECONDS: u32 = 5;
/// Flows within which a mutant must be detected.
const MUTANT_CASES: u64 = 20_000;

/// Sets up, lints, builds and runs all tests.
///
/// The stories create network namespaces, cgroups and eBPF programs, and need root; without root nothing runs and the
/// exit code is 1, unless --no-root skips them. The last line is `N passed, N failed`.
#[derive(Args)]
pub struct Test {
    /// Run only tests without privileges, and list the skipped ones.
    #[arg(long)]
    no_root: bool,
}

impl Test {
    pub fn run(self) -> Result<ExitCode> {
        if !self.no_root {
            let missing = needs::missing();
            if !missing.is_empty() {
                bail!(
                    "the stories (`cargo test -p tests`) cannot run here; they need\n  {}\nProvide that, or skip \
                     them with --no-root.",
                    missing.join("\n  ")
                );
            }
        }
        // A full disk fails somewhere in the middle, in the words of whichever compiler or linker wrote last.
        let target = cargo::target();
        let room =
            needs::missing_room(&target).with_context(|| format!("looking at {}", target.display()))?;
        ensure!(room.is_none(), "{}", room.unwrap_or_default());
        let mut report = Report::default();
        self.stages(&mut report)?;
        report.print(self.no_root);
        Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn set_up(&self) -> Result<()> {
        setup::ensure_for_lint()?;
        if self.no_root {
            return Ok(());
        }
        setup::ensure_for_stories()?;
        setup::ensure_for_fuzz()
    }

    /// A failed stage stops only the stages that depend on it.
    fn stages(&self, report: &mut Report) -> Result<()> {
        report.stage("setup", |_| self.set_up().map(|()| true))?;
        report.stage("lint", |_| lint::check())?;
        let mut binary = None;
        report.stage("build", |_| {
            binary = cargo::build_portreeve(false).inspect_err(|error| eprintln!("error: {error:#}")).ok();
            Ok(binary.is_some())
        })?;
        report.stage("tests without privileges", |counts| {
            cargo_test(
                cargo::cargo().args(["test", "--workspace", "--exclude", "tests", "--no-fail-fast"]),
                counts,
            )
        })?;
        report.stage("instructions of the work", |_| Ok(bench::check::check().unwrap_or_else(failed)))?;
        report.stage("fuzz targets", |_| {
            // Without root there may be no C++ compiler.
            Ok(fuzz_targets::run_briefly(FUZZ_SECONDS).unwrap_or_else(failed))
        })?;
        if let Some(binary) = binary.filter(|_| !self.no_root) {
            report.stage("stories, as root", |counts| stories(&binary, counts))?;
            report.stage("mutants, as root", |_| mutants::check(MUTANT_CASES))?;
        }
        Ok(())
    }
}

/// The result of a stage that could not run: it costs this stage and no other.
fn failed(error: anyhow::Error) -> bool {
    eprintln!("error: {error:#}");
    false
}

fn stories(binary: &Path, counts: &mut Counts) -> Result<bool> {
    let mut command = cargo::cargo();
    command.args(["test", "--package", "tests", "--no-fail-fast"]).env("PORTREEVE_BIN", binary);
    cargo_test(&mut command, counts)
}

/// Runs cargo's tests, forwards their output, and sums their result lines.
fn cargo_test(command: &mut Command, counts: &mut Counts) -> Result<bool> {
    println!("$ {}", command_line(command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).context("reading the tests' output")? > 0 {
        std::io::stdout().write_all(&line)?;
        if let Some(more) = Counts::parse(&String::from_utf8_lossy(&line)) {
            counts.passed += more.passed;
            counts.failed += more.failed;
        }
        line.clear();
    }
    Ok(child.wait().context("waiting for cargo")?.success())
}

/// The sum of a stage's `test result:` lines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// `test result: ok. 10 passed; 0 failed; 0 ignored; ..`
    fn parse(line: &str) -> Option<Counts> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let number = |word: &str| {
            let field = numbers.split("; ").find_map(|field| field.strip_suffix(word))?;
            field.trim().parse().ok()
        };
        Some(Counts { passed: number("passed")?, failed: number("failed")? })
    }
}

struct Stage {
    name: &'static str,
    took: String,
    holds: bool,
    counts: Counts,
}

#[derive(Default)]
struct Report {
    stages: Vec<Stage>,
}

impl Report {
    fn stage(&mut self, name: &'static str, work: impl FnOnce(&mut Counts) -> Result<bool>) -> Result<()> {
        println!("\n=== {name}");
        let started = Instant::now();
        let mut counts = Counts::default();
        let holds = work(&mut counts)?;
        let took = seconds(started.elapsed());
        println!("=== {name}: {} after {took}", verdict(holds));
        self.stages.push(Stage { name, took, holds, counts });
        Ok(())
    }

    fn holds(&self) -> bool {
        self.stages.iter().all(|stage| stage.holds)
    }

    /// A stage that failed without a failed test (lint, a compiler error, a crash) counts as one.
    fn total(&self) -> Counts {
        self.stages.iter().fold(Counts::default(), |sum, stage| Counts {
            passed: sum.passed + stage.counts.passed,
            failed: sum.failed + stage.counts.failed.max(u64::from(!stage.holds)),
        })
    }

    fn print(&self, no_root: bool) {
        println!();
        for Stage { name, took, holds, counts } in &self.stages {
            let tests = match counts.passed + counts.failed {
                0 => String::new(),
                _ => format!("{} passed, {} failed", counts.passed, counts.failed),
            };
            println!("{name:<26}{:<8}{took:>12}   {tests}", verdict(*holds));
        }
        if no_root {
            println!("skipped by --no-root: the stories (`cargo test -p tests`), which need root");
        }
        let Counts { passed, failed } = self.total();
        println!("{passed} passed, {failed} failed");
    }
}

fn verdict(holds: bool) -> &'static str {
    if holds { "ok" } else { "FAILED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_result_lines_are_counted() {
        let cases = [
            (
                "test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                Some((10, 0)),
            ),
            (
                "test result: FAILED. 15 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out\n",
                Some((15, 2)),
            ),
            ("test frontend::result ... ok", None),
            ("    test result: ok. 1 passed; 0 failed", None),
            ("test result: ok", None),
        ];
        for (line, want) in cases {
            let want = want.map(|(passed, failed)| Counts { passed, failed });
            assert_eq!(Counts::parse(line), want, "{line}");
        }
    }

    #[test]
    fn a_stage_that_fails_without_a_failed_test_counts_as_one_failure() {
        let stage = |holds, passed, failed| Stage {
            name: "one",
            took: String::new(),
            holds,
            counts: Counts { passed, failed },
        };
        let cases = [
            ("all well", vec![stage(true, 0, 0), stage(true, 7, 0)], (7, 0)),
            ("lint fails", vec![stage(false, 0, 0), stage(true, 7, 0)], (7, 1)),
            ("tests fail", vec![stage(true, 0, 0), stage(false, 5, 2)], (5, 2)),
            ("a test program crashes", vec![stage(false, 5, 0)], (5, 1)),
        ];
        for (name, stages, (passed, failed)) in cases {
            let report = Report { stages };
            assert_eq!(report.total(), Counts { passed, failed }, "{name}");
            assert_eq!(report.holds(), failed == 0, "{name}");
        }
    }
}
