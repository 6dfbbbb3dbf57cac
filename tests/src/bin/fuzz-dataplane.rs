//! The programs at devices compared with the model, for any number of cases.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "progress and results of a command-line program"
)]

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tests::{
    differential::{Tally, run},
    rng::Rng,
};

/// Sends random packets through the programs and compares the results with the model. Needs root.
///
/// Set $PORTREEVE_SEED to a printed seed to repeat a run. Exits with 1 at the first difference, or if a row of
/// the table of verdicts or a drop reason occurred too rarely.
#[derive(Parser)]
#[command(name = "fuzz-dataplane", bin_name = "cargo xtask fuzz-dataplane", max_term_width = 100)]
struct Arguments {
    /// Flows to test, each with its reply and its next packet
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Minimum number of occurrences of each row and each reason
    #[arg(long, default_value_t = 1000)]
    of_each: u64,
    /// An object file with other programs, used instead of the agent's
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
}

fn main() -> ExitCode {
    match compare(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<bool> {
    let mut rng = Rng::new();
    println!("seed {}", rng.seed);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} cases, {per_sec}, {eta} left")?;
    let bar = ProgressBar::new(arguments.cases).with_style(style);
    let began = Instant::now();
    let object = arguments
        .object
        .as_ref()
        .map(|file| fs::read(file).with_context(|| format!("cannot read the object {}", file.display())));
    let object = object.transpose()?;
    let tally = run(arguments.cases, object.as_deref(), &mut rng, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} cases in {seconds:.0} s, {:.0} a second, no difference",
        arguments.cases,
        arguments.cases as f64 / seconds
    );
    Ok(print_counts(&tally, arguments.of_each))
}

/// Prints the number of occurrences of each row and reason. Returns whether each occurred often enough.
fn print_counts(tally: &Tally, enough: u64) -> bool {
    let mut is_enough = true;
    for (name, came_up) in tally.counts() {
        let remark = if came_up < enough { "  too rare" } else { "" };
        is_enough &= came_up >= enough;
        println!("{came_up:>12} {name}{remark}");
    }
    is_enough
}
