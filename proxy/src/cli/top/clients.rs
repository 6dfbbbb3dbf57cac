//! The clients of a backend, from the flow table of the packet plane.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use proxy_ebpf::abi::flow_state::TICK_SHIFT;

use crate::datapath::{self, InspectError, TrackedFlow};

/// The flows of a client to a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFlows {
    pub flows: u64,
    /// Of them, those that both sides have ended, or one has reset.
    pub closed: u64,
    /// Of the latest packet.
    pub idle: Option<Duration>,
    pub masqueraded: u64,
    /// To the backend.
    pub sent_bytes: u64,
    /// From the backend.
    pub received_bytes: u64,
}

/// Reads the whole flow table.
pub fn read(
    bpffs: &Path,
    service: u32,
    backend: SocketAddr,
) -> Result<BTreeMap<IpAddr, ClientFlows>, InspectError> {
    let flows = datapath::inspect_flows(bpffs)?;
    let flows = flows
        .alive()
        .filter(|flow| flow.as_ref().map_or(true, |flow| flow.service == service && flow.backend == backend));
    let flows =
        flows.collect::<Result<Vec<_>, _>>().map_err(|error| InspectError::Unreadable(error.into()))?;
    Ok(by_client(&flows, datapath::now()))
}

/// `now` is monotonic time.
fn by_client(flows: &[TrackedFlow], now: Duration) -> BTreeMap<IpAddr, ClientFlows> {
    let mut clients: BTreeMap<IpAddr, ClientFlows> = BTreeMap::new();
    for flow in flows {
        let client = clients.entry(flow.client.ip()).or_default();
        // The flow clock is 32 bits wide and wraps as in the BPF programs.
        let ticks = u64::from(flow.state.idle((now.as_nanos() >> TICK_SHIFT) as u32));
        let idle = Duration::from_nanos(ticks << TICK_SHIFT);
        client.flows += 1;
        client.closed += u64::from(flow.state.is_closed());
        client.masqueraded += u64::from(flow.masquerade.is_some());
        client.sent_bytes = client.sent_bytes.saturating_add(flow.sent.bytes);
        client.received_bytes = client.received_bytes.saturating_add(flow.received.bytes);
        client.idle = Some(client.idle.map_or(idle, |known| known.min(idle)));
    }
    clients
}

#[cfg(test)]
mod tests {
    use proxy_ebpf::abi::{FlowState, Traffic};

    use super::*;

    #[test]
    fn flows_are_counted_by_client() {
        let flow = |client: [u8; 4], port: u16, state| TrackedFlow {
            state,
            protocol: 6,
            client: (client, port).into(),
            frontend: ([10, 96, 0, 1], 80).into(),
            backend: ([10, 244, 1, 4], 8080).into(),
            masquerade: (port == 1).then(|| ([192, 0, 2, 1], 2044).into()),
            service: 7,
            sent: Traffic { packets: 1, bytes: 100 },
            received: Traffic { packets: 2, bytes: u64::MAX },
        };
        let open = FlowState::default();
        let flows =
            [flow([192, 0, 2, 9], 1, open), flow([192, 0, 2, 9], 2, open), flow([192, 0, 2, 8], 1, open)];
        let clients = by_client(&flows, Duration::ZERO);
        let of = |client: [u8; 4]| clients[&IpAddr::from(client)].clone();
        assert_eq!(clients.len(), 2);
        assert_eq!((of([192, 0, 2, 9]).flows, of([192, 0, 2, 9]).masqueraded), (2, 1));
        assert_eq!((of([192, 0, 2, 9]).sent_bytes, of([192, 0, 2, 9]).received_bytes), (200, u64::MAX));
        assert_eq!((of([192, 0, 2, 8]).flows, of([192, 0, 2, 8]).closed), (1, 0));
    }
}
