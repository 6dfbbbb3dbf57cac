//! The early plane at the devices that lead to other machines, and what is told of it.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    config::XdpMode,
    datapath::{self, Device, Network, Pins, Programs, XdpAttachment, XdpHooks},
    observe::{agent_state::AgentState, log_once::LogOnce},
};

pub struct XdpDevices {
    hooks: XdpHooks,
    state: Arc<AgentState>,
    /// As they were last told in the log.
    known: Vec<XdpAttachment>,
    not_detached: LogOnce,
    /// Where the program stands, for whoever keeps the neighbours there fresh.
    devices: watch::Sender<BTreeSet<u32>>,
}

impl XdpDevices {
    pub fn new(mode: XdpMode, pins: &Pins, state: Arc<AgentState>) -> Self {
        let devices = watch::Sender::new(BTreeSet::new());
        tokio::spawn(datapath::refresh_neighbours(devices.subscribe()));
        let (known, not_detached) = (Vec::new(), LogOnce::default());
        Self { hooks: XdpHooks::new(mode, pins), state, known, not_detached, devices }
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
        self.not_detached.record("XDP program not detached", pass.failed.map_or(Ok(()), Err));
        for device in pass.devices.iter().filter(|device| !self.known.contains(device)) {
            log(device);
        }
        if self.known != pass.devices {
            self.state.set_xdp(&pass.devices);
            let served = pass.devices.iter().filter(|device| device.result.is_ok());
            self.devices.send_replace(served.map(|device| device.index).collect());
            self.known = pass.devices;
        }
        pass.repaired.len()
    }
}

fn log(device: &XdpAttachment) {
    let iface = &device.name;
    match &device.result {
        Ok(place) => info!(iface, place = place.name(), "packets for other nodes leave by XDP"),
        Err(reason) if device.is_fault => {
            warn!(iface, reason = %reason, "no XDP here, the packet plane serves alone")
        }
        Err(reason) => info!(iface, reason = %reason, "no XDP here, the packet plane serves alone"),
    }
}
