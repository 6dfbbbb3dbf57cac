//! The `DEVICES` map: flags and masquerade addresses of the devices that the programs are attached to.

use std::{
    collections::{BTreeMap, HashMap as Table},
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use aya::maps::{HashMap, MapData};
use proxy_ebpf::abi::{self, DeviceFlags, map};

use super::devices::Device;
use crate::{
    datapath::maps::{OpenError, absent_is_fine, hash, refused},
    reconcile::MapError,
};

/// The `DEVICES` map, through which programs know their devices.
#[derive(Debug)]
pub struct DeviceTable(HashMap<MapData, u32, abi::Device>);

impl DeviceTable {
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        hash(dir, map::DEVICES).map(Self)
    }

    /// Writes exactly these devices. `is_pod` tells which of them only pods' packets enter by.
    pub fn set(&mut self, devices: &[Device], is_pod: impl Fn(&Device) -> bool) -> Result<(), MapError> {
        self.set_flags(devices.iter(), |device| {
            DeviceFlags::default()
                .with(DeviceFlags::PODS, is_pod(device))
                .with(DeviceFlags::FIRST_HOP, device.is_first_hop())
        })
    }

    /// Writes exactly these devices, with the flags of each. Additions come before removals, so a device that
    /// stays is in the map all the time.
    pub fn set_flags<'a>(
        &mut self,
        devices: impl Iterator<Item = &'a Device>,
        flags: impl Fn(&Device) -> DeviceFlags,
    ) -> Result<(), MapError> {
        let known: Result<Table<u32, abi::Device>, _> = self.0.iter().collect();
        let known = known.map_err(refused("read", map::DEVICES))?;
        let wanted: BTreeMap<u32, abi::Device> =
            devices.map(|device| (device.index, entry(device, flags(device)))).collect();
        for (index, device) in wanted.iter().filter(|(index, device)| known.get(*index) != Some(*device)) {
            self.0.insert(index, device, 0).map_err(refused("write", map::DEVICES))?;
        }
        for index in known.keys().filter(|index| !wanted.contains_key(*index)) {
            absent_is_fine(self.0.remove(index), map::DEVICES)?;
        }
        Ok(())
    }
}

fn entry(device: &Device, flags: DeviceFlags) -> abi::Device {
    abi::Device {
        masquerade_v4: device.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
        masquerade_v6: device.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets(),
        flags: flags.with(DeviceFlags::NO_LINK_LAYER, !device.has_link_header),
        router: device.router.unwrap_or_default(),
        zero: [0; 2],
    }
}
