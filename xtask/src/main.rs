//! `cargo xtask VERB`: the commands for work on this repository. It drives cargo and depends on no crate of the
//! workspace: it builds in seconds, also when no other crate compiles.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints its results")]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod build;
mod cargo;
mod chaos;
mod demo;
mod fuzz;
mod fuzz_dataplane;
mod fuzz_targets;
mod image;
mod kernels;
mod lint;
mod mutants;
mod needs;
mod progress;
mod run;
mod setup;
mod test;

/// Builds, tests and demonstrates Portreeve.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(setup::Setup),
    Build(build::Build),
    Run(run::Run),
    Test(test::Test),
    Lint(lint::Lint),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Image(image::MakeImage),
    Kernels(kernels::Kernels),
    Fuzz(fuzz_targets::Fuzz),
    FuzzDns(fuzz::FuzzDns),
    FuzzDataplane(fuzz_dataplane::FuzzDataplane),
    Chaos(chaos::Chaos),
    Mutants(mutants::Mutants),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup(verb) => verb.run(),
        Verb::Build(verb) => verb.run(),
        Verb::Run(verb) => verb.run(),
        Verb::Test(verb) => verb.run(),
        Verb::Lint(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Bench(verb) => verb.run(),
        Verb::Image(verb) => verb.run(),
        Verb::Kernels(verb) => verb.run(),
        Verb::Fuzz(verb) => verb.run(),
        Verb::FuzzDns(verb) => verb.run(),
        Verb::FuzzDataplane(verb) => verb.run(),
        Verb::Chaos(verb) => verb.run(),
        Verb::Mutants(verb) => verb.run(),
    }
}
