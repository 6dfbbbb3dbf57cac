//! The early plane at the devices that lead to other machines, and what is told of it.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    config::XdpMode,
    datapath::{self, Device, EarlyDevice, EarlyHooks, Network, Pins, Programs},
    observe::{agent_state::Vitals, log_once::Grievance},
};

pub struct EarlyPlane {
    hooks: EarlyHooks,
    vitals: Arc<Vitals>,
    /// As they were last told in the log.
    known: Vec<EarlyDevice>,
    not_detached: Grievance,
    /// Where the program stands, for whoever keeps the neighbours there fresh.
    devices: watch::Sender<BTreeSet<u32>>,
}

impl EarlyPlane {
    pub fn new(mode: XdpMode, pins: &Pins, vitals: Arc<Vitals>) -> Self {
        let devices = watch::Sender::new(BTreeSet::new());
        tokio::spawn(datapath::keep_fresh(devices.subscribe()));
        let (known, not_detached) = (Vec::new(), Grievance::default());
        Self { hooks: EarlyHooks::new(mode, pins), vitals, known, not_detached, devices }
    }

    pub fn takes_frames(&self, device: &Device) -> bool {
        self.hooks.takes_frames(device.index)
    }

    /// Attaches what is missing; how many devices were repaired.
    pub fn keep(&mut self, programs: &Programs, network: &Network, devices: &[Device]) -> usize {
        let pass = self.hooks.keep(programs, network, devices);
        for iface in &pass.repaired {
            warn!(iface, "XDP program was not attached any more, attached again");
        }
        self.not_detached.note("XDP program not detached", pass.failed.map_or(Ok(()), Err));
        for device in pass.devices.iter().filter(|device| !self.known.contains(device)) {
            tell(device);
        }
        if self.known != pass.devices {
            self.vitals.set_early(&pass.devices);
            let served = pass.devices.iter().filter(|device| device.found.is_ok());
            self.devices.send_replace(served.map(|device| device.index).collect());
            self.known = pass.devices;
        }
        pass.repaired.len()
    }
}

fn tell(device: &EarlyDevice) {
    let iface = &device.name;
    match &device.found {
        Ok(place) => info!(iface, place = place.name(), "packets for other nodes leave by XDP"),
        Err(excuse) if device.is_fault => {
            warn!(iface, reason = %excuse, "no XDP here, the packet plane serves alone")
        }
        Err(excuse) => info!(iface, reason = %excuse, "no XDP here, the packet plane serves alone"),
    }
}
