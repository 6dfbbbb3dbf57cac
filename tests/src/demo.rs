//! The demo: the voting application of `examples/`, its pods as real processes, and connections balanced between
//! them.
//!
//! It takes about twenty seconds: all pods serve, a pod is removed and added again, an agent is killed and
//! restarted. On a terminal it then continues until Ctrl-C. It removes everything that it created, however it
//! ends.

#![expect(clippy::print_stdout, reason = "a demo prints to its terminal")]

mod cluster;
mod recording;
mod screen;
mod tour;

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::demo::{cluster::DemoCluster, screen::Screen};

/// Balances connections between the pods of a small application, in network namespaces of this machine.
///
/// Needs root: it creates namespaces and cgroups and starts an agent per node, which loads eBPF programs. It
/// changes nothing outside those namespaces, and removes all of it at the end.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    /// End after the tour, on a terminal too.
    #[arg(long)]
    once: bool,
    /// Record the demo as a picture, and end after the tour.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Parses the command line and runs the demo.
pub fn run() -> Result<()> {
    let Arguments { once, svg } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let screen = Screen::new(svg.is_some());
    let ended = runtime.block_on(async {
        tokio::select! {
            // Dropping the future drops its cluster, at any stage.
            name = interrupted() => name.map(Some),
            ended = show(&screen, once || svg.is_some()) => ended.map(|()| None),
        }
    });
    screen.clear();
    match (ended?, svg, screen.svg()) {
        (Some(name), ..) => println!(" {name}: nodes, pods, agents, programs and pins are removed."),
        (None, Some(file), Some(picture)) => {
            fs::write(&file, picture).with_context(|| format!("cannot write {}", file.display()))?;
        }
        (None, ..) => {}
    }
    Ok(())
}

async fn show(screen: &Screen, once: bool) -> Result<()> {
    screen.say("");
    screen.title("Portreeve: the voting application on two nodes");
    screen.say("");
    let mut cluster = DemoCluster::build(screen).await?;
    tour::run(screen, &mut cluster).await?;
    let stays = io::stdout().is_terminal() && !once;
    cluster.print_next_steps(screen, stays)?;
    if stays {
        tour::run_until_interrupted(screen, &mut cluster).await?;
    }
    let report = cluster.end().await?;
    screen.clear();
    screen.say(&format!(" {}", cluster::summary(&report)));
    anyhow::ensure!(report.failed() == 0, "connections failed: {:?}", report.failures);
    Ok(())
}

/// The name of the signal that ends the demo.
async fn interrupted() -> Result<&'static str> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "Interrupted",
        _ = terminate.recv() => "Terminated",
        _ = hang_up.recv() => "Hung up",
    })
}
