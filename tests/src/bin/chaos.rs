//! Chaos: see `tests::chaos`.

#![expect(clippy::print_stderr, reason = "errors of a command-line program")]

use std::{env, process::ExitCode};

use tests::{chaos, pod::POD, traffic};

fn main() -> ExitCode {
    // The harness starts this program again for every pod.
    let ended = if env::args().nth(1).as_deref() == Some(POD) { traffic::run() } else { chaos::run() };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
