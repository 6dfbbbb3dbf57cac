//! The fill of the tables that the programs write: flows, and affinity entries.
//!
//! The reconciler knows that of all others.

use std::{mem::offset_of, os::fd::AsFd as _, path::Path};

use proxy_ebpf::abi::{FlowState, FlowV4, FlowV6, MAPS, map};

use super::{
    inspect::{InspectError, open_existing},
    open::{OpenError, pinned},
};
use crate::{datapath::kernel::bpf, reconcile::Fill};

const HASHES: [&str; 4] = [map::AFFINITY_V4, map::AFFINITY_V6, map::NEW_AFFINITY_V4, map::NEW_AFFINITY_V6];

/// Counts the entries below a pin directory, including expired ones that no program has removed yet.
pub fn flow_fill(dir: &Path) -> Result<Vec<Fill>, InspectError> {
    open_existing(dir, |maps| {
        let flows = [
            counted(maps, map::FLOWS_V4, |flow| is_alive(flow, offset_of!(FlowV4, state)))?,
            counted(maps, map::FLOWS_V6, |flow| is_alive(flow, offset_of!(FlowV6, state)))?,
        ];
        let hashes = HASHES.into_iter().map(|name| counted(maps, name, |_| true));
        flows.into_iter().map(Ok).chain(hashes).collect()
    })
}

fn is_alive(flow: &[u8], at: usize) -> bool {
    let state = flow.get(at..).and_then(|state| state.first_chunk());
    state.is_some_and(|state| FlowState(u64::from_ne_bytes(*state)).is_alive())
}

fn counted(maps: &Path, name: &'static str, is_counted: impl Fn(&[u8]) -> bool) -> Result<Fill, OpenError> {
    let spec = MAPS.iter().find(|spec| spec.name == name).expect("every map is in the table");
    let (data, capacity) = pinned(maps, name)?;
    let used = bpf::map_count(data.fd().as_fd(), (spec.key, spec.value), is_counted)
        .map_err(|source| OpenError::Count { name, source })?;
    Ok(Fill { map: name, used, capacity })
}
