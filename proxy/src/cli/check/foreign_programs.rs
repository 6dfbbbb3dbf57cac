//! Checks for programs of other software at the tc hooks of the node's devices.

use std::collections::BTreeMap;

use nix::net::if_::if_nameindex;
use proxy_ebpf::abi::{Direction, TC_PROGRAMS};

use super::finding::Finding;
use crate::datapath::{self, TcError, programs_at};

const NAME: &str = "other programs";

pub fn check() -> Vec<Finding> {
    if datapath::require_capabilities().is_err() {
        return vec![unknown()];
    }
    // Not from /sys: it may show the devices of another network namespace.
    let Ok(devices) = if_nameindex() else { return vec![unknown()] };
    let mut programs_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for device in devices.iter().map(|device| device.name().to_string_lossy().into_owned()) {
        match foreign(&device) {
            Ok(programs) if programs.is_empty() => {}
            Ok(programs) => drop(programs_of.insert(device, programs)),
            // The device may have been deleted meanwhile.
            Err(_) => return vec![unknown()],
        }
    }
    findings(&programs_of)
}

fn unknown() -> Finding {
    Finding::warn(NAME, "not visible without privileges", "run check as root")
}

/// The names of other software's programs on a device. Names at tcx are truncated to 15 characters.
fn foreign(device: &str) -> Result<Vec<String>, TcError> {
    let mut names = programs_at(device, Direction::Ingress)?;
    names.extend(programs_at(device, Direction::Egress)?);
    names.retain(|name| {
        !TC_PROGRAMS.iter().any(|ours| ours.name.starts_with(name.trim_start_matches("portreeve:")))
    });
    Ok(names)
}

fn findings(programs_of: &BTreeMap<String, Vec<String>>) -> Vec<Finding> {
    if programs_of.is_empty() {
        return vec![Finding::ok(NAME, "none at the tc hooks")];
    }
    let remedy = "none, if they are expected: they run after the programs of portreeve and stay in place";
    let lines = programs_of.iter().map(|(device, programs)| format!("{device}: {}", programs.join(", ")));
    lines.map(|what| Finding::warn(NAME, what, remedy)).collect()
}
