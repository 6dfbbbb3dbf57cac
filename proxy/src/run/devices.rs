//! The devices of the packet plane, and the programs at their hooks.

use std::collections::BTreeSet;

use anyhow::Result;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{
    config::DeviceConfig,
    datapath::{Device, DeviceHooks, Network, Pins, Programs, choose},
    error::chain,
};

pub struct Devices {
    network: watch::Receiver<Network>,
    config: DeviceConfig,
    hooks: DeviceHooks,
    /// As they were last told in the log.
    known: Vec<Device>,
    /// Failures of the last pass, each of which was told.
    complained: BTreeSet<String>,
}

impl Devices {
    pub fn new(network: watch::Receiver<Network>, config: DeviceConfig, pins: &Pins) -> Result<Self> {
        let hooks = DeviceHooks::new(config.tc, pins)?;
        Ok(Self { network, config, hooks, known: Vec::new(), complained: BTreeSet::new() })
    }

    /// Waits until the network is another one.
    pub async fn changed(&mut self) {
        if self.network.changed().await.is_err() {
            // Whoever follows it never ends before we do.
            std::future::pending::<()>().await;
        }
    }

    /// Attaches what is missing; how many hooks were repaired.
    pub fn keep(&mut self, programs: &Programs) -> usize {
        let devices = choose(&self.network.borrow_and_update(), &self.config);
        let pass = self.hooks.keep(programs, &devices);
        for (program, iface) in &pass.repaired {
            warn!(program, iface, "program was not attached any more, attached again");
        }
        let failures: BTreeSet<String> = pass.failed.iter().map(|error| chain(error)).collect();
        for error in failures.difference(&self.complained) {
            warn!(error, "device not served, will retry");
        }
        self.complained = failures;
        self.tell(devices, pass.in_place);
        pass.repaired.len()
    }

    fn tell(&mut self, devices: Vec<Device>, hooks: usize) {
        if self.known.is_empty() && !devices.is_empty() {
            info!(devices = devices.len(), hooks, "devices are served");
        }
        for device in devices.iter().filter(|device| !self.known.contains(device)) {
            debug!(iface = device.name, role = ?device.role, index = device.index, "device is served");
        }
        self.known = devices;
    }
}
