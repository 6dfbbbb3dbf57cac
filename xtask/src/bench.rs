//! `cargo xtask bench`: builds an optimised agent and starts a benchmark of `tests`.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::{cargo, needs, setup};

pub mod check;

/// Runs a benchmark with an optimised build, or compares the agent's work with a ledger.
///
/// Benchmarks create network namespaces, cgroups and eBPF programs, and need root. `--help` after a benchmark's name
/// lists its options. `--check` needs neither root nor an idle machine: it counts instructions.
#[derive(Args)]
#[command(subcommand_required = false, arg_required_else_help = true)]
pub struct Bench {
    /// Count the instructions of the agent's work, and fail where they differ from tests/ledger/instructions.txt.
    #[arg(long, conflicts_with = "image")]
    check: bool,
    /// With --check: write the ledger instead.
    #[arg(long, requires = "check")]
    bless: bool,
    /// Measure the image's binary, which is linked with musl.
    #[arg(long)]
    image: bool,
    #[command(subcommand)]
    benchmark: Option<Benchmark>,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Cost of a connect to a ClusterIP and to its pod, with 10,000 Services loaded.
    #[command(disable_help_flag = true)]
    Connect(Passed),
    /// Failed and misdirected connects while backends change 1,000 times a second.
    #[command(disable_help_flag = true)]
    Atomicity(Passed),
    /// Delay of a change from the API server to the kernel, and the agent's memory through a relist.
    #[command(disable_help_flag = true)]
    Sync(Passed),
    /// Cost of a packet in each program, in established and new flows, with few and many of them.
    #[command(disable_help_flag = true)]
    Packet(Passed),
    /// Cost of DNS answers with 10,000 Services, and CoreDNS's if `$COREDNS` names its binary.
    #[command(disable_help_flag = true)]
    Dns(Passed),
    /// What a large cluster costs its API servers and each agent, computed.
    #[command(disable_help_flag = true)]
    Scale(Passed),
}

/// Options that the benchmark itself parses.
#[derive(Args)]
struct Passed {
    /// Options of the benchmark.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

impl Bench {
    pub fn run(self) -> Result<ExitCode> {
        let benchmark = match (self.check, self.benchmark) {
            (true, None) => return checked(self.bless),
            (false, Some(benchmark)) => benchmark,
            (true, Some(_)) => bail!("--check runs no benchmark: leave its name out"),
            (false, None) => bail!("name a benchmark, or use --check; see --help"),
        };
        let (name, Passed { arguments }) = match benchmark {
            Benchmark::Connect(passed) => ("connect", passed),
            Benchmark::Atomicity(passed) => ("atomicity", passed),
            Benchmark::Sync(passed) => ("sync", passed),
            Benchmark::Packet(passed) => ("packet", passed),
            Benchmark::Dns(passed) => ("dns", passed),
            Benchmark::Scale(Passed { arguments }) => return scale(arguments),
        };
        let asks_for_help = arguments.iter().any(|argument| argument == "--help" || argument == "-h");
        let missing = needs::missing();
        if !missing.is_empty() && !asks_for_help {
            bail!("the benchmark cannot run here; it needs {}", missing.join(", and "));
        }
        let binary = if self.image {
            cargo::build_static(&setup::ensure_for_image()?)?
        } else {
            setup::ensure()?;
            cargo::build_portreeve(true)?
        };
        let mut command = cargo::cargo();
        command.args(["run", "--release", "--quiet", "--package", "tests", "--bin", "bench", "--", name]);
        match cargo::become_command(command.args(arguments).env("PORTREEVE_BIN", binary))? {}
    }
}

fn checked(is_blessed: bool) -> Result<ExitCode> {
    if is_blessed {
        check::bless()?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if check::check()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Computes only, so it needs neither root nor an optimised build.
fn scale(arguments: Vec<OsString>) -> Result<ExitCode> {
    let mut command = cargo::cargo();
    command.args(["run", "--quiet", "--package", "tests", "--bin", "bench", "--", "scale"]);
    match cargo::become_command(command.args(arguments))? {}
}
