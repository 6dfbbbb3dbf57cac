//! Whose programs stand at the hooks where ours do, or will.

use std::collections::BTreeMap;

use nix::net::if_::if_nameindex;
use proxy_ebpf::abi::{Direction, TC_PROGRAMS};

use super::Finding;
use crate::datapath::{self, TcError, programs_at};

const NAME: &str = "other programs";

pub fn check() -> Vec<Finding> {
    if datapath::require_capabilities().is_err() {
        return vec![unseen()];
    }
    // Not from /sys: it may show another network namespace than the one we are in.
    let Ok(devices) = if_nameindex() else { return vec![unseen()] };
    let mut standing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for device in devices.iter().map(|device| device.name().to_string_lossy().into_owned()) {
        match foreign(&device) {
            Ok(programs) if programs.is_empty() => {}
            Ok(programs) => drop(standing.insert(device, programs)),
            // It may have gone meanwhile, and another look will tell.
            Err(_) => return vec![unseen()],
        }
    }
    judge(&standing)
}

fn unseen() -> Finding {
    Finding::warn(NAME, "not to be seen from here", "run check as root")
}

/// All names but ours; those at tcx are cut after 15 characters.
fn foreign(device: &str) -> Result<Vec<String>, TcError> {
    let mut names = programs_at(device, Direction::Ingress)?;
    names.extend(programs_at(device, Direction::Egress)?);
    names.retain(|name| {
        !TC_PROGRAMS.iter().any(|ours| ours.name.starts_with(name.trim_start_matches("portreeve:")))
    });
    Ok(names)
}

fn judge(standing: &BTreeMap<String, Vec<String>>) -> Vec<Finding> {
    if standing.is_empty() {
        return vec![Finding::ok(NAME, "none at the hooks of devices")];
    }
    let remedy = "nothing, if they are meant to be there: they run after ours, and are left alone";
    let found = standing.iter().map(|(device, programs)| format!("{device}: {}", programs.join(", ")));
    found.map(|what| Finding::warn(NAME, what, remedy)).collect()
}
