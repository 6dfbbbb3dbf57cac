//! The programs at their hooks, and the check that they are still there.

use std::path::PathBuf;

use tracing::warn;

use super::devices::Devices;
use crate::{
    datapath::{self, Pins, Programs},
    error::chain,
};

/// What holds the programs at their hooks.
pub struct Attachment {
    pub programs: Programs,
    pub cgroup: PathBuf,
    pub pins: Pins,
    pub is_wanted: bool,
    pub devices: Devices,
}

impl Attachment {
    /// Somebody may have detached a program, or put another in its place: how many hooks were repaired.
    pub fn verify(&mut self) -> usize {
        self.verify_cgroup() + self.devices.keep(&self.programs)
    }

    /// Devices come and go. How many hooks were repaired.
    pub async fn devices_changed(&mut self) -> usize {
        self.devices.changed().await;
        self.devices.keep(&self.programs)
    }

    fn verify_cgroup(&mut self) -> usize {
        if !self.is_wanted {
            return 0;
        }
        match datapath::repair(&mut self.programs, &self.cgroup, &self.pins) {
            Ok(repaired) => {
                for hook in &repaired {
                    warn!(hook, "program was not attached any more, attached again");
                }
                repaired.len()
            }
            Err(error) => {
                warn!(error = %chain(&error), "programs not attached, will retry");
                0
            }
        }
    }
}
