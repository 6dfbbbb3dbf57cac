//! The command line of the measurements.

#![expect(clippy::print_stdout, reason = "a measurement prints its result")]

use std::{num::NonZeroU32, time::Duration};

use anyhow::{Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use super::{atomicity, connect, dns, instructions, packet, scale, sync};

/// Measures the promises of Portreeve. Needs root: it creates network namespaces, cgroups and eBPF programs.
#[derive(Parser)]
#[command(name = "bench", bin_name = "cargo xtask bench", max_term_width = 100)]
enum Bench {
    Connect(Connect),
    Atomicity(Atomicity),
    Sync(Sync),
    Dns(Dns),
    Packet(Packet),
    Instructions(Instructions),
    Scale(Scale),
}

/// Compares connecting to a ClusterIP with connecting to its pod, over both families, TCP and UDP.
///
/// One process connects alternately to the pod and to the ClusterIP, with many other Services loaded. Exits with
/// 1 if a TCP connect to the ClusterIP costs more than the limit.
#[derive(clap::Args)]
struct Connect {
    /// Services loaded besides the dialled one
    #[arg(long, default_value_t = 10_000)]
    services: u16,
    /// Rounds, each of which gives one ratio
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Connects per path and round
    #[arg(long, default_value_t = 200)]
    connects: u32,
    /// The highest acceptable ratio of ClusterIP to direct
    #[arg(long, default_value_t = 1.05)]
    limit: f64,
    /// Measure again without the program that counts the connections of sockets
    #[arg(long)]
    compare_counting: bool,
}

/// Connects to one ClusterIP while its backends change, and reports failures and answers of wrong backends.
///
/// Exits with 1 if a connect failed, or reached a backend after the switch away from it.
#[derive(clap::Args)]
struct Atomicity {
    /// Connects of all clients together
    #[arg(long, default_value_t = 1_000_000)]
    connects: u64,
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    changes_per_second: u32,
    /// Give the Service ClientIP affinity with this timeout
    #[arg(long, value_name = "SECONDS")]
    affinity: Option<NonZeroU32>,
    /// Repeats the choice of backends of another run
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures one agent from an API server's objects to the maps: its start, single changes, and a relist.
///
/// Exits with 1 if the agent exceeds a limit.
#[derive(clap::Args)]
struct Sync {
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of each Service
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Changes to measure
    #[arg(long, default_value_t = 2000)]
    changes: u32,
    /// Changes of other Services per second, for the second round
    #[arg(long, default_value_t = 1000)]
    others: u32,
    /// Let the server page lists, as servers without streaming lists do
    #[arg(long)]
    pages: bool,
    /// Let the agent serve DNS too, and measure each change until the new endpoint's name resolves
    #[arg(long)]
    names: bool,
    /// The highest acceptable time from synced to programmed, in milliseconds
    #[arg(long, default_value_t = 100)]
    programmed_within: u64,
    /// The highest acceptable time from a change to its effect for 99 % of the changes, in milliseconds
    #[arg(long, default_value_t = 5)]
    usable_within: u64,
}

/// Queries a DNS server for 10,000 names in random order, and reports queries per second, latency and memory.
///
/// If $COREDNS names a binary, it is measured in the same way, and the ratios are reported.
#[derive(clap::Args)]
struct Dns {
    /// Services in the cluster, most of them with 10 endpoints
    #[arg(long, default_value_t = 10_000)]
    services: u16,
    /// For each kind of name, at full speed and again with one query at a time
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Queries in flight at full speed
    #[arg(long, default_value_t = 128)]
    window: u16,
}

/// Sends packets through the programs at devices, one run each, and reports the time of each by the kernel's
/// clock.
///
/// External clients dial the NodePort of a Service whose backend is on another node. A program changes its packet
/// and cannot be repeated on it, so an empty program runs alternately with each; its time is the cost of
/// measuring.
#[derive(clap::Args)]
struct Packet {
    /// Flows in the tables, a round for each number
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000, 100_000], value_name = "NUMBERS",
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    flows: Vec<u32>,
    /// Packets for each line; new flows stay in the tables, which hold 131,072
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
}

/// Does one piece of the agent's work, which `cargo xtask bench --check` counts in instructions.
#[derive(clap::Args)]
struct Instructions {
    /// The work; without it the names of all are printed
    task: Option<String>,
}

/// Computes what the objects of a large cluster cost its API servers and each agent, by their sizes on the wire.
#[derive(clap::Args)]
struct Scale {
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    services: u32,
    /// Pods that are replaced, per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    churn: u32,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    api_servers: u32,
    /// Of each API server, in Gbit/s
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    network: u32,
}

/// Parses the command line and runs the measurement.
pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Bench::parse() {
        Bench::Connect(arguments) => runtime.block_on(connect(&arguments)),
        Bench::Atomicity(arguments) => runtime.block_on(atomicity(&arguments)),
        Bench::Sync(arguments) => runtime.block_on(sync(&arguments)),
        Bench::Dns(arguments) => runtime.block_on(dns(&arguments)),
        Bench::Packet(arguments) => packet(&arguments),
        Bench::Scale(arguments) => {
            print!("{}", scale_of(&arguments));
            Ok(())
        }
        Bench::Instructions(Instructions { task: Some(task) }) => instructions::run(&task),
        Bench::Instructions(Instructions { task: None }) => {
            instructions::names().for_each(|name| println!("{name}"));
            Ok(())
        }
    }
}

