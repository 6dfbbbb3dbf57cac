//! The kernel's counters, read from the pinned maps.

use std::{collections::HashMap, path::Path};

use anyhow::Result;
use proxy_ebpf::abi::{
    BackendConnections, BackendFlags, BackendRef, DropReason, HealthChange, HealthFault, ServiceName,
    ServiceStats, XdpOutcome,
};

use crate::{
    config::KernelSeries,
    datapath::{self, KernelMaps},
    model::{address::IpFamily, service::ServicePortKey},
    observe::metrics::{BackendSeries, HealthCounters, KernelCounters},
    reconcile::{LbMaps as _, parse_label},
};

/// Service ports with all counters 0 are left out: from one node most ports of a large cluster are never
/// used.
pub fn read_counters(bpffs: &Path, wanted: KernelSeries) -> Result<KernelCounters> {
    let maps = datapath::inspect(bpffs)?;
    let refusals = DropReason::ALL.into_iter().map(|reason| Ok((reason.name(), maps.drops(reason as u32)?)));
    let xdp = XdpOutcome::ALL.into_iter().map(|outcome| Ok((outcome.name(), maps.xdp_outcomes(outcome)?)));
    let (mut services, mut connections) = (Vec::new(), Vec::new());
    let labels = if wanted == KernelSeries::Node { Vec::new() } else { maps.services()? };
    for (id, label) in &labels {
        let Some(service) = parse_label(label) else { continue };
        let of_sockets = maps.service_connections(*id)?;
        if !of_sockets.is_unused() {
            connections.push((service.clone(), of_sockets));
        }
        let stats = maps.service_stats(*id)?;
        if stats != ServiceStats::default() {
            services.push((service, stats));
        }
    }
    let backends = if wanted == KernelSeries::Backends { backends(&maps, &labels)? } else { Vec::new() };
    Ok(KernelCounters {
        refusals: refusals.collect::<Result<_>>()?,
        xdp: xdp.collect::<Result<_>>()?,
        services,
        connections,
        backends,
        health: health(&maps)?,
        fill: datapath::flow_fill(bpffs)?,
    })
}

/// Suspected backends, and changes of backends' health. The backends are walked only while one of them may be suspected.
fn health(maps: &KernelMaps) -> Result<HealthCounters> {
    let mut suspected = HealthFault::ALL.map(|fault| (fault.name(), 0));
    if maps.is_any_suspected()? {
        let extent = maps.extent()?.backends;
        for family in IpFamily::BOTH {
            for index in 0..*extent.get(family) {
                let entry = maps.backend(family, index)?;
                let reference = BackendRef { index, generation: entry.generation };
                if entry.flags.contains(BackendFlags::ALIVE)
                    && let Some(suspicion) = maps.backend_health(family, reference)?
                    && let Some((_, count)) =
                        suspected.iter_mut().find(|(name, _)| *name == suspicion.fault.name())
                {
                    *count += 1;
                }
            }
        }
    }
    let suspicions = HealthFault::ALL
        .into_iter()
        .map(|fault| Ok((fault.name(), maps.health_changes(HealthChange::suspected(fault))?)));
    Ok(HealthCounters {
        suspected: suspected.into(),
        suspicions: suspicions.collect::<Result<_>>()?,
        restored: maps.health_changes(HealthChange::RESTORED)?,
        resteered: maps.health_changes(HealthChange::RESTEERED)?,
    })
}

/// The backends to which sockets connected.
fn backends(maps: &KernelMaps, labels: &[(u32, ServiceName)]) -> Result<Vec<BackendSeries>> {
    let names = labels.iter().filter_map(|(id, label)| Some((*id, parse_label(label)?)));
    let names: HashMap<u32, ServicePortKey> = names.collect();
    let (extent, mut used) = (maps.extent()?.backends, Vec::new());
    for family in IpFamily::BOTH {
        for index in 0..*extent.get(family) {
            let entry = maps.backend(family, index)?;
            let reference = BackendRef { index, generation: entry.generation };
            let connections = maps.backend_connections(family, reference)?;
            let unused = BackendConnections { generation: entry.generation, ..BackendConnections::default() };
            if !entry.flags.contains(BackendFlags::ALIVE)
                || [unused, BackendConnections::default()].contains(&connections)
            {
                continue;
            }
            let service = names.get(&entry.service).cloned();
            used.extend(service.map(|service| BackendSeries {
                service,
                address: entry.address,
                connections,
            }));
        }
    }
    Ok(used)
}
