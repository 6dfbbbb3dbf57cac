//! The map of devices: flags and masquerade addresses of those that the programs are at.

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

/// What programs know of the devices they are at.
#[derive(Debug)]
pub struct DeviceTable(HashMap<MapData, u32, abi::Device>);

impl DeviceTable {
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        hash(dir, map::DEVICES).map(Self)
    }

    /// Makes these the only devices; `is_pod` says through which ones only pods' packets enter.
    pub fn set(&mut self, devices: &[Device], is_pod: impl Fn(&Device) -> bool) -> Result<(), MapError> {
        self.set_flags(devices, |device| DeviceFlags::default().with(DeviceFlags::PODS, is_pod(device)))
    }

    /// Makes these the only devices; `flags` says what is true of each. Additions first: what stays is known all the while.
    pub fn set_flags(
        &mut self,
        devices: &[Device],
        flags: impl Fn(&Device) -> DeviceFlags,
    ) -> Result<(), MapError> {
        let known: Result<Table<u32, abi::Device>, _> = self.0.iter().collect();
        let known = known.map_err(refused("read", map::DEVICES))?;
        let wanted: BTreeMap<u32, abi::Device> =
            devices.iter().map(|device| (device.index, entry(device, flags(device)))).collect();
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
        flags,
        router: device.router.unwrap_or_default(),
        zero: [0; 2],
    }
}
