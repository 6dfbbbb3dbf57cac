//! `cargo xtask fuzz-dns`: the fuzz test of the DNS server for a chosen time.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::cargo;

/// Sends corrupted and hostile packets through the DNS server's request path, with an optimised build.
///
/// Fails with the packet and the seed if a packet causes a panic, takes too long or gets an answer above its size limit.
/// A short run is part of the tests.
#[derive(Args)]
pub struct FuzzDns {
    /// Duration of the run
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Seed of the run whose packets to repeat
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
