//! Attaches the XDP program to external devices, and keeps it attached.
//!
//! A device takes one XDP program. If the driver does not support it, or another program is attached, the
//! packet plane serves the device alone. Nothing is lost by that, so it is reported and not an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use proxy_ebpf::abi::{DeviceRole, XDP_EXTERNAL};

use super::{
    device_link::{DeviceLink, devices_of},
    devices::Device,
    load::Programs,
};
use crate::{
    config::XdpMode,
    datapath::{
        kernel::{
            LinkKind, Network,
            bpf::{self, XdpFlags},
        },
        pins::{Pins, names_in},
    },
};

/// XDP attach mode. Part of the names of pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum XdpAttachMode {
    /// In the driver, before the kernel allocates an skb.
    Native,
    /// In the stack, behind the driver (`XDP_FLAGS_SKB_MODE`).
    Generic,
}

impl XdpAttachMode {
    const ALL: [Self; 2] = [Self::Native, Self::Generic];

    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn pin_prefix(self) -> String {
        format!("{XDP_EXTERNAL}_{}", self.name())
    }

    fn flags(self) -> XdpFlags {
        match self {
            Self::Native => XdpFlags::DrvMode,
            Self::Generic => XdpFlags::SkbMode,
        }
    }
}

/// The reason why a device has no XDP program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum XdpUnavailable {
    #[error("its frames have no Ethernet header")]
    NoLinkHeader,
    #[error("it carries VLANs, whose tags the NIC may strip before the program runs")]
    Vlans,
    #[error("it is not a NIC")]
    NotNic,
    #[error("its driver does not support XDP")]
    NoDriver,
    #[error("another XDP program is attached, which stays")]
    Taken,
    #[error("the kernel refuses: {0}")]
    Refused(String),
}

impl XdpUnavailable {
    /// Whether this contradicts the configuration: XDP was demanded and is missing.
    fn is_fault(&self, mode: XdpMode) -> bool {
        let is_asked_for = matches!(mode, XdpMode::Native | XdpMode::Generic);
        is_asked_for && !matches!(self, Self::NoLinkHeader | Self::NotNic)
    }
}

/// The XDP state of an external device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    pub index: u32,
    pub name: String,
    pub result: Result<XdpAttachMode, XdpUnavailable>,
    /// The configuration demands XDP here, and it is missing.
    pub is_fault: bool,
}

