//! `dns`: only the DNS server.

use anyhow::Result;

use super::{
    dns_args::{Answering, DnsArgs},
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
    let config = dns.config(Answering::Alone)?;
    let objects = source.objects_or(config.api_server());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run::name_server(objects, config))
}
