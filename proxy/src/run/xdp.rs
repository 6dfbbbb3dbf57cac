//! The XDP program at external devices, and its reporting.

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
    /// The devices as last logged.
    known: Vec<XdpAttachment>,
    not_detached: LogOnce,
    /// Devices with the program, for the refresh of their neighbours.
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

    /// Attaches missing programs. Returns the number of repaired devices.
    pub fn keep(&mut self, programs: &Programs, network: &Network, devices: &[Device]) -> usize {
        let pass = self.hooks.keep(programs, network, devices);
        for iface in &pass.repaired {
            warn!(iface, "XDP program was detached, attached again");
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
        Ok(mode) => info!(iface, mode = mode.name(), "XDP attached"),
        // A condition: logged there.
        Err(_) if device.is_fault => {}
        Err(reason) => info!(iface, reason = %reason, "no XDP, the packet plane serves the device alone"),
    }
}