/// The result of a pass.
#[derive(Debug, Default)]
pub struct XdpPass {
    pub devices: Vec<XdpAttachment>,
    /// Names of devices that had lost the program and have it again.
    pub repaired: Vec<String>,
    /// The failure to detach the program from other devices.
    pub failed: Option<XdpError>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot detach the XDP program from devices without a role")]
pub struct XdpError(#[from] io::Error);

/// A program that the driver refused is tried again after this time: the driver may reset its queues for each
/// attempt, or complain in the kernel's log.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The XDP program at devices.
#[derive(Debug)]
pub struct XdpHooks {
    links: PathBuf,
    mode: XdpMode,
    /// Devices with the program at the end of the last pass.
    attached: BTreeSet<u32>,
    /// Devices whose drivers refused the program, with time and reason.
    refused: BTreeMap<u32, (Instant, XdpUnavailable)>,
}

impl XdpHooks {
    pub fn new(mode: XdpMode, pins: &Pins) -> Self {
        Self { links: pins.links(), mode, attached: BTreeSet::new(), refused: BTreeMap::new() }
    }

    /// Whether the device transmits frames that XDP programs of other devices redirect to it.
    pub fn takes_frames(&self, device: u32) -> bool {
        self.attached.contains(&device)
    }

    /// Attaches missing programs to these devices, and detaches ours from others. To be repeated like
    /// `DeviceHooks::keep`.
    pub fn keep(&mut self, programs: &Programs, network: &Network, devices: &[Device]) -> XdpPass {
        let mut pass = XdpPass::default();
        self.refused.retain(|_, (when, _)| when.elapsed() < RETRY_AFTER);
        if let Some(mode) = self.wanted() {
            for device in devices.iter().filter(|device| device.role == DeviceRole::External) {
                let found = self.keep_device(programs, network, device, mode, &mut pass.repaired);
                let is_fault = found.as_ref().is_err_and(|reason| reason.is_fault(self.mode));
                pass.devices.push(XdpAttachment {
                    index: device.index,
                    name: device.name.clone(),
                    result: found.map(|()| mode),
                    is_fault,
                });
            }
        }
        let kept: BTreeMap<u32, XdpAttachMode> = pass
            .devices
            .iter()
            .filter_map(|device| Some((device.index, *device.result.as_ref().ok()?)))
            .collect();
        let doomed = |mode, device| kept.get(&device) != Some(&mode);
        pass.failed = detach_all(&self.links, doomed).err().map(XdpError);
        self.attached = kept.into_keys().collect();
        pass
    }

    fn wanted(&self) -> Option<XdpAttachMode> {
        match self.mode {
            XdpMode::Auto | XdpMode::Native => Some(XdpAttachMode::Native),
            XdpMode::Generic => Some(XdpAttachMode::Generic),
            XdpMode::Off => None,
        }
    }

    fn keep_device(
        &mut self,
        programs: &Programs,
        network: &Network,
        device: &Device,
        mode: XdpAttachMode,
        repaired: &mut Vec<String>,
    ) -> Result<(), XdpUnavailable> {
        let recent = || self.refused.get(&device.index).map(|(_, reason)| reason.clone());
        if let Some(reason) = unavailable_at(network, device, self.mode).or_else(recent) {
            return Err(reason);
        }
        let refused = |error: &dyn std::error::Error| XdpUnavailable::Refused(error.to_string());
        let program = programs.loaded(XDP_EXTERNAL).map_err(|error| refused(&error))?;
        let link = DeviceLink::new(&self.links, &mode.pin_prefix(), device.index);
        if link.is_attached(program.id) {
            return Ok(());
        }
        // A device takes one program, in either mode.
        for other in XdpAttachMode::ALL.into_iter().filter(|other| *other != mode) {
            DeviceLink::new(&self.links, &other.pin_prefix(), device.index)
                .detach()
                .map_err(|error| refused(&error))?;
        }
        let put = link.attach(program, || bpf::link_xdp(program.fd, device.index, mode.flags()));
        if let Err(reason) = put.map_err(|error| reason_of(&error)) {
            if matches!(reason, XdpUnavailable::Refused(_)) {
                self.refused.insert(device.index, (Instant::now(), reason.clone()));
            }
            return Err(reason);
        }
        if self.attached.contains(&device.index) {
            repaired.push(device.name.clone());
        }
        Ok(())
    }
}

/// The reason not to try the device, or `None`.
fn unavailable_at(network: &Network, device: &Device, mode: XdpMode) -> Option<XdpUnavailable> {
    let kind = network.links.iter().find(|link| link.index == device.index).map(|link| link.kind);
    let is_nic = match mode {
        // The peer of a veth device drops redirected frames, unless it has NAPI or an XDP program of its own.
        XdpMode::Auto => kind == Some(LinkKind::Nic),
        XdpMode::Native => matches!(kind, Some(LinkKind::Nic | LinkKind::Veth(_))),
        XdpMode::Generic | XdpMode::Off => true,
    };
    if !device.has_link_header {
        Some(XdpUnavailable::NoLinkHeader)
    } else if !is_nic {
        Some(XdpUnavailable::NotNic)
    } else if network.links.iter().any(|link| link.vlan_parent == Some(device.index)) {
        Some(XdpUnavailable::Vlans)
    } else {
        None
    }
}

fn reason_of(error: &io::Error) -> XdpUnavailable {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => XdpUnavailable::Taken,
        Some(libc::EOPNOTSUPP) => XdpUnavailable::NoDriver,
        Some(_) | None => XdpUnavailable::Refused(error.to_string()),
    }
}

/// Detaches the program from every device, including those of earlier agents.
pub fn detach_xdp(pins: &Pins) -> Result<(), XdpError> {
    Ok(detach_all(&pins.links(), |_, _| true)?)
}

fn detach_all(links: &std::path::Path, is_doomed: impl Fn(XdpAttachMode, u32) -> bool) -> io::Result<()> {
    let pins = names_in(links)?;
    for mode in XdpAttachMode::ALL {
        let pin_prefix = mode.pin_prefix();
        for device in devices_of(&pins, &pin_prefix).filter(|device| is_doomed(mode, *device)) {
            DeviceLink::new(links, &pin_prefix, device).detach()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::kernel::{Link, PeerNetns};

    #[test]
    fn nics_get_xdp_and_veth_pairs_only_on_demand() {
        let link = |index, kind, vlan_parent| Link {
            index,
            name: format!("eth{index}"),
            kind,
            controller: None,
            has_link_header: true,
            address: None,
            vlan_parent,
        };
        let links = vec![
            link(1, LinkKind::Nic, None),
            link(2, LinkKind::Nic, None),
            link(3, LinkKind::Nic, Some(2)),
            link(4, LinkKind::Veth(PeerNetns::Other), None),
            link(5, LinkKind::Tunnel, None),
        ];
        let network = Network { links, ..Network::default() };
        for (index, has_link_header, mode, want) in [
            (1, true, XdpMode::Auto, None),
            (1, true, XdpMode::Generic, None),
            (1, false, XdpMode::Native, Some(XdpUnavailable::NoLinkHeader)),
            (2, true, XdpMode::Auto, Some(XdpUnavailable::Vlans)),
            (3, true, XdpMode::Native, None),
            (4, true, XdpMode::Auto, Some(XdpUnavailable::NotNic)),
            (4, true, XdpMode::Native, None),
            (5, true, XdpMode::Native, Some(XdpUnavailable::NotNic)),
            (5, true, XdpMode::Generic, None),
        ] {
            let role = DeviceRole::External;
            let name = format!("eth{index}");
            let device = Device {
                index,
                name,
                role,
                is_bridge: false,
                has_link_header,
                router: None,
                v4: None,
                v6: None,
            };
            assert_eq!(unavailable_at(&network, &device, mode), want, "{index} {mode:?}");
        }
    }
}
