//! The flags about network devices.

use crate::config::{DeviceConfig, DeviceSelection, Forwarding, TcHooks, XdpMode};

/// Whose packets are translated.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Devices that lead to other machines: auto, none, or names, each of which may end in *
    #[arg(long, default_value = "auto", value_name = "NAMES")]
    devices: DeviceSelection,
    /// Devices that lead to pods of this node: auto, none, or names, each of which may end in *
    #[arg(long, default_value = "auto", value_name = "NAMES")]
    pod_devices: DeviceSelection,
    /// Where packets whose backend is on another node are sent on before the kernel handles them. They pass no firewall
    /// rules of this node
    #[arg(long, value_enum, value_name = "WHERE", default_value = "auto")]
    xdp: XdpMode,
    /// How packets from outside for backends on other nodes go on once they are translated
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    forwarding: Forwarding,
    /// How programs are attached to devices
    #[arg(long, hide = true, value_enum, default_value = "auto")]
    tc: TcHooks,
}

impl DeviceArgs {
    pub fn config(self) -> DeviceConfig {
        let Self { devices, pod_devices, xdp, forwarding, tc } = self;
        DeviceConfig { external: devices, pod: pod_devices, tc, xdp, forwarding }
    }
}
