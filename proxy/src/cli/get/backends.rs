//! `get backends`: one row per backend of a service port.
//!
//! ```text
//! {"backends": [{"service": "shop/web", "port_name": "http", "address": "10.244.1.4:8080", "protocol": "TCP",
//!                "state": "ready|terminating|unused|down", "sets": ["cluster", "local"], "index": 17, "generation": 3,
//!                "health": {"fault": "silent", "milliseconds": 12100, "left_out_milliseconds": 1400}, "tcp": {"opened": 12, ..}, "pod": "shop/web-0", "node": "node-1", "zone": "a"}]}
//! ```
//!
//! `unused` is ready, but no frontend selects it: it keeps its flows and gets no new ones. A terminating backend is in a
//! set only while no ready backend exists. `down` is this node's name server without a heartbeat: no client gets it. Slots
//! and affinity entries refer to a backend by `index` and `generation`. `pod`, `node` and `zone` are known to a running
//! agent, the pods of other nodes to none; null if unknown. `health` is null unless
//! connections of this node have found a fault of the backend; left out for 0: the next one tries it. `tcp` has the connections of sockets, see `connection_counts`; null if
//! the port is not one of TCP.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use proxy_ebpf::abi::{BackendConnections, BackendFlags, BackendRef};
use serde::{Deserialize, Serialize};

use super::{
    connection_counts::ConnectionCounts,
    labels::{Labels, ServicePort},
    listing::Row,
    selection::Selection,
};
use crate::{
    cli::output::Tone,
    model::{
        address::{IpFamily, Protocol},
        health::Suspicion,
    },
    observe::objects::EndpointDetails,
    reconcile::{BackendEntry, LbMaps, MapError},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRow {
    #[serde(flatten)]
    service: ServicePort,
    address: SocketAddr,
    protocol: String,
    state: State,
    sets: Vec<Cow<'static, str>>,
    index: u32,
    generation: u32,
    #[serde(default)]
    health: Option<HealthPart>,
    tcp: Option<ConnectionCounts>,
    pod: Option<String>,
    node: Option<String>,
    zone: Option<String>,
}

/// The suspicion of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HealthPart {
    fault: Cow<'static, str>,
    /// Since the first fault.
    milliseconds: u64,
    left_out_milliseconds: u64,
}

impl HealthPart {
    fn text(&self) -> String {
        let seconds = self.milliseconds / 1000;
        match self.left_out_milliseconds {
            0 => format!("{} {seconds}s, on trial", self.fault),
            out => format!("{} {seconds}s, out {:.1}s", self.fault, out as f64 / 1000.0),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ready,
    Terminating,
    Unused,
    Down,
}

/// Reads the rows, sorted by service port and address.
pub fn read(
    maps: &impl LbMaps,
    labels: &Labels,
    selection: &Selection,
    name_server_is_up: bool,
    connections: impl Fn(IpFamily, BackendRef) -> Result<BackendConnections, MapError>,
) -> Result<Vec<BackendRow>, MapError> {
    let mut rows = Vec::new();
    for family in IpFamily::BOTH {
        for index in 0..maps.capacity().backends {
            let entry = maps.backend(family, index)?;
            if entry.flags.contains(BackendFlags::ALIVE) {
                let service = labels.get(entry.service);
                if selection.takes(service) {
                    let reference = BackendRef { index, generation: entry.generation };
                    let counts = connections(family, reference)?;
                    rows.push(BackendRow::new(service.into(), index, &entry, name_server_is_up, &counts));
                }
            }
        }
    }
    rows.sort_by(|a, b| (&a.service, a.address, &a.protocol).cmp(&(&b.service, b.address, &b.protocol)));
    Ok(rows)
}

impl BackendRow {
    fn new(
        service: ServicePort,
        index: u32,
        entry: &BackendEntry,
        name_server_is_up: bool,
        counts: &BackendConnections,
    ) -> Self {
        let BackendEntry { address, protocol, flags, service: _, generation } = *entry;
        let sets = sets(flags);
        let state = if flags.contains(BackendFlags::NAME_SERVER) && !name_server_is_up {
            State::Down
        } else if flags.contains(BackendFlags::TERMINATING) {
            State::Terminating
        } else if sets.is_empty() {
            State::Unused
        } else {
            State::Ready
        };
        let known = Protocol::from_number(protocol);
        let tcp = (known == Some(Protocol::Tcp)).then(|| ConnectionCounts::of_backend(counts));
        let protocol = known.map_or_else(|| protocol.to_string(), |protocol| protocol.to_string());
        let (pod, node, zone) = (None, None, None);
        let health = None;
        Self { service, address, protocol, state, sets, index, generation, health, tcp, pod, node, zone }
    }

    pub fn reference(&self) -> (IpFamily, BackendRef) {
        let reference = BackendRef { index: self.index, generation: self.generation };
        (IpFamily::of(self.address.ip()), reference)
    }

    /// Sets the suspicion, if there is one.
    pub fn set_health(&mut self, suspicion: Option<Suspicion>) {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.health = suspicion.map(|Suspicion { fault, age, left_out }| HealthPart {
            fault: fault.name().into(),
            milliseconds: milliseconds(age),
            left_out_milliseconds: milliseconds(left_out),
        });
    }

    /// Sets pod, node and zone, if an agent tells them.
    pub fn set_details(&mut self, endpoints: &HashMap<(String, IpAddr), EndpointDetails>) {
        let key = (self.service.service.clone(), self.address.ip());
        if let Some(EndpointDetails { pod, node, zone, .. }) = endpoints.get(&key) {
            (self.pod, self.node, self.zone) = (pod.clone(), node.clone(), zone.clone());
        }
    }
}

fn sets(flags: BackendFlags) -> Vec<Cow<'static, str>> {
    let all = [(BackendFlags::IN_CLUSTER_SET, "cluster"), (BackendFlags::IN_LOCAL_SET, "local")];
    all.into_iter().filter(|(set, _)| flags.contains(*set)).map(|(_, name)| name.into()).collect()
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Terminating => "terminating",
            Self::Unused => "unused",
            Self::Down => "down",
        }
    }
}

