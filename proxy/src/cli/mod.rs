//! The command line: one file per verb. Exit codes: 0 done, 1 failed with one sentence on stderr, 2 wrong usage.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

mod cleanup;
mod explain;
mod frontend_name;
mod get;
pub mod logging;
mod output;
mod plan;
pub mod policy_args;
mod run;

use logging::LoggingArgs;

/// The service proxy of a Kubernetes node: eBPF load balancing and cluster DNS, one agent per node.
#[derive(Debug, Parser)]
#[command(name = "portreeve", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    logging: LoggingArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent of this node; SIGTERM ends it and leaves the data plane in place
    Run(run::Args),
    /// Remove everything the agent made: pins, links and maps; refuses beside a live agent
    Cleanup(cleanup::Args),
    /// Show what the kernel holds, by Service name, whether or not an agent runs
    Get(get::Args),
    /// Show what would be programmed on a node; needs no privileges
    Plan(plan::Args),
    /// Tell what becomes of one flow, and why
    Explain(explain::Args),
    /// Print the version
    Version,
    /// Print a completion script
    Completion {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
}

impl Cli {
    pub fn run(self) -> ExitCode {
        logging::start(&self.logging, self.verb.default_level());
        match self.verb.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                output::complain(&error);
                ExitCode::FAILURE
            }
        }
    }
}

impl Verb {
    /// The agent tells its life; a question is answered and nothing else is said.
    fn default_level(&self) -> tracing::Level {
        match self {
            Self::Run(_) => tracing::Level::INFO,
            Self::Cleanup(_)
            | Self::Get(_)
            | Self::Plan(_)
            | Self::Explain(_)
            | Self::Version
            | Self::Completion { .. } => tracing::Level::WARN,
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Run(args) => run::run(args),
            Self::Cleanup(args) => cleanup::run(args),
            Self::Get(args) => get::run(args),
            Self::Plan(args) => plan::run(args),
            Self::Explain(args) => explain::run(args),
            Self::Version => output::print(&format!("portreeve {}\n", env!("CARGO_PKG_VERSION"))),
            Self::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "portreeve", &mut script);
                output::print(&String::from_utf8(script)?)
            }
        }
    }
}