async fn connect(arguments: &Connect) -> Result<()> {
    let Connect { services, rounds, connects, limit, compare_counting } = *arguments;
    println!("{services} Services, {rounds} rounds of {connects} connects per path");
    let parameters =
        connect::Parameters { services, rounds, connects, is_counting_compared: compare_counting };
    let report = connect::run(&parameters).await?;
    println!("{report}");
    let above_limit = report.above_limit(limit);
    ensure!(
        above_limit.is_empty(),
        "connecting to a ClusterIP costs more than {limit}: {}",
        above_limit.join(", ")
    );
    Ok(())
}

async fn atomicity(arguments: &Atomicity) -> Result<()> {
    let Atomicity { connects, changes_per_second, affinity, seed } = *arguments;
    println!("{connects} connects while backends change {changes_per_second} times a second");
    let parameters = atomicity::Parameters { connects, changes_per_second, affinity, seed };
    let report = atomicity::run(&parameters).await?;
    println!("{report}");
    ensure!(report.holds(), "a switch of backends was not atomic");
    Ok(())
}

fn scale_of(arguments: &Scale) -> scale::Report {
    let Scale { nodes, services, churn, api_servers, network } = *arguments;
    scale::compute(scale::Parameters {
        nodes,
        services,
        churn: churn.into(),
        api_servers,
        network: f64::from(network) * 1e9,
    })
}

fn packet(arguments: &Packet) -> Result<()> {
    let Packet { flows, runs } = arguments;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} lines, {eta} left")?;
    // Hidden without a terminal.
    let bar = ProgressBar::new(0).with_style(style);
    let report = packet::run(&packet::Parameters { flows: flows.clone(), runs: *runs }, &bar)?;
    bar.finish_and_clear();
    print!("{report}");
    Ok(())
}

async fn dns(arguments: &Dns) -> Result<()> {
    let Dns { services, seconds, window } = *arguments;
    println!("{services} Services, {seconds} s for each kind of name, {window} queries in flight");
    let parameters = dns::Parameters { services, time: Duration::from_secs(seconds), window };
    println!("{}", dns::run(&parameters).await?);
    Ok(())
}

async fn sync(arguments: &Sync) -> Result<()> {
    let Sync { services, endpoints, changes, others, pages, names, programmed_within, usable_within } =
        *arguments;
    println!("{services} Services with {endpoints} endpoints each");
    let parameters = sync::Parameters {
        services,
        endpoints,
        changes,
        others_per_second: others,
        streams_lists: !pages,
        names,
    };
    let report = sync::run(&parameters).await?;
    println!("{report}");
    let (programmed, usable) =
        (Duration::from_millis(programmed_within), Duration::from_millis(usable_within));
    ensure!(report.synced_to_programmed <= programmed, "programming takes longer than {programmed:?}");
    ensure!(report.alone.live.within(0.99) <= usable, "a change takes longer than {usable:?}");
    Ok(())
}
