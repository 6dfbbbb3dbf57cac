//! The flow tables of the packet plane, read-only.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::Pod;
use proxy_ebpf::abi::{
    Flow, FlowCounters, FlowDirection, FlowState, FlowV4, FlowV6, MASQUERADE_DONE, Traffic, map,
};

use super::{
    mmap_array::{Access, MmapArray},
    open::{OpenError, mapped, unmapped_array},
};
use crate::reconcile::MapError;

/// A snapshot of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedFlow {
    pub state: FlowState,
    /// IANA protocol number.
    pub protocol: u8,
    pub client: SocketAddr,
    pub frontend: SocketAddr,
    pub backend: SocketAddr,
    pub masquerade: Option<SocketAddr>,
    /// Id of the service port; 0: none.
    pub service: u32,
    /// To the backend.
    pub sent: Traffic,
    /// From the backend.
    pub received: Traffic,
}

/// The flow tables of both families.
#[derive(Debug)]
pub struct Flows {
    v4: MmapArray<FlowV4>,
    v6: MmapArray<FlowV6>,
    counters_v4: MmapArray<FlowCounters>,
    counters_v6: MmapArray<FlowCounters>,
}

impl Flows {
    pub fn inspect(dir: &Path) -> Result<Self, OpenError> {
        let access = Access::Read;
        Ok(Self {
            v4: mapped(dir, map::FLOWS_V4, access)?,
            v6: mapped(dir, map::FLOWS_V6, access)?,
            counters_v4: mapped(dir, map::FLOW_COUNTERS_V4, access)?,
            counters_v6: mapped(dir, map::FLOW_COUNTERS_V6, access)?,
        })
    }

    /// The live flows.
    pub fn alive(&self) -> impl Iterator<Item = Result<TrackedFlow, MapError>> {
        let v4 = alive(&self.v4, &self.counters_v4, map::FLOWS_V4);
        v4.chain(alive(&self.v6, &self.counters_v6, map::FLOWS_V6))
    }
}

fn alive<A: Copy + Into<IpAddr>>(
    table: &MmapArray<Flow<A>>,
    counters: &MmapArray<FlowCounters>,
    name: &'static str,
) -> impl Iterator<Item = Result<TrackedFlow, MapError>>
where
    Flow<A>: Pod,
{
    let flow = move |slot| {
        let Some(flow) = table.read(slot)?.filter(|flow| flow.state.is_alive()) else { return Ok(None) };
        let traffic = |direction| traffic(counters, FlowCounters::index(direction, slot, table.capacity()));
        Ok(Some(TrackedFlow {
            sent: traffic(FlowDirection::Original)?,
            received: traffic(FlowDirection::Reply)?,
            ..tracked(&flow)
        }))
    };
    (0..table.capacity()).filter_map(move |slot| flow(slot).map_err(unmapped_array(name)).transpose())
}

fn traffic(counters: &MmapArray<FlowCounters>, index: u32) -> io::Result<Traffic> {
    let counters = counters.read(index)?.unwrap_or_default();
    Ok(Traffic { packets: counters.packets, bytes: counters.bytes })
}

fn tracked<A: Copy + Into<IpAddr>>(flow: &Flow<A>) -> TrackedFlow {
    let end = |address: A, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    let is_masqueraded = flow.masquerade_state == MASQUERADE_DONE;
    TrackedFlow {
        state: flow.state,
        protocol: flow.protocol,
        client: end(flow.client, flow.client_port),
        frontend: end(flow.destination, flow.destination_port),
        backend: end(flow.backend, flow.backend_port),
        masquerade: is_masqueraded.then(|| end(flow.masquerade, flow.masquerade_port)),
        service: flow.service,
        sent: Traffic::default(),
        received: Traffic::default(),
    }
}
