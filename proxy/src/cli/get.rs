//! `get`: the data plane in the kernel by Service name, with or without an agent; and the DNS clients of a running agent.
//!
//! Except for DNS clients, all is read from the pinned maps; nothing is written. A running agent adds what the maps do not
//! hold: ages, labels, pods, nodes. In JSON and YAML each resource is one
//! object with a list of rows, see `frontends`, `backends`, `affinity` and `dns`. `--watch` prints one such object per
//! change: added and changed rows in the list, the ids of removed rows in `gone`. `--report` reads the same objects from the
//! archive of a report.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Subcommand;
use jiff::Timestamp;
use proxy_ebpf::abi::DropReason;

use super::agents::{self, FindArgs, Place};
use crate::datapath::{self, InspectError, KernelMaps};

mod affinity;
mod backends;
pub mod connection_counts;
mod connections;
pub mod details;
pub mod dns;
mod document;
mod footer;
mod format;
mod frontends;
mod json_path;
pub mod labels;
mod listing;
mod offline;
mod print;
pub mod selection;
#[cfg(test)]
mod tests;
mod traffic_count;

use affinity::AffinityRow;
use backends::BackendRow;
use connections::ConnectionRow;
use details::Details;
use document::{Document, Headers};
use footer::{Footer, Refusals};
use format::Format;
use frontends::FrontendRow;
use labels::Labels;
use listing::{Listing, Row};
use offline::OfflineArgs;
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
    #[command(flatten)]
    offline: OfflineArgs,
}

pub fn run(args: Args) -> Result<()> {
    match args.resource {
        Resource::Services(get) => get.run(SERVICES, frontends_of, |mut rows| {
            frontends::mark_first(&mut rows);
            rows.iter_mut().for_each(|row| row.set_age_at(Timestamp::now()));
            rows
        }),
        Resource::Backends(get) => get.run(BACKENDS, backends_of, |rows| rows),
        Resource::Connections(get) => get.run(CONNECTIONS, connections_of, |rows| rows),
        Resource::Affinity { get, stale } => get.run(AFFINITY, affinity_of, |mut rows| {
            rows.retain(|row| stale || row.is_followed());
            rows
        }),
        Resource::Dns(args) => dns::run(args),
    }
}

/// The files of the resources in a report.
const SERVICES: &str = "maps/services.json";
const BACKENDS: &str = "maps/backends.json";
const CONNECTIONS: &str = "maps/connections.json";
const AFFINITY: &str = "maps/affinity.json";
/// Limit of the rows of a file in a report.
const MAX_ROWS: usize = 50_000;

/// A resource in a report: the name of its file, and its JSON with the number of rows that were left out.
pub type Resourced = (&'static str, Result<(String, usize)>);

/// All resources that the kernel holds, for a report.
pub fn resources(Place { bpffs, socket, .. }: &Place) -> [Resourced; 4] {
    let details = Details { socket: socket.clone() };
    [
        (SERVICES, json(bpffs, &details, frontends_of)),
        (BACKENDS, json(bpffs, &details, backends_of)),
        (CONNECTIONS, json(bpffs, &details, connections_of)),
        (AFFINITY, json(bpffs, &details, affinity_of)),
    ]
}

fn json<R: Row>(
    bpffs: &Path,
    details: &Details,
    read: impl Fn(Source<'_>) -> Result<Listing<R>>,
) -> Result<(String, usize)> {
    let maps = datapath::inspect(bpffs)?;
    let labels = Labels::read(&maps)?;
    let selection = Selection::default();
    let mut listing = read(Source { maps: &maps, labels: &labels, selection: &selection, bpffs, details })?;
    let surplus = listing.rows.len().saturating_sub(MAX_ROWS);
    listing.rows.truncate(MAX_ROWS);
    Ok((Document::full(&listing).text(&Format::Json, Headers::Shown)?, surplus))
}

fn frontends_of(source: Source<'_>) -> Result<Listing<FrontendRow>> {
    let Source { maps, labels, selection, .. } = source;
    let is_up = source.name_server_is_up();
    let stats = |id| Ok((maps.service_stats(id)?, maps.service_connections(id)?));
    let mut rows = frontends::read(maps, labels, selection, is_up, stats)?;
    let (services, now) = (source.details.services(), Timestamp::now());
    rows.iter_mut().for_each(|row| row.set_age(&services, now));
    let has_node_ports = rows.iter().any(FrontendRow::is_node_port);
    let node_ports_at = has_node_ports.then(|| maps.node_port_addresses()).transpose()?;
    let (refusals, is_all) = (refusals(maps)?, selection.is_all());
    Ok(Listing { rows, footer: Footer::Frontends { refusals, is_all, node_ports_at } })
}

fn backends_of(source: Source<'_>) -> Result<Listing<BackendRow>> {
    let Source { maps, labels, selection, .. } = source;
    let connections = |family, reference| maps.backend_connections(family, reference);
    let mut rows = backends::read(maps, labels, selection, source.name_server_is_up(), connections)?;
    for row in &mut rows {
        let (family, reference) = row.reference();
        row.set_health(maps.backend_health(family, reference)?);
    }
    let endpoints = source.details.endpoints();
    rows.iter_mut().for_each(|row| row.set_details(&endpoints));
    Ok(Listing { rows, footer: Footer::Empty })
}

fn connections_of(
    Source { labels, selection, bpffs, details, .. }: Source<'_>,
) -> Result<Listing<ConnectionRow>> {
    let flows = datapath::inspect_flows(bpffs)?;
    let flows = flows.alive().collect::<Result<Vec<_>, _>>()?;
    let mut rows = connections::read(flows, labels, selection, datapath::now());
    let pods = details.pods();
    rows.iter_mut().for_each(|row| row.set_pod(&pods));
    Ok(Listing { rows, footer: Footer::Empty })
}

/// Also entries without effect.
fn affinity_of(Source { maps, labels, selection, details, .. }: Source<'_>) -> Result<Listing<AffinityRow>> {
    let entries = |family| maps.affinity(family);
    let mut rows = affinity::read(maps, labels, selection, entries, datapath::now())?;
    if rows.iter().any(AffinityRow::is_of_netns) {
        let addresses = datapath::netns_addresses();
        rows.iter_mut().for_each(|row| row.locate(&addresses));
        affinity::sort(&mut rows);
    }
    let pods = details.pods();
    rows.iter_mut().for_each(|row| row.set_pod(&pods));
    Ok(Listing { rows, footer: Footer::Empty })
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
    /// Prints a resource of the kernel, or of the file of a report. `finish` adds and removes what both have in common.
    fn run<R: Row>(
        self,
        file: &str,
        read: impl Fn(Source<'_>) -> Result<Listing<R>>,
        finish: impl Fn(Vec<R>) -> Vec<R>,
    ) -> Result<()> {
        let Self { selection: args, print, find, offline } = self;
        let selection = args.selection();
        let finish = |Listing { rows, footer }| Listing { rows: finish(rows), footer };
        if let Some(report) = offline.open()? {
            if args.selector().is_some() {
                bail!("labels are in the memory of a running agent only, and not in a report");
            }
            return print.print(|| offline::selected(&report, file, &selection).map(finish));
        }
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
            read(Source { maps, labels, selection, bpffs: &bpffs, details: &details }).map(finish)
        })
    }
}

/// The drop counters by name, including zeros, so that the JSON always has the same keys.
fn refusals(maps: &KernelMaps) -> Result<Refusals> {
    let count = |reason: DropReason| Ok((reason.name().into(), maps.drops(reason as u32)?));
    DropReason::ALL.into_iter().map(count).collect()
}
