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
            Kind, Network,
            sys::{self, XdpPlace},
        },
        pins::{Pins, names_in},
    },
};

/// Where in the kernel the program stands. Part of the names of pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Early {
    /// In the driver, before the kernel allocates anything.
    Native,
    /// Behind the driver.
    Generic,
}

impl Early {
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

    fn place(self) -> XdpPlace {
        match self {
            Self::Native => XdpPlace::Driver,
            Self::Generic => XdpPlace::Stack,
        }
    }
}

/// Why a device is without the program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Excuse {
    #[error("its frames have no Ethernet header")]
    NoLinkHeader,
    #[error("it carries VLANs, whose tags a network card may take off before the program looks")]
    Vlans,
    #[error("it is no network card")]
    NoCard,
    #[error("its driver takes no XDP programs")]
    NoDriver,
    #[error("another XDP program stands there, which stays")]
    Taken,
    #[error("the kernel refuses: {0}")]
    Refused(String),
}

impl Excuse {
    /// Whether somebody has to know: what was asked for is not done.
    fn is_fault(&self, mode: XdpMode) -> bool {
        let is_asked_for = matches!(mode, XdpMode::Native | XdpMode::Generic);
        is_asked_for && !matches!(self, Self::NoLinkHeader | Self::NoCard)
    }
}

/// What an external device has of the early plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlyDevice {
    pub index: u32,
    pub name: String,
    pub found: Result<Early, Excuse>,
    /// It is not what was asked for.
    pub is_fault: bool,
}

/// What a pass found and did.
#[derive(Debug, Default)]
pub struct EarlyPass {
    pub devices: Vec<EarlyDevice>,
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
const PAUSE: Duration = Duration::from_secs(60);

/// What holds the program at devices.
#[derive(Debug)]
pub struct EarlyHooks {
    links: PathBuf,
    mode: XdpMode,
    /// Devices that had the program at the end of the last pass.
    in_place: BTreeSet<u32>,
    /// Devices whose drivers refused it, when, and why.
    refused: BTreeMap<u32, (Instant, Excuse)>,
}

impl EarlyHooks {
    pub fn new(mode: XdpMode, pins: &Pins) -> Self {
        Self { links: pins.links(), mode, in_place: BTreeSet::new(), refused: BTreeMap::new() }
    }

    /// Whether the device takes frames that programs at other devices send out by it.
    pub fn takes_frames(&self, device: u32) -> bool {
        self.in_place.contains(&device)
    }

    /// Attaches what is missing to these devices, and detaches what is ours elsewhere; to be repeated as `DeviceHooks::keep`.
    pub fn keep(&mut self, programs: &Programs, network: &Network, devices: &[Device]) -> EarlyPass {
        let mut pass = EarlyPass::default();
        self.refused.retain(|_, (when, _)| when.elapsed() < PAUSE);
        if let Some(early) = self.wanted() {
            for device in devices.iter().filter(|device| device.role == DeviceRole::External) {
                let found = self.keep_device(programs, network, device, early, &mut pass.repaired);
                let is_fault = found.as_ref().is_err_and(|excuse| excuse.is_fault(self.mode));
                pass.devices.push(EarlyDevice {
                    index: device.index,
                    name: device.name.clone(),
                    found: found.map(|()| early),
                    is_fault,
                });
            }
        }
        let kept: BTreeMap<u32, Early> = pass
            .devices
            .iter()
            .filter_map(|device| Some((device.index, *device.found.as_ref().ok()?)))
            .collect();
        let doomed = |early, device| kept.get(&device) != Some(&early);
        pass.failed = take_all(&self.links, doomed).err().map(XdpError);
        self.in_place = kept.into_keys().collect();
        pass
    }

    fn wanted(&self) -> Option<Early> {
        match self.mode {
            XdpMode::Auto | XdpMode::Native => Some(Early::Native),
            XdpMode::Generic => Some(Early::Generic),
            XdpMode::Off => None,
        }
    }

