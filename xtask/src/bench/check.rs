//! `cargo xtask bench --check`: the number of instructions of the agent's work, against a ledger in the repository.
//!
//! Valgrind's callgrind counts them on a simulated processor: unlike times they are the same on each machine and under each load. The
//! development build is measured: it is there already in a run of the tests, and work that grows grows in both builds.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cargo, progress::Step, setup};

const LEDGER: &str = "tests/ledger/instructions.txt";
/// The function in which the instructions are counted, as callgrind names it, but for its hash.
const COUNTED: &str = "*instructions::counted::counted*";
/// A number that differs by more fails. Hash tables with random keys alone differ by up to 3 %.
const BOUND_PERCENT: u64 = 10;

type Ledger = BTreeMap<String, u64>;

/// Counts, and compares with the ledger. Returns whether each number is within the bound.
pub fn check() -> Result<bool> {
    let file = cargo::workspace_root().join(LEDGER);
    let text = fs::read_to_string(&file).with_context(|| format!("reading {LEDGER}"))?;
    let before = parse(&text)?;
    let differences = differences(&before, &count()?);
    for difference in &differences {
        eprintln!("error: {difference}");
    }
    if !differences.is_empty() {
        eprintln!("If that is meant, `cargo xtask bench --check --bless` writes the numbers to {LEDGER}.");
    }
    Ok(differences.is_empty())
}

/// Counts, and writes the ledger.
pub fn bless() -> Result<()> {
    let file = cargo::workspace_root().join(LEDGER);
    fs::write(&file, render(&count()?)).with_context(|| format!("writing {LEDGER}"))?;
    println!("{LEDGER} is written");
    Ok(())
}

fn count() -> Result<Ledger> {
    let valgrind = setup::ensure_for_instructions()?;
    let mut build = cargo::cargo();
    build.args(["build", "--quiet", "--package", "tests", "--bin", "bench"]);
    let bench = cargo::Built::by(build)?.get("bench")?;
    let output = Command::new(&bench).arg("instructions").output().context("starting the benchmark")?;
    ensure!(output.status.success(), "{} instructions failed", bench.display());
    let names = String::from_utf8(output.stdout).context("names of the work")?;
    let directory = cargo::target().join("callgrind");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let mut counted = Ledger::new();
    let step = Step::start("counting instructions");
    for name in names.lines() {
        counted.insert(name.to_owned(), count_one(&valgrind, &bench, name, &directory)?);
    }
    step.done();
    print!("{}", render(&counted));
    Ok(counted)
}

fn count_one(valgrind: &Path, bench: &Path, name: &str, directory: &Path) -> Result<u64> {
    let profile: PathBuf = directory.join(format!("{name}.out"));
    let output = Command::new(valgrind)
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(bench)
        .args(["instructions", name])
        .output()
        .context("starting valgrind")?;
    if !output.status.success() {
        bail!("{name} failed under valgrind:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = fs::read_to_string(&profile).with_context(|| format!("reading {}", profile.display()))?;
    let total = total(&text).with_context(|| format!("{} has no sum", profile.display()))?;
    ensure!(total != 0, "{name}: no instruction was counted, is there no function {COUNTED}?");
    Ok(total)
}

/// The sum in a profile of callgrind: `totals: 123`, in older versions `summary: 123`.
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| {
        let number = line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: "))?;
        number.trim().parse().ok()
    })
}

fn parse(text: &str) -> Result<Ledger> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, number) = line.split_once(' ').with_context(|| format!("{LEDGER}: {line}"))?;
            let number = number.trim().parse().with_context(|| format!("{LEDGER}: {line}"))?;
            Ok((name.to_owned(), number))
        })
        .collect()
}

fn render(counted: &Ledger) -> String {
    let mut text =
        String::from("# Instructions of the development build, by `cargo xtask bench --check --bless`\n");
    for (name, number) in counted {
        let _ = writeln!(text, "{name:<26}{number:>12}");
    }
    text
}

/// A sentence for each number that is not within the bound, and for each that only one side has.
fn differences(before: &Ledger, now: &Ledger) -> Vec<String> {
    let mut found = Vec::new();
    for (name, &number) in now {
        match before.get(name) {
            None => found.push(format!("{name}: {number} instructions, and {LEDGER} has none")),
            Some(&old) if number.abs_diff(old) * 100 > old * BOUND_PERCENT => found.push(format!(
                "{name}: {number} instructions, {} than the {old} of {LEDGER} by more than {BOUND_PERCENT} %",
                if number > old { "more" } else { "fewer" }
            )),
            Some(_) => {}
        }
    }
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    found.extend(gone.map(|name| format!("{name}: {LEDGER} has it, and no work has this name")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(entries: &[(&str, u64)]) -> Ledger {
        entries.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
    }

    #[test]
    fn a_number_beyond_the_bound_is_told_in_both_directions() {
        let before = ledger(&[("a", 1000), ("b", 1000), ("c", 1000), ("gone", 1)]);
        let now = ledger(&[("a", 1100), ("b", 1101), ("c", 899), ("new", 1)]);
        let found = differences(&before, &now);
        let begins: Vec<_> =
            found.iter().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
        assert_eq!(begins, ["b", "c", "new", "gone"], "{found:?}");
        assert!(found[0].contains("more than") && found[1].contains("fewer than"), "{found:?}");
    }

    #[test]
    fn a_ledger_is_read_as_it_was_written() {
        let written = ledger(&[("answer-a", 12_345_678), ("read-slice", 9)]);
        assert_eq!(parse(&render(&written)).unwrap(), written);
        assert!(parse("a line without a number\n").is_err());
    }

    #[test]
    fn the_sum_of_a_profile_is_found() {
        assert_eq!(total("version: 1\nevents: Ir\nsummary: 12\n"), Some(12));
        assert_eq!(total("events: Ir\n\nfn=x\n1 2\ntotals: 345\n"), Some(345));
        assert_eq!(total("events: Ir\n"), None);
    }
}
