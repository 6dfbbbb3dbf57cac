//! The flow tables of the packet plane, read-only.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::Pod;
use proxy_ebpf::abi::{Flow, FlowState, FlowV4, FlowV6, MASQUERADE_DONE, map};

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
}

/// The flow tables of both families.
#[derive(Debug)]
pub struct Flows {
    v4: MmapArray<FlowV4>,
    v6: MmapArray<FlowV6>,
}

impl Flows {
    pub fn inspect(dir: &Path) -> Result<Self, OpenError> {
        let access = Access::Read;
        Ok(Self { v4: mapped(dir, map::FLOWS_V4, access)?, v6: mapped(dir, map::FLOWS_V6, access)? })
    }

    /// The live flows.
    pub fn alive(&self) -> impl Iterator<Item = Result<TrackedFlow, MapError>> {
        alive(&self.v4, map::FLOWS_V4).chain(alive(&self.v6, map::FLOWS_V6))
    }
}

fn alive<A: Copy + Into<IpAddr>>(
    table: &MmapArray<Flow<A>>,
    name: &'static str,
) -> impl Iterator<Item = Result<TrackedFlow, MapError>>
where
    Flow<A>: Pod,
{
    let flows = (0..table.capacity()).filter_map(|slot| table.read(slot).transpose());
    let alive = flows.filter(|flow| flow.as_ref().map_or(true, |flow| flow.state.is_alive()));
    alive.map(move |flow| flow.map(|flow| tracked(&flow)).map_err(unmapped_array(name)))
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
    }
}
