//! What the kernel counted, read where it is pinned.

use std::path::Path;

use anyhow::Result;
use proxy_ebpf::abi::{DropReason, ServiceStats, XdpOutcome};

use crate::{
    datapath,
    observe::metrics::Counters,
    reconcile::{LbMaps as _, parse_label},
};

/// Service ports with nothing to tell are left out: most of a large cluster's are never dialled from one node.
pub fn counters(bpffs: &Path) -> Result<Counters> {
    let maps = datapath::inspect(bpffs)?;
    let refusals = DropReason::ALL.into_iter().map(|reason| Ok((reason.name(), maps.drops(reason as u32)?)));
    let early = XdpOutcome::ALL.into_iter().map(|outcome| Ok((outcome.name(), maps.early(outcome)?)));
    let mut services = Vec::new();
    for (id, label) in maps.services()? {
        let stats = maps.service_stats(id)?;
        if stats != ServiceStats::default() {
            services.extend(parse_label(&label).map(|service| (service, stats)));
        }
    }
    Ok(Counters {
        refusals: refusals.collect::<Result<_>>()?,
        early: early.collect::<Result<_>>()?,
        services,
    })
}
