//! `cleanup`: the end of the data plane.

use anyhow::Result;

use super::{output, run::PinArgs};
use crate::datapath::{Pins, detach_devices};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pins: PinArgs,
}

/// Links go first; what was translated at the socket keeps its connection, new connections are on their own.
pub fn run(args: Args) -> Result<()> {
    let dir = args.pins.bpffs;
    match Pins::acquire_existing(&dir)? {
        Some(pins) => {
            detach_devices(&pins)?;
            let removed = pins.remove()?;
            output::print(&format!("removed {removed} pins from {}\n", dir.display()))
        }
        None => output::print(&format!("nothing to remove at {}\n", dir.display())),
    }
}
