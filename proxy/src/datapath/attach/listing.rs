//! The programs at the hooks of this node, also those of others, for `portreeve report`.

use std::{collections::BTreeMap, fs::File, io, os::fd::AsFd as _, path::Path};

use aya::programs::loaded_programs;
use nix::net::if_::if_nameindex;
use proxy_ebpf::abi::Direction;
use serde::Serialize;

use super::tc::programs_at;
use crate::datapath::kernel::bpf::{self, CGROUP_HOOKS};

/// Limit of the programs in the list of all.
const MAX_PROGRAMS: usize = 5_000;

#[derive(Debug, Serialize)]
pub struct ProgramListing {
    /// In the order in which they run; those of the parents of the cgroup are included.
    pub cgroup: BTreeMap<&'static str, Vec<String>>,
    pub devices: Vec<DevicePrograms>,
    /// All programs of the kernel: id, name and type.
    pub loaded: Vec<String>,
    /// What could not be read.
    pub unknown: Vec<String>,
}

/// The programs of a device, in the order in which they run.
#[derive(Debug, Serialize)]
pub struct DevicePrograms {
    pub device: String,
    pub tc_ingress: Vec<String>,
    pub tc_egress: Vec<String>,
    pub xdp: Vec<String>,
}

impl ProgramListing {
    /// `xdp` are the ids of programs by device.
    pub fn read(cgroup: Option<&Path>, xdp: &BTreeMap<String, Vec<u32>>) -> Self {
        let mut unknown = Vec::new();
        let names = names(&mut unknown);
        let text = |id: u32| names.get(&id).map_or_else(|| id.to_string(), |name| format!("{id} {name}"));
        let cgroup = cgroup.map(at_cgroup).transpose().unwrap_or_else(|error| {
            unknown.push(format!("the programs of the cgroup: {error}"));
            None
        });
        let cgroup = cgroup.unwrap_or_default().into_iter();
        Self {
            cgroup: cgroup.map(|(hook, ids)| (hook, ids.into_iter().map(text).collect())).collect(),
            devices: devices(xdp, &text, &mut unknown),
            loaded: names.keys().map(|id| text(*id)).take(MAX_PROGRAMS).collect(),
            unknown,
        }
    }
}

fn names(unknown: &mut Vec<String>) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for program in loaded_programs() {
        match program {
            Ok(program) => {
                let name = program.name_as_str().unwrap_or("?").to_owned();
                names.insert(program.id(), format!("{name} (type {})", program.program_type() as u32));
            }
            Err(error) => {
                unknown.push(format!("the list of programs: {error}"));
                break;
            }
        }
    }
    names
}

fn at_cgroup(path: &Path) -> io::Result<Vec<(&'static str, Vec<u32>)>> {
    let cgroup = File::open(path)?;
    let query =
        |(name, hook): &(&'static str, u32)| Ok((*name, bpf::programs_at_cgroup(cgroup.as_fd(), *hook)?));
    let mut found = CGROUP_HOOKS.iter().map(query).collect::<io::Result<Vec<_>>>()?;
    found.retain(|(_, ids)| !ids.is_empty());
    Ok(found)
}

fn devices(
    xdp: &BTreeMap<String, Vec<u32>>,
    text: &impl Fn(u32) -> String,
    unknown: &mut Vec<String>,
) -> Vec<DevicePrograms> {
    // Not from /sys: it may show the devices of another network namespace.
    let devices = if_nameindex().map(|devices| {
        devices.iter().map(|device| device.name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    });
    let devices = devices.unwrap_or_default().into_iter().map(|device| {
        let mut at = |direction| {
            programs_at(&device, direction).unwrap_or_else(|error| {
                unknown.push(format!("the programs of {device}: {}", crate::error::chain(&error)));
                Vec::new()
            })
        };
        let (tc_ingress, tc_egress) = (at(Direction::Ingress), at(Direction::Egress));
        let xdp = xdp.get(&device).into_iter().flatten().map(|id| text(*id)).collect();
        DevicePrograms { device, tc_ingress, tc_egress, xdp }
    });
    let is_used =
        |one: &DevicePrograms| !(one.tc_ingress.is_empty() && one.tc_egress.is_empty() && one.xdp.is_empty());
    devices.filter(is_used).collect()
}