impl Row for BackendRow {
    const LIST: &'static str = "backends";

    fn service(&self) -> Option<&ServicePort> {
        Some(&self.service)
    }

    fn id(&self) -> String {
        format!("{}/{} of {}", self.address, self.protocol, self.service.text())
    }

    fn name(&self) -> String {
        self.address.to_string()
    }

    fn header(is_wide: bool) -> Vec<&'static str> {
        let mut header =
            vec!["SERVICE", "ADDRESS", "PROTOCOL", "READY", "STATE", "HEALTH", "SETS", "POD", "NODE", "ZONE"];
        if is_wide {
            header.extend(ConnectionCounts::HEADER);
            header.extend(["INDEX", "GENERATION"]);
        }
        header
    }

    fn cells(&self, is_wide: bool) -> Vec<String> {
        let sets = if self.sets.is_empty() { "-".to_owned() } else { self.sets.join(",") };
        let mut cells = vec![self.service.text(), self.address.to_string(), self.protocol.clone()];
        let is_ready = matches!(self.state, State::Ready | State::Unused);
        let health = self.health.as_ref().map_or_else(|| "-".to_owned(), HealthPart::text);
        cells.extend([is_ready.to_string(), self.state.text().to_owned(), health, sets]);
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        cells.extend([&self.pod, &self.node, &self.zone].map(known));
        if is_wide {
            let counts = self.tcp.as_ref().map(ConnectionCounts::cells);
            cells.extend(counts.unwrap_or_else(|| std::array::from_fn(|_| "-".to_owned())));
            cells.extend([self.index.to_string(), self.generation.to_string()]);
        }
        cells
    }

    fn tone(&self, header: &str) -> Tone {
        match (header, self.state) {
            ("READY" | "STATE", State::Ready) => Tone::Good,
            ("READY" | "STATE", State::Down | State::Terminating) => Tone::Bad,
            ("HEALTH", _) if self.health.is_some() => Tone::Bad,
            _ => Tone::Plain,
        }
    }

    fn is_unchanged(&self, earlier: &Self) -> bool {
        let fault = |row: &Self| row.health.as_ref().map(|health| health.fault.clone());
        // Times change all the time.
        fault(self) == fault(earlier)
            && Self { health: None, ..self.clone() } == Self { health: None, ..earlier.clone() }
    }
}
