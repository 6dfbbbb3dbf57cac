//! One reading of the counters in the pinned maps.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Result;
use proxy_ebpf::abi::{
    BackendConnections, BackendFlags, BackendRef, DropReason, ServiceConnections, ServiceStats,
};

use crate::{
    cli::{
        agents::Place,
        get::{
            details::Details,
            labels::{Labels, ServicePort},
            selection::{Selection, SelectionArgs},
        },
    },
    datapath::{self, InspectError, KernelMaps},
    model::address::{IpFamily, Protocol},
    reconcile::{LbMaps as _, MapError},
};

/// The data plane of a node, and the Services that are asked for.
pub struct Source {
    pub place: Place,
    selection: Selection,
}

/// The counters at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Monotonic time.
    pub at: Duration,
    /// By the id of the service port.
    pub services: BTreeMap<u32, ServiceReading>,
    pub backends: BTreeMap<BackendId, BackendReading>,
    pub refusals: Vec<(DropReason, u64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceReading {
    pub name: ServicePort,
    pub protocol: Protocol,
    pub stats: ServiceStats,
    /// Its generation tells the uses of the id apart, for `stats` as well: both are cleared together.
    pub tcp: ServiceConnections,
}

/// Its index may be reused: the generation is in the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendId {
    pub family: IpFamily,
    pub index: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BackendReading {
    pub service: u32,
    pub address: SocketAddr,
    pub is_terminating: bool,
    pub tcp: BackendConnections,
}

impl Source {
    /// Errors: labels are asked for, and no agent tells them.
    pub fn new(place: Place, args: &SelectionArgs) -> Result<Self> {
        let details = Details { socket: place.socket.clone() };
        let labelled = args.selector().map(|selector| details.labelled(selector)).transpose()?;
        Ok(Self { selection: args.selection().among(labelled), place })
    }

    pub fn details(&self) -> Details {
        Details { socket: self.place.socket.clone() }
    }

    /// Opens the maps each time: a new agent may have replaced them.
    pub fn read(&self) -> Result<Reading, InspectError> {
        let maps = datapath::inspect(&self.place.bpffs)?;
        self.read_maps(&maps).map_err(|error| InspectError::Unreadable(error.into()))
    }

    fn read_maps(&self, maps: &KernelMaps) -> Result<Reading, MapError> {
        let labels = Labels::read(maps)?;
        let mut services = BTreeMap::new();
        for (id, key) in labels.entries().filter(|(_, key)| self.selection.takes(Some(key))) {
            let reading = ServiceReading {
                name: Some(key).into(),
                protocol: key.protocol,
                stats: maps.service_stats(id)?,
                tcp: maps.service_connections(id)?,
            };
            services.insert(id, reading);
        }
        let backends = backends(maps, |service| services.contains_key(&service))?;
        let refusals = DropReason::ALL.into_iter().map(|reason| Ok((reason, maps.drops(reason as u32)?)));
        let refusals = refusals.collect::<Result<_, MapError>>()?;
        Ok(Reading { at: datapath::now(), services, backends, refusals })
    }
}

fn backends(
    maps: &KernelMaps,
    is_selected: impl Fn(u32) -> bool,
) -> Result<BTreeMap<BackendId, BackendReading>, MapError> {
    let mut backends = BTreeMap::new();
    let extent = maps.extent()?.backends;
    for family in IpFamily::BOTH {
        for index in 0..*extent.get(family) {
            let entry = maps.backend(family, index)?;
            if !entry.flags.contains(BackendFlags::ALIVE) || !is_selected(entry.service) {
                continue;
            }
            let tcp = maps.backend_connections(family, BackendRef { index, generation: entry.generation })?;
            let reading = BackendReading {
                service: entry.service,
                address: entry.address,
                is_terminating: entry.flags.contains(BackendFlags::TERMINATING),
                // Counters of another generation are read as none; this one is the backend's.
                tcp: BackendConnections { generation: entry.generation, ..tcp },
            };
            backends.insert(BackendId { family, index }, reading);
        }
    }
    Ok(backends)
}
