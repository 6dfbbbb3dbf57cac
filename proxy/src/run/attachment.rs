//! The attached programs, and the check that they are still attached.

use std::{collections::BTreeSet, path::PathBuf};

use tracing::warn;

use super::devices::Devices;
use crate::{
    datapath::{self, Pins, Programs},
    observe::log_once::LogOnce,
};

/// The programs and their hooks.
pub struct Attachment {
    programs: Programs,
    cgroup: PathBuf,
    pins: Pins,
    devices: Devices,
    /// The failure to attach to the cgroup.
    failure: LogOnce,
}

impl Attachment {
    pub fn new(programs: Programs, cgroup: PathBuf, pins: Pins, devices: Devices) -> Self {
        Self { programs, cgroup, pins, devices, failure: LogOnce::default() }
    }

    /// The attach errors of the last attempt, each in a sentence.
    pub fn failures(&self) -> BTreeSet<String> {
        let devices = self.devices.failures().iter().map(String::as_str);
        devices.chain(self.failure.last_error()).map(str::to_owned).collect()
    }

    /// Attaches again programs that another process detached or replaced. Returns the number of repaired
    /// hooks.
    pub fn verify(&mut self) -> usize {
        self.verify_cgroup() + self.devices.keep(&self.programs)
    }

    /// Waits for a change of devices and attaches to new ones. Returns the number of repaired hooks.
    pub async fn devices_changed(&mut self) -> usize {
        self.devices.changed().await;
        self.devices.keep(&self.programs)
    }

    fn verify_cgroup(&mut self) -> usize {
        let mut repaired = Vec::new();
        let outcome = datapath::repair(&mut self.programs, &self.cgroup, &self.pins, &mut repaired);
        self.failure.record("programs not attached", outcome);
        for hook in &repaired {
            warn!(hook, "program was detached, attached again");
        }
        repaired.len()
    }
}
