//! Flags for network devices.

use crate::config::{DeviceConfig, DeviceSelection, Forwarding, TcHooks, XdpMode};

/// The devices of the packet LB.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Devices to other machines: auto, none, or names, each of which may end in *
    #[arg(long, default_value = "auto", value_name = "NAMES")]
    devices: DeviceSelection,
    /// Devices to the pods of this node: auto, none, or names, each of which may end in *
    #[arg(long, default_value = "auto", value_name = "NAMES")]
    pod_devices: DeviceSelection,
    /// XDP mode: forward packets for backends on other nodes before the kernel's network stack. They bypass the firewall
    /// rules of this node
    #[arg(long, value_enum, value_name = "WHERE", default_value = "auto")]
    xdp: XdpMode,
    /// How translated packets from outside are forwarded to backends on other nodes
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    forwarding: Forwarding,
    /// How tc programs are attached to devices
    #[arg(long, hide = true, value_enum, default_value = "auto")]
    tc: TcHooks,
}

impl DeviceArgs {
    pub fn config(self) -> DeviceConfig {
        let Self { devices, pod_devices, xdp, forwarding, tc } = self;
        DeviceConfig { external: devices, pod: pod_devices, tc, xdp, forwarding }
    }
}
