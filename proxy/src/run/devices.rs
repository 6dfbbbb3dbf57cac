//! The devices of the packet plane, with their programs.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Result;
use proxy_ebpf::abi::{DeviceFlags, DeviceRole};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::xdp::XdpDevices;
use crate::{
    config::DeviceConfig,
    datapath::{Device, DeviceHooks, DeviceTable, Network, Pins, Programs, select_devices},
    error::chain,
    model::policy::Policy,
    observe::{agent_state::AgentState, status::DeviceStatus},
    reconcile::MapError,
};

pub struct Devices {
    network: watch::Receiver<Network>,
    config: DeviceConfig,
    hooks: DeviceHooks,
    xdp: XdpDevices,
    table: DeviceTable,
    policy: Policy,
    state: Arc<AgentState>,
    /// Programs of an earlier agent are at the same hooks: each is passed twice, so a translated datagram may enter it.
    is_shared: bool,
    /// The devices as last logged.
    known: Vec<Device>,
    /// Failures of the last pass, all logged.
    logged: BTreeSet<String>,
}

impl Devices {
    pub fn new(
        network: watch::Receiver<Network>,
        config: DeviceConfig,
        policy: Policy,
        pins: &Pins,
        state: Arc<AgentState>,
    ) -> Result<Self> {
        let hooks = DeviceHooks::new(config.tc, pins)?;
        let xdp = XdpDevices::new(config.xdp, pins, Arc::clone(&state));
        let table = DeviceTable::open(&pins.maps())?;
        let (known, logged) = (Vec::new(), BTreeSet::new());
        Ok(Self { network, config, hooks, xdp, table, policy, state, is_shared: false, known, logged })
    }

    /// Waits for a change of the network state.
    pub async fn changed(&mut self) {
        if self.network.changed().await.is_err() {
            // The sender lives as long as the runtime.
            std::future::pending::<()>().await;
        }
    }

    /// The failures of the last pass.
    pub fn failures(&self) -> &BTreeSet<String> {
        &self.logged
    }

    /// Attaches the programs before those of an earlier agent, which stay until the next pass of `keep`. XDP has room for one
    /// program: frames that it does not know pass to the others.
    pub fn add(&mut self, programs: &Programs) {
        let network = self.network.borrow_and_update().clone();
        let devices = select_devices(&network, &self.config);
        self.is_shared = true;
        let table = self.write_table(&network, &devices);
        let mut failures: BTreeSet<String> = table.err().map(|error| chain(&error)).into_iter().collect();
        failures.extend(self.hooks.add(programs, &devices).iter().map(|error| chain(error)));
        self.xdp.keep(programs, &network, &devices);
        for error in failures {
            // `keep` tries again, and reports.
            debug!(error, "device not served by both agents' programs");
        }
    }

    /// Attaches missing programs. Returns the number of repaired hooks.
    pub fn keep(&mut self, programs: &Programs) -> usize {
        let network = self.network.borrow_and_update().clone();
        let devices = select_devices(&network, &self.config);
        // Written before the programs are attached: without its addresses a device masquerades nothing.
        self.is_shared |= self.hooks.has_others();
        let table = self.write_table(&network, &devices);
        let pass = self.hooks.keep(programs, &devices);
        for (program, iface) in &pass.repaired {
            warn!(program, iface, "program was detached, attached again");
        }
        for error in &pass.gone {
            debug!(error = %chain(error), "device is gone");
        }
        let mut failures: BTreeSet<String> = pass.failed.iter().map(|error| chain(error)).collect();
        failures.extend(table.err().map(|error| chain(&error)));
        // XDP comes last: it must not serve a device that the packet plane does not serve.
        let xdp = self.xdp.keep(programs, &network, &devices);
        // Written again: frames are redirected to a device once it has XDP.
        self.is_shared = false;
        let table = self.write_table(&network, &devices);
        failures.extend(table.err().map(|error| chain(&error)));
        for error in failures.difference(&self.logged) {
            // A condition: logged there.
            debug!(error, "device not served, will retry");
        }
        self.logged = failures;
        self.state.set_devices(devices.iter().map(|device| self.status_of(device)).collect());
        self.log(devices, pass.attached);
        pass.repaired.len() + xdp
    }

    fn status_of(&self, device: &Device) -> DeviceStatus {
        let role = match device.role {
            DeviceRole::External => "external",
            DeviceRole::Pod => "pod",
            DeviceRole::Loopback => "loopback",
        };
        let hooks = self.hooks.attached_to(device.index).map(str::to_owned).collect();
        DeviceStatus { device: device.name.clone(), role: role.to_owned(), hooks }
    }

    fn write_table(&mut self, network: &Network, devices: &[Device]) -> Result<(), MapError> {
        let Self { table, policy, xdp, is_shared, .. } = self;
        // Nothing is translated at the loopback device.
        let translating = devices.iter().filter(|device| device.role != DeviceRole::Loopback);
        table.set_flags(translating, |device| {
            let is_pod = policy.is_pod_interface(&device.name, network.bridge_of(device.index));
            DeviceFlags::default()
                .with(DeviceFlags::PODS, is_pod)
                .with(DeviceFlags::TAKES_FRAMES, xdp.takes_frames(device))
                .with(DeviceFlags::FIRST_HOP, !*is_shared && device.is_first_hop())
        })
    }

    fn log(&mut self, devices: Vec<Device>, hooks: usize) {
        if self.known.is_empty() && !devices.is_empty() {
            info!(devices = devices.len(), hooks, "serving devices");
        }
        for device in devices.iter().filter(|device| !self.known.contains(device)) {
            debug!(iface = device.name, role = ?device.role, index = device.index, "serving device");
        }
        self.known = devices;
    }
}
