//! `cleanup`: removes the data plane, and kube-proxy's leftovers.

use std::path::Path;

use anyhow::{Result, bail};

use super::{
    agents::{self, FindArgs},
    output,
};
use crate::{
    datapath::{Pins, detach_devices, detach_xdp},
    error::chain,
    kube_proxy_state::{self, Leftover},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    find: FindArgs,
    /// Also remove kube-proxy's leftovers from the kernel, in any mode
    #[arg(long)]
    kube_proxy: bool,
    /// Remove only kube-proxy's leftovers: for a node where the agent has taken over and runs
    #[arg(long, conflicts_with = "kube_proxy")]
    kube_proxy_only: bool,
}

pub fn run(args: Args) -> Result<()> {
    if !args.kube_proxy_only {
        remove_data_plane(&args.find.find()?.bpffs)?;
    }
    if args.kube_proxy || args.kube_proxy_only {
        remove_kube_proxy()?;
    }
    Ok(())
}

/// Removes links first. Connections of the socket LB survive; new connections are not translated.
fn remove_data_plane(dir: &Path) -> Result<()> {
    // An error means that nftables is not available: then there is no handover table either.
    if let Ok(1..) = kube_proxy_state::end_handover() {
        output::print("removed the tables that kept the connections of kube-proxy\n")?;
    }
    match Pins::acquire_existing(dir)? {
        Some(pins) => {
            detach_xdp(&pins)?;
            detach_devices(&pins)?;
            let removed = pins.remove()?;
            output::print(&format!("removed {removed} pins from {}\n", dir.display()))
        }
        None => {
            let hint = agents::hint(dir, None);
            output::print(&format!("nothing to remove at {}{hint}\n", dir.display()))
        }
    }
}

/// Prints the removed items before the remaining ones.
fn remove_kube_proxy() -> Result<()> {
    let before = kube_proxy_state::survey();
    if let Some(running) = before.found.iter().find(|leftover| matches!(leftover, Leftover::Process(_))) {
        bail!("{}: stop it first, it would write its rules again", running.description());
    }
    let (removed, errors) = kube_proxy_state::remove();
    for item in &removed {
        output::print(&format!("removed {item}\n"))?;
    }
    let left = kube_proxy_state::survey();
    for leftover in &left.found {
        output::print(&format!("left: {}\n", leftover.description()))?;
        if let Some(command) = leftover.manual_command() {
            output::print(&format!("      to remove it: {command}\n"))?;
        }
    }
    if let Some(error) = errors.iter().chain(&left.errors).next() {
        bail!("cannot remove all leftovers of kube-proxy: {}", chain(error));
    }
    if !left.found.is_empty() {
        bail!("cannot remove all leftovers of kube-proxy, see above");
    }
    if removed.is_empty() { output::print("no leftovers of kube-proxy\n") } else { Ok(()) }
}
