//! `get`: the data plane in the kernel by Service name, with or without an agent; and the DNS clients of a running agent.
//!
//! Except for DNS clients, all is read from the pinned maps; nothing is written. In JSON and YAML each resource is one
//! object with a list of rows, see `frontends`, `backends`, `affinity` and `dns`. `--watch` prints one such object per
//! change: added and changed rows in the list, the ids of removed rows in `gone`.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Subcommand;
use proxy_ebpf::abi::DropReason;

use super::agents::{self, FindArgs};
use crate::datapath::{self, InspectError, KernelMaps};

mod affinity;
mod backends;
mod connections;
mod dns;
mod document;
mod footer;
mod format;
mod frontends;
pub mod labels;
mod listing;
mod print;
pub mod selection;
#[cfg(test)]
mod tests;

use footer::{Footer, Refusals};
use labels::Labels;
use listing::{Listing, Row};
use print::PrintArgs;
use selection::{Selection, SelectionArgs};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    resource: Resource,
}

#[derive(Debug, Subcommand)]
enum Resource {
    /// Frontends: one row per address and port, with the connection counts of its service port
    #[command(aliases = ["service", "svc"])]
    Services(GetArgs),
    /// Backends: one row per address and port of a service port
    #[command(alias = "backend")]
    Backends(GetArgs),
    /// Flows of the packet LB: one row per connection, or per UDP flow
    #[command(aliases = ["connection", "conn"])]
    Connections(GetArgs),
    /// Affinity entries: the backend of each client of a Service with ClientIP affinity
    Affinity {
        #[command(flatten)]
        get: GetArgs,
        /// Also show entries without effect: expired, or of a removed backend
        #[arg(long)]
        stale: bool,
    },
    /// Recent DNS clients of the agent by pod, with the topics of their queries; most queries first
    #[command(aliases = ["names", "clients"])]
    Dns(dns::Args),
}

#[derive(Debug, clap::Args)]
struct GetArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    print: PrintArgs,
    #[command(flatten)]
    find: FindArgs,
}

pub fn run(args: Args) -> Result<()> {
    match args.resource {
        Resource::Services(get) => get.run(|source| {
            let Source { maps, labels, selection, .. } = source;
            let is_up = source.name_server_is_up();
            let rows = frontends::read(maps, labels, selection, is_up, |id| maps.service_stats(id))?;
            let has_node_ports = rows.iter().any(frontends::FrontendRow::is_node_port);
            let node_ports_at = has_node_ports.then(|| maps.node_port_addresses()).transpose()?;
            let (refusals, is_all) = (refusals(maps)?, selection.is_all());
            Ok(Listing { rows, footer: Footer::Frontends { refusals, is_all, node_ports_at } })
        }),
        Resource::Backends(get) => get.run(|source| {
            let Source { maps, labels, selection, .. } = source;
            let rows = backends::read(maps, labels, selection, source.name_server_is_up())?;
            Ok(Listing { rows, footer: Footer::Empty })
        }),
        Resource::Connections(get) => get.run(|Source { labels, selection, bpffs, .. }| {
            let flows = datapath::inspect_flows(bpffs)?;
            let flows = flows.alive().collect::<Result<Vec<_>, _>>()?;
            let rows = connections::read(flows, labels, selection, datapath::now());
            Ok(Listing { rows, footer: Footer::Empty })
        }),
        Resource::Affinity { get, stale } => get.run(|Source { maps, labels, selection, .. }| {
            let entries = |family| maps.affinity(family);
            let mut rows = affinity::read(maps, labels, selection, entries, datapath::now())?;
            rows.retain(|row| stale || row.is_followed());
            if rows.iter().any(affinity::AffinityRow::is_of_netns) {
                let addresses = datapath::netns_addresses();
                rows.iter_mut().for_each(|row| row.locate(&addresses));
            }
            Ok(Listing { rows, footer: Footer::Empty })
        }),
        Resource::Dns(args) => dns::run(args),
    }
}

/// The opened data plane, and the part of it that is asked for.
struct Source<'a> {
    maps: &'a KernelMaps,
    labels: &'a Labels,
    selection: &'a Selection,
    bpffs: &'a Path,
}

impl Source<'_> {
    /// Whether the programs use the node's name server. An unreadable heartbeat is none.
    fn name_server_is_up(&self) -> bool {
        datapath::name_server_is_alive(self.bpffs).unwrap_or(false)
    }
}

impl GetArgs {
    fn run<R: Row>(self, read: impl Fn(Source<'_>) -> Result<Listing<R>>) -> Result<()> {
        let Self { selection, print, find } = self;
        let selection = selection.selection();
        let bpffs = find.find()?.bpffs;
        // Open the maps for each read: `cleanup` and a new start replace them.
        print.print(|| {
            let maps = match datapath::inspect(&bpffs) {
                Err(error @ InspectError::NoDataPlane(_)) => bail!("{error}{}", agents::hint(&bpffs, None)),
                opened => opened?,
            };
            let labels = Labels::read(&maps)?;
            // With --watch the Service may appear later.
            if let Some(name) = selection.unknown(&labels).filter(|_| !print.watch) {
                bail!("no Service {name} in the data plane at {}", bpffs.display());
            }
            read(Source { maps: &maps, labels: &labels, selection: &selection, bpffs: &bpffs })
        })
    }
}

/// The drop counters by name, including zeros, so that the JSON always has the same keys.
fn refusals(maps: &KernelMaps) -> Result<Refusals> {
    let count = |reason: DropReason| Ok((reason.name(), maps.drops(reason as u32)?));
    DropReason::ALL.into_iter().map(count).collect()
}
