//! `cargo xtask fuzz`: the coverage-guided targets of `tests/fuzz`.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{cargo, setup};

/// The memory of a target, in MiB, and the time of one input, in seconds, beyond which it fails.
const MEMORY: u32 = 2048;
const TIMEOUT: u32 = 10;
/// The largest input, in octets.
const LARGEST: u32 = 4096;
/// The number of a failed target's last lines that are printed.
const TAIL: usize = 80;

/// Runs the coverage-guided fuzz targets with libFuzzer: Kubernetes objects, kube-proxy's configuration, manifests,
/// Corefiles, DNS requests, netlink messages.
///
/// Starts from the seeds in the repository and from the inputs that earlier runs found, below `target/fuzz-targets`.
/// Fails with the input's file if an input causes a panic, takes more than 10 s or 2 GiB. Needs a C++ compiler. A run of
/// a few seconds each is part of `cargo xtask test`.
#[derive(Args)]
pub struct Fuzz {
    /// The target; all, one after the other, if none is named
    target: Option<String>,
    /// Duration of the run of each target
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Run the target on this input alone
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with = "seconds")]
    input: Option<PathBuf>,
}

impl Fuzz {
    pub fn run(self) -> Result<ExitCode> {
        let targets = chosen(self.target.as_deref())?;
        let input = self
            .input
            .map(|file| fs::canonicalize(&file).with_context(|| format!("cannot read {}", file.display())));
        let driver = build()?;
        if let (Some(file), [target]) = (input.transpose()?, targets.as_slice()) {
            match cargo::become_command(start(&driver, target).arg(file))? {}
        }
        let holds = run_all(&driver, &targets, self.seconds, &work())?;
        Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Runs all targets on the seeds, without what earlier runs found: it takes the same time on any machine. Returns whether
/// all passed.
pub fn run_briefly(seconds: u32) -> Result<bool> {
    let driver = build()?;
    let directory = work().join("brief");
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", directory.display()));
        }
        Ok(()) | Err(_) => {}
    }
    run_all(&driver, &chosen(None)?, seconds, &directory)
}

/// Runs each target to its end, so that one run finds what all of them find.
fn run_all(driver: &Path, targets: &[String], seconds: u32, directory: &Path) -> Result<bool> {
    let mut failed = Vec::new();
    for target in targets {
        if !run(driver, target, seconds, &directory.join(target))? {
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        eprintln!("fuzz: {} failed, see above", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn sources() -> PathBuf {
    cargo::workspace_root().join("tests/fuzz")
}

/// The place of what is found. Cargo has a directory `target/fuzz`, for the profile of that name.
fn work() -> PathBuf {
    cargo::workspace_root().join("target/fuzz-targets")
}

/// The targets to run. Each has a directory of seeds.
fn chosen(target: Option<&str>) -> Result<Vec<String>> {
    let seeds = sources().join("seeds");
    let entries = fs::read_dir(&seeds).with_context(|| format!("cannot read {}", seeds.display()))?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    let Some(target) = target else { return Ok(names) };
    ensure!(
        names.iter().any(|name| name == target),
        "there is no target {target}; the targets are {}",
        names.join(", ")
    );
    Ok(vec![target.to_owned()])
}

/// Coverage is added to the crates of this workspace alone: new paths in their code are to be found, not in that of
/// dependencies.
fn build() -> Result<PathBuf> {
    setup::ensure()?;
    setup::ensure_for_fuzz()?;
    cargo::build_fuzz(&sources().join("rustc-with-coverage"))
}

fn start(driver: &Path, target: &str) -> Command {
    let mut command = Command::new(driver);
    command.env("FUZZ_TARGET", target).env("RUST_BACKTRACE", "1");
    command.args([format!("-timeout={TIMEOUT}"), format!("-rss_limit_mb={MEMORY}")]);
    command
}

/// Runs a target. Returns whether it passed.
fn run(driver: &Path, target: &str, seconds: u32, found: &Path) -> Result<bool> {
    let corpus = found.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    println!("--- {target}");
    let mut command = start(driver, target);
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={LARGEST}"),
        format!("-artifact_prefix={}/", found.display()),
    ]);
    // New inputs go to the first directory.
    command.arg(corpus).arg(sources().join("seeds").join(target));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", driver.display()))?;
    let mut output = Output::default();
    for line in BufReader::new(child.stderr.take().expect("stderr is piped")).split(b'\n') {
        output.add(String::from_utf8_lossy(&line.context("reading libFuzzer's messages")?).into_owned());
    }
    let passed = child.wait().context("waiting for libFuzzer")?.success();
    if !passed {
        output.tail.iter().for_each(|line| eprintln!("{line}"));
        eprintln!("fuzz: {target} failed; repeat it with `cargo xtask fuzz {target} --input FILE`");
    } else if output.coverage.is_none() {
        bail!("{target} has no coverage to be guided by: tests/fuzz/rustc-with-coverage had no effect");
    }
    Ok(passed)
}

/// What libFuzzer has printed.
#[derive(Default)]
struct Output {
    coverage: Option<u64>,
    tail: VecDeque<String>,
}

impl Output {
    /// Prints the summaries; a line for each new input would hide them.
    fn add(&mut self, line: String) {
        if let Some(coverage) = coverage(&line) {
            self.coverage = Some(coverage);
            if is_summary(&line) {
                println!("{line}");
            }
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

fn is_summary(line: &str) -> bool {
    line.starts_with('#')
        && !["NEW", "REDUCE"].iter().any(|word| line.split_whitespace().nth(1) == Some(*word))
}

/// The number of edges in a line of libFuzzer's progress: `#2056 DONE   cov: 10968 ft: 21819 corp: 267/42Kb ..`
fn coverage(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix('#')?.split_once("cov: ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_messages() {
        let cases = [
            (
                "#2056\tDONE   cov: 10968 ft: 21819 corp: 267/42Kb lim: 997 exec/s: 228 rss: 59Mb",
                Some(10968),
                true,
            ),
            ("#16\tINITED cov: 10134 ft: 12095 corp: 15/3518b exec/s: 0 rss: 55Mb", Some(10134), true),
            (
                "#20\tNEW    cov: 10200 ft: 12195 corp: 16/3520b lim: 997 exec/s: 0 rss: 55Mb L: 2/997",
                Some(10200),
                false,
            ),
            ("#2\tINITED exec/s: 0 rss: 43Mb", None, true),
            ("    #3 0x55a60c0437ab in cov: 7", None, false),
            ("==14069== ERROR: libFuzzer: timeout after 10 seconds", None, false),
        ];
        for (line, want, summary) in cases {
            assert_eq!(coverage(line), want, "{line}");
            assert_eq!(is_summary(line), summary, "{line}");
        }
    }

    #[test]
    fn a_wrong_target_is_answered_with_the_names() {
        let error = chosen(Some("dsn")).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no target dsn; the targets are config, corefile, dns, manifests, netlink, objects"
        );
    }
}
