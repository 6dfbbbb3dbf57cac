//! The kernel's counters, read from the pinned maps.

use std::path::Path;

use anyhow::Result;
use proxy_ebpf::abi::{DropReason, ServiceStats, XdpOutcome};

use crate::{
    datapath,
    observe::metrics::KernelCounters,
    reconcile::{LbMaps as _, parse_label},
};

/// Service ports with all counters 0 are left out: from one node most ports of a large cluster are never
/// used. `has_services`: whether those of service ports are read at all.
pub fn read_counters(bpffs: &Path, has_services: bool) -> Result<KernelCounters> {
    let maps = datapath::inspect(bpffs)?;
    let refusals = DropReason::ALL.into_iter().map(|reason| Ok((reason.name(), maps.drops(reason as u32)?)));
    let xdp = XdpOutcome::ALL.into_iter().map(|outcome| Ok((outcome.name(), maps.xdp_outcomes(outcome)?)));
    let mut services = Vec::new();
    let labels = if has_services { maps.services()? } else { Vec::new() };
    for (id, label) in labels {
        let stats = maps.service_stats(id)?;
        if stats != ServiceStats::default() {
            services.extend(parse_label(&label).map(|service| (service, stats)));
        }
    }
    Ok(KernelCounters {
        refusals: refusals.collect::<Result<_>>()?,
        xdp: xdp.collect::<Result<_>>()?,
        services,
        fill: datapath::flow_fill(bpffs)?,
    })
}