    fn keep_device(
        &mut self,
        programs: &Programs,
        network: &Network,
        device: &Device,
        early: Early,
        repaired: &mut Vec<String>,
    ) -> Result<(), Excuse> {
        let lately = || self.refused.get(&device.index).map(|(_, excuse)| excuse.clone());
        if let Some(excuse) = unfit(network, device, self.mode).or_else(lately) {
            return Err(excuse);
        }
        let refused = |error: &dyn std::error::Error| Excuse::Refused(error.to_string());
        let program_id = programs.info(XDP_EXTERNAL).map_err(|error| refused(&error))?.id();
        let link = DeviceLink::new(&self.links, &early.word(), device.index);
        if link.holds(program_id) {
            return Ok(());
        }
        // A device has one place for a program, be it in the driver or behind it.
        for other in Early::ALL.into_iter().filter(|other| *other != early) {
            DeviceLink::new(&self.links, &other.word(), device.index)
                .take()
                .map_err(|error| refused(&error))?;
        }
        let program = programs.fd(XDP_EXTERNAL).map_err(|error| refused(&error))?;
        let put = link.put(program, || sys::link_xdp(program, device.index, early.place()));
        if let Err(excuse) = put.map_err(|error| excuse(&error)) {
            if matches!(excuse, Excuse::Refused(_)) {
                self.refused.insert(device.index, (Instant::now(), excuse.clone()));
            }
            return Err(excuse);
        }
        if self.in_place.contains(&device.index) {
            repaired.push(device.name.clone());
        }
        Ok(())
    }
}

/// Why the program is not even tried at a device.
fn unfit(network: &Network, device: &Device, mode: XdpMode) -> Option<Excuse> {
    let kind = network.links.iter().find(|link| link.index == device.index).map(|link| link.kind);
    let is_card = match mode {
        // The other end of a pair loses frames that are sent back, unless it was prepared for them.
        XdpMode::Auto => kind == Some(Kind::Card),
        XdpMode::Native => matches!(kind, Some(Kind::Card | Kind::Pair(_))),
        XdpMode::Generic | XdpMode::Off => true,
    };
    if !device.has_link_header {
        Some(Excuse::NoLinkHeader)
    } else if !is_card {
        Some(Excuse::NoCard)
    } else if network.links.iter().any(|link| link.vlan_on == Some(device.index)) {
        Some(Excuse::Vlans)
    } else {
        None
    }
}

fn excuse(error: &io::Error) -> Excuse {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => Excuse::Taken,
        Some(libc::EOPNOTSUPP) => Excuse::NoDriver,
        Some(_) | None => Excuse::Refused(error.to_string()),
    }
}

/// Takes the program from every device, as any agent may have attached it.
pub fn detach_early(pins: &Pins) -> Result<(), XdpError> {
    Ok(take_all(&pins.links(), |_, _| true)?)
}

fn take_all(links: &std::path::Path, is_doomed: impl Fn(Early, u32) -> bool) -> io::Result<()> {
    let pins = names_in(links)?;
    for early in Early::ALL {
        let word = early.word();
        for device in devices_of(&pins, &word).filter(|device| is_doomed(early, *device)) {
            DeviceLink::new(links, &word, device).take()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::kernel::{Link, Place};

    #[test]
    fn cards_are_taken_and_pairs_only_on_demand() {
        let link = |index, kind, vlan_on| Link {
            index,
            name: format!("eth{index}"),
            kind,
            controller: None,
            has_link_header: true,
            address: None,
            vlan_on,
        };
        let links = vec![
            link(1, Kind::Card, None),
            link(2, Kind::Card, None),
            link(3, Kind::Card, Some(2)),
            link(4, Kind::Pair(Place::Elsewhere), None),
            link(5, Kind::Tunnel, None),
        ];
        let network = Network { links, ..Network::default() };
        for (index, has_link_header, mode, want) in [
            (1, true, XdpMode::Auto, None),
            (1, true, XdpMode::Generic, None),
            (1, false, XdpMode::Native, Some(Excuse::NoLinkHeader)),
            (2, true, XdpMode::Auto, Some(Excuse::Vlans)),
            (3, true, XdpMode::Native, None),
            (4, true, XdpMode::Auto, Some(Excuse::NoCard)),
            (4, true, XdpMode::Native, None),
            (5, true, XdpMode::Native, Some(Excuse::NoCard)),
            (5, true, XdpMode::Generic, None),
        ] {
            let role = DeviceRole::External;
            let name = format!("eth{index}");
            let device = Device { index, name, role, has_link_header, router: None, v4: None, v6: None };
            assert_eq!(unfit(&network, &device, mode), want, "{index} {mode:?}");
        }
    }
}
