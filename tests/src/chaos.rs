//! Chaos: agents end, stop and are replaced, endpoints change and hostile objects appear at random, under load through all planes.
//!
//! No connection may fail, reach another Service's pod, or break once it is open: of each Service some backends are sound all the
//! time, and the pods of the others serve on. In the end the state of each node is that of a fresh start.

mod hostile;
mod step;
mod world;

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

pub use step::Step;
use step::{NODES, Steps};
pub use world::Totals;
use world::World;

use crate::lab::{cluster::Cluster, traffic::now_us};

/// Ends, stops and replaces agents, changes endpoints and adds hostile objects at random, on three nodes under load. Needs root.
///
/// Exits with 1 if a connection failed, reached a wrong pod, or broke, or if a node's state in the end is not that of a fresh
/// start. The message has the seed and the number of steps that repeat it.
#[derive(Parser)]
#[command(name = "chaos", bin_name = "cargo xtask chaos", max_term_width = 100)]
struct Arguments {
    /// Time after which no further step is begun
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Repeats the steps of an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// End after this many steps
    #[arg(long)]
    steps: Option<usize>,
    /// Print each step
    #[arg(long)]
    verbose: bool,
}

/// The course of a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The step with this number, the first being 1, begins.
    Step(usize, &'a Step),
    /// During the last step so many connections came to take more than a second.
    Slow(u64),
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(number, step) => write!(to, "{number:>5} {step}"),
            Self::Slow(count) => write!(to, "      {count} connections took more than a second"),
        }
    }
}

/// The extent of a run, which ends with the first limit.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub seed: u64,
    pub time: Duration,
    pub steps: usize,
}

/// A run in which everything held.
#[derive(Debug)]
pub struct Outcome {
    pub steps: usize,
    pub totals: Totals,
}

/// Parses the command line and runs.
pub fn run() -> Result<()> {
    let Arguments { minutes, seed, steps, verbose } = Arguments::parse();
    let extent = Extent {
        seed: seed.unwrap_or_else(now_us),
        time: Duration::from_secs(60 * minutes),
        steps: steps.unwrap_or(usize::MAX),
    };
    let bar = ProgressBar::new(extent.time.as_secs());
    bar.set_style(ProgressStyle::with_template("{bar:20} {pos}/{len} s  {msg}")?);
    bar.println(format!("seed {}", extent.seed));
    let began = Instant::now();
    let shown = |event: Event<'_>| {
        bar.set_position(began.elapsed().as_secs());
        if let Event::Step(number, _) = event {
            bar.set_message(format!("step {number}"));
        }
        if verbose {
            bar.suspend(|| say(&event.to_string()));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            // Dropping the future drops its cluster.
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None).context("cannot listen for signals"),
            ended = chaos("chaos", extent, shown) => ended.map(Some),
        }
    });
    bar.finish_and_clear();
    match ended? {
        None => say(&format!("Interrupted; seed {}", extent.seed)),
        Some(Outcome { steps, totals: Totals { connections, slow, longest_us } }) => say(&format!(
            "seed {}: {steps} steps, {connections} connections, none failed; {slow} took more than a second, the longest {} ms",
            extent.seed,
            longest_us / 1000
        )),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "results of a command-line program")]
fn say(line: &str) {
    println!("{line}");
}

/// Runs on a cluster of its own. Errors: what did not hold, with the steps that repeat it.
pub async fn chaos(name: &str, extent: Extent, mut shown: impl FnMut(Event<'_>)) -> Result<Outcome> {
    let cluster = Cluster::start(name).nodes(NODES as u8).build().await?;
    let mut world = World::create(&cluster).await?;
    let end = Instant::now() + extent.time;
    let (mut done, mut slow): (Vec<Step>, u64) = (Vec::new(), 0);
    for step in Steps::new(extent.seed).take(extent.steps) {
        if Instant::now() >= end {
            break;
        }
        done.push(step);
        shown(Event::Step(done.len(), &step));
        match perform(&mut world, step).await {
            Ok(found) => {
                if found > slow {
                    shown(Event::Slow(found - slow));
                }
                slow = found;
            }
            Err(error) => bail!("{}", failure(extent.seed, &done, &error)),
        }
    }
    if let Err(error) = world.settle().await {
        bail!("at the end, {}", failure(extent.seed, &done, &error));
    }
    let totals = world.end().await?;
    Ok(Outcome { steps: done.len(), totals })
}

async fn perform(world: &mut World<'_>, step: Step) -> Result<u64> {
    world.perform(step).await?;
    world.check().await
}

/// The shortest run that is known to fail: all steps until the failure was seen.
fn failure(seed: u64, done: &[Step], error: &anyhow::Error) -> String {
    const LAST: usize = 10;
    let first = done.len().saturating_sub(LAST);
    let last: Vec<String> =
        done.iter().enumerate().skip(first).map(|(at, step)| format!("{:>5} {step}", at + 1)).collect();
    format!(
        "after step {}: {error:#}\nthe last steps:\n{}\nto repeat: cargo xtask chaos --seed {seed} --steps {}",
        done.len(),
        last.join("\n"),
        done.len()
    )
}
