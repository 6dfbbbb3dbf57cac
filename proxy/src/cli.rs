//! The command line: one file per verb. Exit codes: 0 done, 1 failed with one sentence on stderr, 2 wrong usage, 3 done
//! but something was skipped (`plan`).

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

mod agents;
mod check;
mod cleanup;
mod connectivity;
mod control;
mod device_args;
mod dns;
mod dns_args;
mod effective_config;
mod events;
mod explain;
mod frontend_name;
mod get;
mod go_flags;
mod human_bytes;
mod human_duration;
mod kube_proxy_args;
mod log_level;
pub mod logging;
mod name_server_args;
mod objects_args;
mod output;
mod plan;
pub mod policy_args;
mod report;
mod run;
mod source_args;
mod status;
mod table_args;
mod table_room;
mod top;
mod usage;

use logging::LoggingArgs;
use policy_args::PolicyArgs;

use crate::kube_proxy_config::ConfigFile;

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
    Run(Box<run::Args>),
    /// Run only the DNS server, which SIGTERM ends; or check a Corefile
    Dns(dns::Args),
    /// Show the state of the agent, its faults and the table fill; exit code 1 if degraded
    Status(status::Args),
    /// Check the requirements of the agent on this node, each line with its remedy; exit code 1 if one is not met
    Check(check::Args),
    /// Remove everything the agent made: pins, links and maps; refuses while an agent runs
    Cleanup(cleanup::Args),
    /// Show the data plane in the kernel by Service name, with or without an agent; and the agent's DNS clients
    Get(get::Args),
    /// Show the frontends that would be programmed on a node; needs no privileges
    Plan(plan::Args),
    /// Show the verdict on one flow, with the reason
    Explain(Box<explain::Args>),
    /// Show the busiest Services and DNS clients live: connections, bytes, failures, time to connect
    Top(top::Args),
    /// Show flow events of this node as they happen: new flows, refusals with their reason, failed connections
    Events(events::Args),
    /// Connect from this node to every backend and frontend, and show which connections fail and why; exit code 1 if one does
    Connectivity(connectivity::Args),
    /// Write one archive for a bug report, which `plan`, `explain` and `get` can answer from
    Report(report::Args),
    /// Show or change the log level of the running agent
    LogLevel(log_level::Args),
    /// Print the version
    Version,
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Parses the arguments, including kube-proxy's flags in Go syntax.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Self {
        Self::try_parse_from(go_flags::normalize(args)).unwrap_or_else(|error| usage::in_words(error).exit())
    }

    pub fn run(self) -> ExitCode {
        match self.try_run() {
            Ok(code) => code,
            Err(error) => {
                output::print_error(&error);
                ExitCode::FAILURE
            }
        }
    }

    fn try_run(self) -> Result<ExitCode> {
        // The file may set the log level and format.
        let policy = self.verb.policy();
        let file = policy.and_then(PolicyArgs::config_file).map(ConfigFile::read).transpose()?;
        let of_file = file.as_ref().map(|file| file.settings.logging);
        logging::start(&self.logging, self.verb.default_level(), of_file);
        if let (Some(policy), Some(file)) = (policy, &file) {
            effective_config::warn_about(file, policy);
        }
        self.verb.run(file)
    }
}

impl Verb {
    /// The log level without flags: lifecycle messages for servers, warnings for all other verbs.
    fn default_level(&self) -> tracing::Level {
        match self {
            Self::Run(_) => tracing::Level::INFO,
            Self::Dns(args) if args.is_server() => tracing::Level::INFO,
            Self::Dns(_)
            | Self::Cleanup(_)
            | Self::Status(_)
            | Self::Check(_)
            | Self::Get(_)
            | Self::Plan(_)
            | Self::Explain(_)
            | Self::Top(_)
            | Self::Events(_)
            | Self::Connectivity(_)
            | Self::Report(_)
            | Self::LogLevel(_)
            | Self::Version
            | Self::Completion { .. } => tracing::Level::WARN,
        }
    }

    /// The policy flags of the verbs that accept kube-proxy's file (`--config`).
    fn policy(&self) -> Option<&PolicyArgs> {
        match self {
            Self::Run(args) => Some(&args.policy),
            Self::Plan(args) => Some(&args.policy),
            Self::Explain(args) => Some(&args.policy),
            Self::Dns(_)
            | Self::Cleanup(_)
            | Self::Status(_)
            | Self::Check(_)
            | Self::Get(_)
            | Self::Top(_)
            | Self::Events(_)
            | Self::Connectivity(_)
            | Self::Report(_)
            | Self::LogLevel(_)
            | Self::Version
            | Self::Completion { .. } => None,
        }
    }

    fn run(self, file: Option<ConfigFile>) -> Result<ExitCode> {
        let done = match self {
            Self::Plan(args) => return plan::run(args, file.as_ref()),
            Self::Run(args) => run::run(*args, file),
            Self::Dns(args) => dns::run(args),
            Self::Cleanup(args) => cleanup::run(args),
            Self::Status(args) => status::run(args),
            Self::Check(args) => check::run(args),
            Self::Get(args) => get::run(args),
            Self::Explain(args) => explain::run(*args, file.as_ref()),
            Self::Top(args) => top::run(args),
            Self::Events(args) => events::run(args),
            Self::Connectivity(args) => connectivity::run(args),
            Self::Report(args) => report::run(args),
            Self::LogLevel(args) => log_level::run(args),
            Self::Version => output::print(&format!("portreeve {}\n", env!("CARGO_PKG_VERSION"))),
            Self::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "portreeve", &mut script);
                output::print(&String::from_utf8(script)?)
            }
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}
