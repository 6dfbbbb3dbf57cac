//! The programs at devices against the model, for as long as one likes.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "whoever runs it wants to see how it goes")]

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tests::{
    chance::Chance,
    differential::{Row, Tally, run},
};

/// Sends random packets through the programs and holds what comes of them against the model. Needs root.
///
/// The seed it prints brings a run back: set $PORTREEVE_SEED to it. Exits with 1 at the first difference, or when a row
/// of the table of verdicts came up too seldom.
#[derive(Parser)]
#[command(name = "fuzz-dataplane", bin_name = "cargo xtask fuzz-dataplane", max_term_width = 100)]
struct Arguments {
    /// Flows to be tried, each with its answer and its next packet
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// How often each row must come up
    #[arg(long, default_value_t = 1000)]
    of_each_row: u64,
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
    let mut chance = Chance::new();
    println!("seed {}", chance.seed);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} cases, {per_sec}, {eta} left")?;
    let bar = ProgressBar::new(arguments.cases).with_style(style);
    let began = Instant::now();
    let tally = run(arguments.cases, &mut chance, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} cases in {seconds:.0} s, {:.0} a second, no difference",
        arguments.cases,
        arguments.cases as f64 / seconds
    );
    Ok(told(&tally, arguments.of_each_row))
}

/// Prints how often each row came up; whether that was often enough.
fn told(tally: &Tally, enough: u64) -> bool {
    let mut is_enough = true;
    for row in Row::ALL {
        let came_up = tally.get(&row).copied().unwrap_or_default();
        let remark = if came_up < enough { "  too seldom" } else { "" };
        is_enough &= came_up >= enough;
        println!("{came_up:>12} {row}{remark}");
    }
    is_enough
}
