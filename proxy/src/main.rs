use std::process::ExitCode;

use clap::Parser as _;
use proxy::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
