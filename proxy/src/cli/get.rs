//! `get`: what the kernel holds, by Service name, whether or not an agent runs; and who asks a running agent for names.
//!
//! Everything but the latter is read from the pinned maps and nothing is written. The JSON and YAML of each kind is one
//! object with its rows in a list, see `frontends`, `backends`, `affinity` and `dns`; `--watch` prints one such object per change, with
//! the rows that are new or different in the list and what went in `gone`.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use proxy_ebpf::abi::DropReason;
use serde::Serialize;

use super::run::PinArgs;
use crate::datapath::{self, KernelMaps};

mod affinity;
mod aside;
mod backends;
mod connections;
mod dns;
mod document;
mod frontends;
mod labels;
mod selection;
#[cfg(test)]
mod tests;

use aside::{Aside, Refusals};
use document::Document;
use labels::Labels;
use selection::{Selection, SelectionArgs};

/// Stores into the memory of a map wake nobody, so looking again is all that can be done.
const WATCH_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// What clients dial: one row per address and port, with what became of the connections to its service port
    #[command(aliases = ["service", "svc"])]
    Services(GetArgs),
    /// Who serves: one row per address and port of a service port
    #[command(alias = "backend")]
    Backends(GetArgs),
    /// Flows that are translated per packet: one row per connection, or exchange over UDP
    #[command(aliases = ["connection", "conn"])]
    Connections(GetArgs),
    /// Which backend each client of a Service with ClientIP affinity comes back to
    Affinity {
        #[command(flatten)]
        get: GetArgs,
        /// Show also what is remembered but no longer followed: expired, or of a backend that is gone
        #[arg(long)]
        stale: bool,
    },
    /// Who asks the agent for which names, by pod, of late; who asks most comes first
    #[command(aliases = ["names", "clients"])]
    Dns(dns::Args),
}

#[derive(Debug, clap::Args)]
struct GetArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    printing: Printing,
    #[command(flatten)]
    pins: PinArgs,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Printing {
    /// For people, for programs, or just the names
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
    /// Go on and print whatever changes, until interrupted
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// 80 columns, unless a terminal has more
    Table,
    /// A table with everything, as broad as it gets
    Wide,
    Json,
    Yaml,
    /// One name per line
    Name,
}

/// One thing that is shown.
trait Row: Serialize {
    /// The name of the list in JSON and YAML.
    const LIST: &'static str;

    /// Tells it from all others of its kind.
    fn id(&self) -> String;
    /// What `-o name` prints; rows may share it.
    fn name(&self) -> String;
    fn header(is_wide: bool) -> Vec<&'static str>;
    fn cells(&self, is_wide: bool) -> Vec<String>;
    /// Whether it is as it was, but for time that has passed.
    fn is_like(&self, earlier: &Self) -> bool;
}

/// What one look found.
struct Held<R> {
    rows: Vec<R>,
    aside: Aside,
}

pub fn run(args: Args) -> Result<()> {
    match args.kind {
        Kind::Services(get) => get.run(|maps, labels, selection| {
            let rows = frontends::read(maps, labels, selection, |id| maps.service_stats(id))?;
            Ok(Held { rows, aside: Aside::Refusals(refusals(maps)?) })
        }),
        Kind::Backends(get) => get.run(|maps, labels, selection| {
            Ok(Held { rows: backends::read(maps, labels, selection), aside: Aside::Nothing })
        }),
        Kind::Connections(get) => {
            let bpffs = get.pins.bpffs.clone();
            get.run(|_, labels, selection| {
                let flows = datapath::inspect_flows(&bpffs)?;
                let rows = connections::read(flows.alive(), labels, selection, datapath::now());
                Ok(Held { rows, aside: Aside::Nothing })
            })
        }
        Kind::Affinity { get, stale } => get.run(|maps, labels, selection| {
            let entries = |family| maps.affinity(family);
            let mut rows = affinity::read(maps, labels, selection, entries, datapath::now())?;
            rows.retain(|row| stale || row.is_followed());
            Ok(Held { rows, aside: Aside::Nothing })
        }),
        Kind::Dns(args) => dns::run(args),
    }
}

impl GetArgs {
    fn run<R: Row>(self, read: impl Fn(&KernelMaps, &Labels, &Selection) -> Result<Held<R>>) -> Result<()> {
        let Self { selection, printing, pins: PinArgs { bpffs } } = self;
        let selection = selection.selection();
        // The maps are opened anew for each look: after a cleanup and a new start they are others.
        printing.print(|| {
            let maps = datapath::inspect(&bpffs)?;
            let labels = Labels::read(&maps)?;
            // Who watches may be waiting for it to appear.
            if let Some(name) = selection.unknown(&labels).filter(|_| !printing.watch) {
                bail!("no Service {name} in the data plane at {}", bpffs.display());
            }
            read(&maps, &labels, &selection)
        })
    }
}

impl Printing {
    /// What `look` finds, once or until interrupted.
    fn print<R: Row>(self, look: impl Fn() -> Result<Held<R>>) -> Result<()> {
        let mut known = look()?;
        let mut flow = Document::whole(&known).print(self.output)?;
        while self.watch && flow.is_continue() {
            thread::sleep(WATCH_EVERY);
            let held = look()?;
            if let Some(changes) = Document::changes(&known, &held) {
                flow = changes.print(self.output)?;
            }
            known = held;
        }
        Ok(())
    }
}

/// By name; what never happened is named too, so that the shape stays the same.
fn refusals(maps: &KernelMaps) -> Result<Refusals> {
    let count = |reason: DropReason| Ok((reason.name(), maps.drops(reason as u32)?));
    DropReason::ALL.into_iter().map(count).collect()
}
