//! `get connections`: one row per flow in the connection tracking table of the packet plane.
//!
//! ```text
//! {"connections": [{"service": "shop/web", "port_name": "http", "protocol": "TCP", "client": "198.51.100.7:40000",
//!                   "dialled": "203.0.113.10:80", "backend": "10.244.1.4:8080", "masquerade": "172.18.0.11:2044"|null,
//!                   "state": "new|established|closing|closed", "idle_seconds": 3,
//!                   "sent": {"packets": 9, "bytes": 1270}, "received": {"packets": 7, "bytes": 90210}, "pod": "shop/web-0"|null}]}
//! ```
//!
//! `sent` is what went to the backend; see `traffic_count`.
//! `pod` is the client, if it is an endpoint of this node and an agent runs. Flows of the socket LB are not included: their packets go from client to backend without translation.

use std::{net::SocketAddr, time::Duration};

use proxy_ebpf::abi::{FlowState, flow_state::TICK_SHIFT};
use serde::{Deserialize, Serialize};

use super::{
    labels::{Labels, ServicePort},
    listing::Row,
    selection::Selection,
    traffic_count::TrafficCount,
};
use crate::{
    cli::{human_bytes::human_bytes, human_duration::human_duration},
    datapath::TrackedFlow,
    model::address::Protocol,
    observe::objects::Pods,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    #[serde(flatten)]
    service: ServicePort,
    protocol: String,
    client: SocketAddr,
    dialled: SocketAddr,
    backend: SocketAddr,
    masquerade: Option<SocketAddr>,
    state: State,
    idle_seconds: u64,
    #[serde(default)]
    sent: TrafficCount,
    #[serde(default)]
    received: TrafficCount,
    pod: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// No reply yet.
    New,
    Established,
    /// One side has sent a FIN.
    Closing,
    /// Both sides have sent a FIN, or one a RST.
    Closed,
}

/// Converts flows to rows, sorted by service port and client. `now` is monotonic time.
pub fn read(
    flows: impl IntoIterator<Item = TrackedFlow>,
    labels: &Labels,
    selection: &Selection,
    now: Duration,
) -> Vec<ConnectionRow> {
    let is_selected = |flow: &TrackedFlow| selection.takes(labels.get(flow.service));
    let row = |flow: TrackedFlow| ConnectionRow::new(labels.get(flow.service).into(), &flow, now);
    let mut rows: Vec<_> = flows.into_iter().filter(is_selected).map(row).collect();
    rows.sort_by(|a, b| {
        (&a.service, a.client, a.dialled, &a.protocol).cmp(&(&b.service, b.client, b.dialled, &b.protocol))
    });
    rows
}

impl ConnectionRow {
    fn new(service: ServicePort, flow: &TrackedFlow, now: Duration) -> Self {
        let TrackedFlow { state, protocol, client, frontend, backend, masquerade, sent, received, .. } =
            *flow;
        // The flow clock is 32 bits wide and wraps as in the BPF programs.
        let idle = u64::from(state.idle((now.as_nanos() >> TICK_SHIFT) as u32));
        Self {
            service,
            protocol: Protocol::from_number(protocol)
                .map_or_else(|| protocol.to_string(), |protocol| protocol.to_string()),
            client,
            dialled: frontend,
            backend,
            masquerade,
            state: State::of(state),
            idle_seconds: (idle << TICK_SHIFT) / 1_000_000_000,
            sent: sent.into(),
            received: received.into(),
            pod: None,
        }
    }

    pub fn set_pod(&mut self, pods: &Pods) {
        self.pod = pods.get(&self.client.ip()).cloned();
    }
}

impl State {
    fn of(flow: FlowState) -> Self {
        if flow.is_closed() {
            Self::Closed
        } else if flow.has(FlowState::ORIGINAL_FIN | FlowState::REPLY_FIN) {
            Self::Closing
        } else if flow.has(FlowState::SEEN_REPLY) {
            Self::Established
        } else {
            Self::New
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

impl Row for ConnectionRow {
    const LIST: &'static str = "connections";

    fn service(&self) -> Option<&ServicePort> {
        Some(&self.service)
    }

    fn id(&self) -> String {
        format!("{} {} {}", self.client, self.dialled, self.protocol)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.client, self.protocol)
    }

    fn header(is_wide: bool) -> Vec<&'static str> {
        let narrow = ["SERVICE", "CLIENT", "DIALLED", "BACKEND", "STATE"];
        let wide = ["PROTOCOL", "MASQUERADE", "IDLE", "SENT", "RECEIVED", "POD"];
        narrow.into_iter().chain(wide.into_iter().filter(|_| is_wide)).collect()
    }

    fn cells(&self, is_wide: bool) -> Vec<String> {
        let masquerade = self.masquerade.map_or_else(|| "-".to_owned(), |address| address.to_string());
        let narrow = [
            self.service.text(),
            self.client.to_string(),
            self.dialled.to_string(),
            self.backend.to_string(),
            self.state.text().to_owned(),
        ];
        let idle = human_duration(self.idle_seconds.cast_signed());
        let pod = self.pod.clone().unwrap_or_else(|| "-".to_owned());
        let wide = [
            self.protocol.clone(),
            masquerade,
            idle,
            human_bytes(self.sent.bytes),
            human_bytes(self.received.bytes),
            pod,
        ];
        narrow.into_iter().chain(wide.into_iter().filter(|_| is_wide)).collect()
    }

    fn is_unchanged(&self, earlier: &Self) -> bool {
        let (sent, received) = (TrafficCount::default(), TrafficCount::default());
        let lasting = |row: &Self| Self { idle_seconds: 0, sent, received, ..row.clone() };
        lasting(self) == lasting(earlier)
    }
}
