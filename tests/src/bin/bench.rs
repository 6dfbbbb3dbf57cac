//! The measurements: see `tests::bench`.

#![expect(clippy::print_stderr, reason = "errors of a command-line program")]

use std::{env, process::ExitCode};

use tests::{bench, pod::POD, traffic};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    // The harness starts this program again for pods and workers.
    let ended = match argument(1) {
        POD => traffic::run(),
        bench::WORKER => bench::run_worker(argument(2), argument(3)),
        _ => bench::run(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
