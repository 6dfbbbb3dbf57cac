//! `cargo xtask fuzz-dns`: hostile packets for as long as one likes.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::cargo;

/// Sends spoilt and hostile packets through the DNS server's request path, with an optimised build.
///
/// Fails with the packet and the seed when one of them panics, takes too long, or is answered with more than it may be.
/// The same run, a short one, is among the tests.
#[derive(Args)]
pub struct FuzzDns {
    /// How long
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Repeats the packets of another run
    #[arg(long)]
    seed: Option<u64>,
}

impl FuzzDns {
    pub fn run(self) -> Result<ExitCode> {
        let mut command = cargo::cargo();
        command.args(["test", "--profile", "fuzz", "--package", "dns", "--test", "hostile"]);
        command.args(["--", "--nocapture"]).env("FUZZ_SECONDS", self.seconds.to_string());
        if let Some(seed) = self.seed {
            command.env("FUZZ_SEED", seed.to_string());
        }
        match cargo::become_command(&mut command)? {}
    }
}
