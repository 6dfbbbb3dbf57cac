//! The programs at their hooks, and the check that they are still there.

use std::{collections::BTreeSet, path::PathBuf};

use tracing::warn;

use super::devices::Devices;
use crate::{
    datapath::{self, Pins, Programs},
    observe::log_once::LogOnce,
};

/// What holds the programs at their hooks.
pub struct Attachment {
    programs: Programs,
    cgroup: PathBuf,
    pins: Pins,
    /// Sockets are translated.
    is_wanted: bool,
    devices: Devices,
    /// Why the programs are not at the cgroup.
    failure: LogOnce,
}

impl Attachment {
    pub fn new(programs: Programs, cgroup: PathBuf, pins: Pins, is_wanted: bool, devices: Devices) -> Self {
        Self { programs, cgroup, pins, is_wanted, devices, failure: LogOnce::default() }
    }

    /// What could not be attached when it was last tried, each in a sentence.
    pub fn failures(&self) -> BTreeSet<String> {
        let devices = self.devices.failures().iter().map(String::as_str);
        devices.chain(self.failure.last_error()).map(str::to_owned).collect()
    }

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
        let mut repaired = Vec::new();
        let outcome = datapath::repair(&mut self.programs, &self.cgroup, &self.pins, &mut repaired);
        self.failure.record("programs not attached", outcome);
        for hook in &repaired {
            warn!(hook, "program was not attached any more, attached again");
        }
        repaired.len()
    }
}
