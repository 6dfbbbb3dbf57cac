//! `get`: the data plane in the kernel by Service name, with or without an agent; and the DNS clients of a running agent.
//!
//! Except for DNS clients, all is read from the pinned maps; nothing is written. A running agent adds what the maps do not
//! hold: ages, labels, pods, nodes. In JSON and YAML each resource is one
//! object with a list of rows, see `frontends`, `backends`, `affinity` and `dns`. `--watch` prints one such object per
//! change: added and changed rows in the list, the ids of removed rows in `gone`.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Subcommand;
use jiff::Timestamp;
use proxy_ebpf::abi::DropReason;

use super::agents::{self, FindArgs, Place};
use crate::datapath::{self, InspectError, KernelMaps};

mod affinity;
mod backends;
mod connections;
mod details;
mod dns;
mod document;
mod footer;
mod format;
mod frontends;
mod json_path;
pub mod labels;
mod listing;
mod print;
pub mod selection;
#[cfg(test)]
mod tests;

use details::Details;
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
            let mut rows = frontends::read(maps, labels, selection, is_up, |id| maps.service_stats(id))?;
            let (services, now) = (source.details.services(), Timestamp::now());
            rows.iter_mut().for_each(|row| row.set_age(&services, now));
            let has_node_ports = rows.iter().any(frontends::FrontendRow::is_node_port);
            let node_ports_at = has_node_ports.then(|| maps.node_port_addresses()).transpose()?;
            let (refusals, is_all) = (refusals(maps)?, selection.is_all());
            Ok(Listing { rows, footer: Footer::Frontends { refusals, is_all, node_ports_at } })
        }),
        Resource::Backends(get) => get.run(|source| {
            let Source { maps, labels, selection, .. } = source;
            let mut rows = backends::read(maps, labels, selection, source.name_server_is_up())?;
            let endpoints = source.details.endpoints();
            rows.iter_mut().for_each(|row| row.set_details(&endpoints));
            Ok(Listing { rows, footer: Footer::Empty })
        }),
        Resource::Connections(get) => get.run(|Source { labels, selection, bpffs, details, .. }| {
            let flows = datapath::inspect_flows(bpffs)?;
            let flows = flows.alive().collect::<Result<Vec<_>, _>>()?;
            let mut rows = connections::read(flows, labels, selection, datapath::now());
            let pods = details.pods();
            rows.iter_mut().for_each(|row| row.set_pod(&pods));
            Ok(Listing { rows, footer: Footer::Empty })
        }),
        Resource::Affinity { get, stale } => {
            get.run(|Source { maps, labels, selection, details, .. }| {
                let entries = |family| maps.affinity(family);
                let mut rows = affinity::read(maps, labels, selection, entries, datapath::now())?;
                rows.retain(|row| stale || row.is_followed());
                if rows.iter().any(affinity::AffinityRow::is_of_netns) {
                    let addresses = datapath::netns_addresses();
                    rows.iter_mut().for_each(|row| row.locate(&addresses));
                }
                let pods = details.pods();
                rows.iter_mut().for_each(|row| row.set_pod(&pods));
                Ok(Listing { rows, footer: Footer::Empty })
            })
        }
        Resource::Dns(args) => dns::run(args),
    }
}

/// The opened data plane, and the part of it that is asked for.
struct Source<'a> {
    maps: &'a KernelMaps,
    labels: &'a Labels,
    selection: &'a Selection,
    bpffs: &'a Path,
    details: &'a Details,
}

impl Source<'_> {
    /// Whether the programs use the node's name server. An unreadable heartbeat is none.
    fn name_server_is_up(&self) -> bool {
        datapath::name_server_is_alive(self.bpffs).unwrap_or(false)
    }
}

impl GetArgs {
    fn run<R: Row>(self, read: impl Fn(Source<'_>) -> Result<Listing<R>>) -> Result<()> {
        let Self { selection: args, print, find } = self;
        let selection = args.selection();
        let Place { bpffs, socket, .. } = find.find()?;
        let details = Details { socket };
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
            let labelled = args.selector().map(|selector| details.labelled(selector)).transpose()?;
            let selection = selection.among(labelled);
            let (maps, labels, selection) = (&maps, &labels, &selection);
            read(Source { maps, labels, selection, bpffs: &bpffs, details: &details })
        })
    }
}

/// The drop counters by name, including zeros, so that the JSON always has the same keys.
fn refusals(maps: &KernelMaps) -> Result<Refusals> {
    let count = |reason: DropReason| Ok((reason.name(), maps.drops(reason as u32)?));
    DropReason::ALL.into_iter().map(count).collect()
}
