//! The content of the maps as sorted text without ids: maps that serve the same traffic have the same text.
//!
//! `FE key service=… flags=… affinity=… internal=… external=… sources=…` is a frontend, `BE service address
//! flags=…` a backend. Flags are printed by name.

use std::{collections::HashMap, fmt::Write as _};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::{BackendFlags, BackendRef, Block};

use super::maps::{LbMaps, MapError};
use crate::model::address::IpFamily;

/// All reachable frontends and all backends in use.
pub fn dump(maps: &impl LbMaps) -> Result<String, MapError> {
    let names: HashMap<u32, String> =
        maps.services()?.into_iter().map(|(id, name)| (id, name.as_str().to_owned())).collect();
    let name = |id: u32| names.get(&id).map_or("?", String::as_str);
    let ranges = maps.source_ranges()?;
    let mut lines = Vec::new();
    for (key, index) in maps.frontends()? {
        let descriptor = maps.descriptor(maps.published(index)?)?;
        let family = key.address.family();
        lines.push(format!(
            "FE {key} service={} flags={} affinity={} internal={} external={}{}",
            name(descriptor.service),
            descriptor.flags,
            descriptor.affinity_seconds,
            addresses(maps, family, descriptor.internal)?,
            addresses(maps, family, descriptor.external)?,
            sources(&ranges, descriptor.source_ranges),
        ));
    }
    for family in IpFamily::BOTH {
        for index in 0..maps.capacity().backends {
            let entry = maps.backend(family, index)?;
            if entry.flags.contains(BackendFlags::ALIVE) {
                lines.push(format!("BE {} {} flags={}", name(entry.service), entry.address, entry.flags));
            }
        }
    }
    lines.sort_unstable();
    Ok(lines.into_iter().fold(String::new(), |mut text, line| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
        text
    }))
}

/// The ranges of a frontend; empty if it has none.
fn sources(ranges: &[(u32, IpNetwork)], set: u32) -> String {
    let mut admitted: Vec<_> =
        ranges.iter().filter(|(of, _)| *of == set).map(|(_, range)| range.to_string()).collect();
    admitted.sort_unstable();
    if set == 0 { String::new() } else { format!(" sources=[{}]", admitted.join(",")) }
}

/// The backends of a block in order; a stale reference is `!`.
fn addresses(maps: &impl LbMaps, family: IpFamily, block: Block) -> Result<String, MapError> {
    let address = |reference: BackendRef| {
        let entry = maps.backend(family, reference.index)?;
        let is_alive = entry.generation == reference.generation && entry.flags.contains(BackendFlags::ALIVE);
        Ok(if is_alive { entry.address.to_string() } else { "!".to_owned() })
    };
    let addresses: Vec<_> = maps.slots(block)?.into_iter().map(address).collect::<Result<_, MapError>>()?;
    Ok(format!("[{}]", addresses.join(",")))
}
