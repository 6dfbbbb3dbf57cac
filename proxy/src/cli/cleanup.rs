//! `cleanup`: the end of the data plane, and of what kube-proxy left.

use std::path::Path;

use anyhow::{Result, bail};

use super::{output, run::PinArgs};
use crate::{
    datapath::{Pins, detach_devices, detach_xdp},
    error::chain,
    kube_proxy_state::{self, Leftover},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pins: PinArgs,
    /// Also remove what kube-proxy left in the kernel, whatever its mode was
    #[arg(long)]
    kube_proxy: bool,
    /// Remove only what kube-proxy left: for a node where the agent has taken over and runs
    #[arg(long, conflicts_with = "kube_proxy")]
    kube_proxy_only: bool,
}

pub fn run(args: Args) -> Result<()> {
    if !args.kube_proxy_only {
        remove_ours(&args.pins.bpffs)?;
    }
    if args.kube_proxy || args.kube_proxy_only {
        remove_kube_proxys()?;
    }
    Ok(())
}

/// Links go first; what was translated at the socket keeps its connection, new connections are on their own.
fn remove_ours(dir: &Path) -> Result<()> {
    // Where nftables cannot be asked, there is none of ours.
    if let Ok(1..) = kube_proxy_state::end_handover() {
        output::print("removed the tables that kept connections of kube-proxy's\n")?;
    }
    match Pins::acquire_existing(dir)? {
        Some(pins) => {
            detach_xdp(&pins)?;
            detach_devices(&pins)?;
            let removed = pins.remove()?;
            output::print(&format!("removed {removed} pins from {}\n", dir.display()))
        }
        None => output::print(&format!("nothing to remove at {}\n", dir.display())),
    }
}

/// What is removed is told before what is not, so that a second attempt knows where it stands.
fn remove_kube_proxys() -> Result<()> {
    let before = kube_proxy_state::survey();
    if let Some(running) = before.found.iter().find(|leftover| matches!(leftover, Leftover::Process(_))) {
        bail!("{}: end it first, as it would write its rules again", running.what());
    }
    let (removed, problems) = kube_proxy_state::remove();
    for what in &removed {
        output::print(&format!("removed {what}\n"))?;
    }
    let left = kube_proxy_state::survey();
    for leftover in &left.found {
        output::print(&format!("left: {}\n", leftover.what()))?;
        if let Some(command) = leftover.by_hand() {
            output::print(&format!("      to remove it: {command}\n"))?;
        }
    }
    if let Some(problem) = problems.iter().chain(&left.problems).next() {
        bail!("not everything of kube-proxy's could be removed: {}", chain(problem));
    }
    if !left.found.is_empty() {
        bail!("not everything of kube-proxy's could be removed, see above");
    }
    if removed.is_empty() { output::print("nothing of kube-proxy's is here\n") } else { Ok(()) }
}
