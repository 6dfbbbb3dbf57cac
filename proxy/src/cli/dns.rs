//! `dns`: the DNS server without the agent, and `dns check`.

mod check;

use anyhow::Result;
use clap::Subcommand;

use super::{
    dns_args::{DnsArgs, ServerRole},
    source_args::SourceArgs,
};
use crate::run;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    dns: DnsArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a Corefile line by line: done, ignored or refused; exit code 1 if a line is refused
    Check(check::Args),
}

impl Args {
    /// Whether the server runs, which logs its lifecycle.
    pub fn is_server(&self) -> bool {
        self.verb.is_none()
    }
}

pub fn run(Args { source, dns, verb }: Args) -> Result<()> {
    if let Some(Verb::Check(args)) = verb {
        return check::run(args);
    }
    let config = dns.config(ServerRole::Standalone)?;
    let objects = source.objects_or(config.api_server());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run::name_server(objects, config))
}
