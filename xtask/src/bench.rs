//! `cargo xtask bench`: builds an optimised agent and becomes the measurement of `tests`.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::{cargo, needs, setup};

/// Measures what is promised in numbers, with an optimised build.
///
/// The measurements lay out network namespaces, cgroups and eBPF programs, and need root. `--help` after the name of
/// one lists its options.
#[derive(Args)]
pub struct Bench {
    /// Measure the binary of the image, which is linked with another C library.
    #[arg(long)]
    image: bool,
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Subcommand)]
enum Measurement {
    /// What a connect to a ClusterIP costs beside one to its pod, with 10,000 Services loaded.
    #[command(disable_help_flag = true)]
    Connect(Passed),
    /// Whether a connect fails, or reaches the wrong backend, while backends change 1,000 times a second.
    #[command(disable_help_flag = true)]
    Atomicity(Passed),
    /// How long a change takes from the API server to the kernel, and what the agent weighs through a relist.
    #[command(disable_help_flag = true)]
    Sync(Passed),
    /// What a packet costs in each program, in known and in new flows, with few and with many of them.
    #[command(disable_help_flag = true)]
    Packet(Passed),
    /// What answering names costs, with 10,000 Services; beside it what `$COREDNS` costs, if that names a binary.
    #[command(disable_help_flag = true)]
    Dns(Passed),
}

/// The measurement knows its own options.
#[derive(Args)]
struct Passed {
    /// What to pass to the measurement itself.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

impl Bench {
    pub fn run(self) -> Result<ExitCode> {
        let (name, Passed { arguments }) = match self.measurement {
            Measurement::Connect(passed) => ("connect", passed),
            Measurement::Atomicity(passed) => ("atomicity", passed),
            Measurement::Sync(passed) => ("sync", passed),
            Measurement::Packet(passed) => ("packet", passed),
            Measurement::Dns(passed) => ("dns", passed),
        };
        let asks_for_help = arguments.iter().any(|argument| argument == "--help" || argument == "-h");
        let missing = needs::missing();
        if !missing.is_empty() && !asks_for_help {
            bail!("nothing can be measured here; it needs {}", missing.join(", and "));
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
