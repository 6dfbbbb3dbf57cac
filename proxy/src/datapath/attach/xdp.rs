//! Puts the program of the early plane at external devices, and keeps it there.
//!
//! A device takes one such program, or none: where the driver has no room for it, or somebody else's stands there, the
//! packet plane serves the device alone. Nothing is lost by that, so it is told and not an error.

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
            sys::{self, XdpFlags},
        },
        pins::{Pins, names_in},
    },
};

/// Where in the kernel the program stands. Part of the names of pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum XdpAttachMode {
    /// In the driver, before the kernel allocates anything.
    Native,
    /// Behind the driver.
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

    fn word(self) -> String {
        format!("{XDP_EXTERNAL}_{}", self.name())
    }

    fn flags(self) -> XdpFlags {
        match self {
            Self::Native => XdpFlags::DrvMode,
            Self::Generic => XdpFlags::SkbMode,
        }
    }
}

/// Why a device is without the program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum XdpUnavailable {
    #[error("its frames have no Ethernet header")]
    NoLinkHeader,
    #[error("it carries VLANs, whose tags a network card may take off before the program looks")]
    Vlans,
    #[error("it is no network card")]
    NotNic,
    #[error("its driver takes no XDP programs")]
    NoDriver,
    #[error("another XDP program stands there, which stays")]
    Taken,
    #[error("the kernel refuses: {0}")]
    Refused(String),
}

impl XdpUnavailable {
    /// Whether somebody has to know: what was asked for is not done.
    fn is_fault(&self, mode: XdpMode) -> bool {
        let is_asked_for = matches!(mode, XdpMode::Native | XdpMode::Generic);
        is_asked_for && !matches!(self, Self::NoLinkHeader | Self::NotNic)
    }
}

/// What an external device has of the early plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    pub index: u32,
    pub name: String,
    pub result: Result<XdpAttachMode, XdpUnavailable>,
    /// It is not what was asked for.
    pub is_fault: bool,
}

/// What a pass found and did.
#[derive(Debug, Default)]
pub struct XdpPass {
    pub devices: Vec<XdpAttachment>,
    /// Names of devices that had lost the program, and have it again.
    pub repaired: Vec<String>,
    /// What could not be taken away.
    pub failed: Option<XdpError>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot take the XDP program from the devices that it does not belong to")]
pub struct XdpError(#[from] io::Error);

/// What a driver refused it is asked for again after this time: it may set its queues anew for each attempt, or complain
/// in the kernel's log.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// What holds the program at devices.
#[derive(Debug)]
pub struct XdpHooks {
    links: PathBuf,
    mode: XdpMode,
    /// Devices that had the program at the end of the last pass.
    attached: BTreeSet<u32>,
    /// Devices whose drivers refused it, when, and why.
    refused: BTreeMap<u32, (Instant, XdpUnavailable)>,
}

impl XdpHooks {
    pub fn new(mode: XdpMode, pins: &Pins) -> Self {
        Self { links: pins.links(), mode, attached: BTreeSet::new(), refused: BTreeMap::new() }
    }

    /// Whether the device takes frames that programs at other devices send out by it.
    pub fn takes_frames(&self, device: u32) -> bool {
        self.attached.contains(&device)
    }

    /// Attaches what is missing to these devices, and detaches what is ours elsewhere; to be repeated as `DeviceHooks::keep`.
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
        let program_id = programs.info(XDP_EXTERNAL).map_err(|error| refused(&error))?.id();
        let link = DeviceLink::new(&self.links, &mode.word(), device.index);
        if link.is_attached(program_id) {
            return Ok(());
        }
        // A device has one place for a program, be it in the driver or behind it.
        for other in XdpAttachMode::ALL.into_iter().filter(|other| *other != mode) {
            DeviceLink::new(&self.links, &other.word(), device.index)
                .detach()
                .map_err(|error| refused(&error))?;
        }
        let program = programs.fd(XDP_EXTERNAL).map_err(|error| refused(&error))?;
        let put = link.attach(program, || sys::link_xdp(program, device.index, mode.flags()));
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

/// Why the program is not even tried at a device.
fn unavailable_at(network: &Network, device: &Device, mode: XdpMode) -> Option<XdpUnavailable> {
    let kind = network.links.iter().find(|link| link.index == device.index).map(|link| link.kind);
    let is_nic = match mode {
        // The other end of a pair loses frames that are sent back, unless it was prepared for them.
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

/// Takes the program from every device, as any agent may have attached it.
pub fn detach_xdp(pins: &Pins) -> Result<(), XdpError> {
    Ok(detach_all(&pins.links(), |_, _| true)?)
}

fn detach_all(links: &std::path::Path, is_doomed: impl Fn(XdpAttachMode, u32) -> bool) -> io::Result<()> {
    let pins = names_in(links)?;
    for mode in XdpAttachMode::ALL {
        let word = mode.word();
        for device in devices_of(&pins, &word).filter(|device| is_doomed(mode, *device)) {
            DeviceLink::new(links, &word, device).detach()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::kernel::{Link, PeerNetns};

    #[test]
    fn cards_are_taken_and_pairs_only_on_demand() {
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
            let device = Device { index, name, role, has_link_header, router: None, v4: None, v6: None };
            assert_eq!(unavailable_at(&network, &device, mode), want, "{index} {mode:?}");
        }
    }
}
