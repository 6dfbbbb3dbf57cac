//! `dns`: the DNS server without the agent.

use anyhow::Result;

use super::{
    dns_args::{DnsArgs, ServerRole},
    source_args::SourceArgs,
};
use crate::run;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    dns: DnsArgs,
}

pub fn run(Args { source, dns }: Args) -> Result<()> {
    let config = dns.config(ServerRole::Standalone)?;
    let objects = source.objects_or(config.api_server());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run::name_server(objects, config))
}
