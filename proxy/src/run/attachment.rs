//! The attached programs, and the check that they are still attached.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, warn};

use super::devices::Devices;
use crate::{
    datapath::{self, Pins, Programs, SocketReader},
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
    sockets: Option<Arc<SocketReader>>,
    /// The last reading of sockets, which may still run.
    reading: Option<JoinHandle<()>>,
}

impl Attachment {
    pub fn new(mut programs: Programs, cgroup: PathBuf, pins: Pins, devices: Devices) -> Self {
        let sockets = programs.take_socket_reader().map(Arc::new);
        Self { programs, cgroup, pins, devices, failure: LogOnce::default(), sockets, reading: None }
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

    /// Reads the sockets of open connections, beside everything else, unless that still goes on.
    pub fn read_sockets(&mut self) {
        let Some(sockets) = &self.sockets else { return };
        if self.reading.as_ref().is_none_or(JoinHandle::is_finished) {
            let sockets = Arc::clone(sockets);
            self.reading = Some(spawn_blocking(move || {
                if let Err(error) = sockets.run() {
                    debug!(%error, "the sockets of open connections were not all read");
                }
            }));
        }
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
