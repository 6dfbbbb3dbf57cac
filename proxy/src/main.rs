use std::{env, process::ExitCode};

use proxy::cli::Cli;

fn main() -> ExitCode {
    Cli::read(env::args_os()).run()
}
