//! `get services`: one row per frontend.
//!
//! ```text
//! {"frontends": [{"service": "shop/web", "port_name": "http", "family": "IPv4", "address": "10.96.0.10", "port": 80,
//!                 "protocol": "TCP", "type": "ClusterIP|NodePort|External", "internal": VIEW, "external": VIEW, "affinity_seconds": 10800, "needs_source_address": false,
//!                 "translated": 12, "refused": 0, "flows": {"sent": {..}, "received": {..}},
//!                 "tcp": {"opened": 12, ..}, "created": "2026-01-01T12:00:00Z"}],
//!  "refusals": {"no_endpoint": 0, ..}, "node_ports_at": ["192.0.2.11"]}
//! VIEW: {"backends": ["10.244.1.4:8080"], "local": 1, "policy": "Cluster|Local", "when_empty": "reject|drop"}
//! ```
//!
//! `internal` is the view of pods and the node, `external` the view of other clients. `address` is `*` for a NodePort,
//! which is one frontend in each family (in tables `*` and `[*]`); the maps do not distinguish external IPs and
//! load-balancer IPs. `node_ports_at` is present if a NodePort is: the addresses of this node that serve it.
//! `affinity_seconds` is null without ClientIP affinity. `needs_source_address` means that source ranges apply.
//! `translated` and `refused` count the connections to all addresses of the service port; a table has them once, as `tcp`, the
//! connections of sockets: see `connection_counts`; null if the port is not one of TCP. `refusals` counts drop reasons
//! over all Services. `created` is the time of the Service, from the running agent; null if there is none.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use jiff::Timestamp;
use proxy_ebpf::abi::{
    BackendFlags, Block, Descriptor, DescriptorFlags, ServiceConnections, ServiceStats, Unclaimed,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    connection_counts::ConnectionCounts,
    labels::{Labels, ServicePort},
    listing::Row,
    selection::Selection,
    traffic_count::ForwardedCounts,
};
use crate::{
    cli::{frontend_name::address_cell, human_duration::human_duration, output::Tone},
    model::{
        address::{IpFamily, Protocol},
        frontend::{FrontendAddress, FrontendKey},
    },
    observe::objects::ServiceDetails,
    reconcile::{LbMaps, MapError, frontend_key},
};

/// Attempts to read a consistent state of a frontend that changes meanwhile.
const ATTEMPTS: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendRow {
    #[serde(flatten)]
    service: ServicePort,
    #[serde(flatten, serialize_with = "key_fields", deserialize_with = "key_of_fields")]
    key: FrontendKey,
    r#type: Cow<'static, str>,
    internal: View,
    external: View,
    affinity_seconds: Option<u32>,
    needs_source_address: bool,
    translated: u64,
    refused: u64,
    #[serde(default)]
    flows: ForwardedCounts,
    tcp: Option<ConnectionCounts>,
    created: Option<Timestamp>,
    /// The text of the age, which passes.
    #[serde(skip, default = "unknown_age")]
    age: String,
    /// The first row of its service port.
    #[serde(skip)]
    is_first: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct View {
    #[serde(serialize_with = "texts")]
    backends: Vec<SocketAddr>,
    local: u32,
    policy: Cow<'static, str>,
    when_empty: Cow<'static, str>,
}

#[derive(Serialize, Deserialize)]
struct KeyFields {
    family: String,
    address: String,
    port: u16,
    protocol: String,
}

fn key_fields<S: Serializer>(key: &FrontendKey, serializer: S) -> Result<S::Ok, S::Error> {
    let FrontendKey { address, port, protocol } = key;
    KeyFields {
        family: address.family().to_string(),
        address: address.to_string(),
        port: *port,
        protocol: protocol.to_string(),
    }
    .serialize(serializer)
}

/// Reads the fields of a report.
fn key_of_fields<'d, D: Deserializer<'d>>(deserializer: D) -> Result<FrontendKey, D::Error> {
    let KeyFields { family, address, port, protocol } = KeyFields::deserialize(deserializer)?;
    let ip = || address.parse().map(FrontendAddress::Ip).map_err(de::Error::custom);
    let address = match (&*address, &*family) {
        ("*", "IPv6") => FrontendAddress::NodePort(IpFamily::V6),
        ("*", _) => FrontendAddress::NodePort(IpFamily::V4),
        _ => ip()?,
    };
    Ok(FrontendKey { address, port, protocol: protocol.parse().map_err(de::Error::custom)? })
}

fn unknown_age() -> String {
    "<unknown>".to_owned()
}

/// The frontend address for tables. NodePorts of the two families differ too.
fn address_text(key: FrontendKey) -> String {
    match key.address {
        FrontendAddress::NodePort(IpFamily::V6) => format!("[*]:{}/{}", key.port, key.protocol),
        FrontendAddress::NodePort(IpFamily::V4) | FrontendAddress::Ip(_) => key.to_string(),
    }
}

/// Serializes addresses sorted as text, as `plan` does.
fn texts<S: Serializer>(addresses: &[SocketAddr], serializer: S) -> Result<S::Ok, S::Error> {
    addresses.iter().map(ToString::to_string).collect::<BTreeSet<_>>().serialize(serializer)
}

/// Reads the rows, sorted by service port and frontend address.
pub fn read(
    maps: &impl LbMaps,
    labels: &Labels,
    selection: &Selection,
    name_server_is_up: bool,
    stats: impl Fn(u32) -> Result<(ServiceStats, ServiceConnections), MapError>,
) -> Result<Vec<FrontendRow>> {
    // Iteration over a hash map that changes may return a key twice.
    let frontends: BTreeMap<FrontendKey, u32> = maps.frontends()?.into_iter().collect();
    let cluster_ips = cluster_ips(maps)?;
    let mut counted: BTreeMap<u32, (ServiceStats, ServiceConnections)> = BTreeMap::new();
    let mut rows = Vec::with_capacity(frontends.len());
    for (key, index) in frontends {
        let Some((descriptor, [internal, external])) = read_consistent(maps, key, index, name_server_is_up)?
        else {
            continue;
        };
        let service = labels.get(descriptor.service);
        if !selection.takes(service) {
            continue;
        }
        let (ServiceStats { translated, refused }, connections) = match counted.get(&descriptor.service) {
            Some(known) => *known,
            None => *counted.entry(descriptor.service).or_insert(stats(descriptor.service)?),
        };
        rows.push(FrontendRow {
            service: service.into(),
            key,
            r#type: type_of(key, &cluster_ips).into(),
            internal,
            external,
            affinity_seconds: Some(descriptor.affinity_seconds).filter(|seconds| *seconds != 0),
            needs_source_address: descriptor.flags.contains(DescriptorFlags::SOURCE_RANGES),
            translated,
            refused,
            flows: connections.forwarded.into(),
            tcp: (key.protocol == Protocol::Tcp).then(|| ConnectionCounts::of_service(&connections)),
            created: None,
            age: unknown_age(),
            is_first: false,
        });
    }
    rows.sort_by(|a, b| (&a.service, a.key).cmp(&(&b.service, b.key)));
    mark_first(&mut rows);
    Ok(rows)
}

/// Marks the first row of each service port, given that they are sorted.
pub fn mark_first(rows: &mut [FrontendRow]) {
    for n in 0..rows.len() {
        let is_first = n == 0 || rows[n - 1].port() != rows[n].port();
        rows[n].is_first = is_first;
    }
}

/// The programs refuse undefined ports of a ClusterIP, so its address is in a map of its own.
fn cluster_ips(maps: &impl LbMaps) -> Result<BTreeSet<IpAddr>, MapError> {
    let networks = maps.service_networks()?.into_iter();
    let ips = networks.filter(|(_, unclaimed)| *unclaimed == Unclaimed::UndefinedPort);
    Ok(ips.map(|(network, _)| network.ip()).collect())
}

fn type_of(key: FrontendKey, cluster_ips: &BTreeSet<IpAddr>) -> &'static str {
    match key.address {
        FrontendAddress::NodePort(_) => "NodePort",
        FrontendAddress::Ip(ip) if cluster_ips.contains(&ip) => "ClusterIP",
        FrontendAddress::Ip(_) => "External",
    }
}

/// Reads a consistent state of a frontend. Grace periods do not cover readers outside of the kernel; instead, a
/// descriptor that is still published after the read was not overwritten during it. Returns `None` if it changes
/// too often.
fn read_consistent(
    maps: &impl LbMaps,
    key: FrontendKey,
    index: u32,
    name_server_is_up: bool,
) -> Result<Option<(Descriptor, [View; 2])>, MapError> {
    for _ in 0..ATTEMPTS {
        let published = maps.published(index)?;
        let descriptor = maps.descriptor(published)?;
        let is_own = descriptor.frontend == index
            && frontend_key(descriptor.address, descriptor.port, descriptor.protocol) == Some(key);
        let views = views(maps, key.address.family(), &descriptor, name_server_is_up)?;
        if is_own && maps.published(index)? == published {
            return Ok(Some((descriptor, views)));
        }
    }
    Ok(None)
}

fn views(
    maps: &impl LbMaps,
    family: IpFamily,
    descriptor: &Descriptor,
    name_server_is_up: bool,
) -> Result<[View; 2], MapError> {
    let Descriptor { internal, external, flags, .. } = *descriptor;
    let internal_backends = addresses(maps, family, internal, name_server_is_up)?;
    let external_backends = if (internal.offset, internal.count) == (external.offset, external.count) {
        internal_backends.clone()
    } else {
        addresses(maps, family, external, name_server_is_up)?
    };
    let view = |backends, local, is_local, drops| View {
        backends,
        local,
        policy: if flags.contains(is_local) { "Local" } else { "Cluster" }.into(),
        when_empty: if flags.contains(drops) { "drop" } else { "reject" }.into(),
    };
    Ok([
        view(
            internal_backends,
            internal.local,
            DescriptorFlags::INTERNAL_LOCAL,
            DescriptorFlags::INTERNAL_DROPS,
        ),
        view(
            external_backends,
            external.local,
            DescriptorFlags::EXTERNAL_LOCAL,
            DescriptorFlags::EXTERNAL_DROPS,
        ),
    ])
}

/// The backends that new flows may get: this node's name server only while it is up, as in the programs.
fn addresses(
    maps: &impl LbMaps,
    family: IpFamily,
    block: Block,
    name_server_is_up: bool,
) -> Result<Vec<SocketAddr>, MapError> {
    let slots = maps.slots(block)?.into_iter();
    let entries = slots.map(|slot| Ok((slot, maps.backend(family, slot.index)?)));
    let entries = entries.collect::<Result<Vec<_>, MapError>>()?.into_iter();
    let alive = entries
        .filter(|(slot, entry)| {
            entry.generation == slot.generation
                && entry.flags.contains(BackendFlags::ALIVE)
                && (name_server_is_up || !entry.flags.contains(BackendFlags::NAME_SERVER))
        })
        .map(|(_, entry)| entry.address);
    Ok(alive.collect())
}

impl Row for FrontendRow {
    const LIST: &'static str = "frontends";

    fn service(&self) -> Option<&ServicePort> {
        Some(&self.service)
    }

    fn id(&self) -> String {
        format!("{} of {}", address_text(self.key), self.service.text())
    }

    fn name(&self) -> String {
        self.service.service.clone()
    }

    fn header(is_wide: bool) -> Vec<&'static str> {
        let backends: &[_] = if is_wide { &["INTERNAL", "EXTERNAL"] } else { &["BACKENDS"] };
        let tcp: &[_] = if is_wide { &ConnectionCounts::HEADER } else { &[] };
        let counts = &["POLICY", "CONNECTIONS", "REFUSED"];
        [&["SERVICE", "TYPE", "ADDRESS", "PORT(S)"], backends, counts, tcp, &["AGE"]].concat()
    }

    fn cells(&self, is_wide: bool) -> Vec<String> {
        let FrontendKey { port, protocol, .. } = self.key;
        let port = format!("{port}/{protocol}");
        let mut cells =
            vec![self.service.text(), self.r#type.to_string(), address_cell(self.key.address), port];
        if is_wide {
            cells.extend([self.internal.list(), self.external.list()]);
        } else {
            cells.push(self.summary());
        }
        cells.push(self.policy(is_wide));
        let count = |count: u64| if self.is_first { count.to_string() } else { "-".to_owned() };
        cells.extend([count(self.translated), count(self.refused)]);
        if is_wide {
            let shown = self.tcp.as_ref().filter(|_| self.is_first).map(ConnectionCounts::cells);
            cells.extend(shown.unwrap_or_else(|| std::array::from_fn(|_| "-".to_owned())));
        }
        cells.push(self.age.clone());
        cells
    }

    fn tone(&self, header: &str) -> Tone {
        let view = match header {
            "BACKENDS" | "INTERNAL" => &self.internal,
            "EXTERNAL" => &self.external,
            _ => return Tone::Plain,
        };
        if view.backends.is_empty() { Tone::Bad } else { Tone::Plain }
    }

    fn is_unchanged(&self, earlier: &Self) -> bool {
        Self { age: String::new(), ..self.clone() } == Self { age: String::new(), ..earlier.clone() }
    }
}

impl FrontendRow {
    /// Sets the age of the Service, if an agent tells it.
    pub fn set_age(&mut self, services: &HashMap<String, ServiceDetails>, now: Timestamp) {
        let created = services.get(&self.service.service).and_then(|service| service.created);
        let Some(created) = created else { return };
        self.created = Some(created);
        self.set_age_at(now);
    }

    /// Sets the age at a time, if the creation of the Service is known.
    pub fn set_age_at(&mut self, now: Timestamp) {
        if let Some(created) = self.created {
            self.age = human_duration(now.duration_since(created).as_secs());
        }
    }

    pub fn is_node_port(&self) -> bool {
        matches!(self.key.address, FrontendAddress::NodePort(_))
    }

    /// The service port, which the counters belong to.
    fn port(&self) -> (&ServicePort, Protocol) {
        (&self.service, self.key.protocol)
    }

    fn summary(&self) -> String {
        let (internal, external) = (self.internal.summary(), self.external.summary());
        if internal == external { internal } else { format!("{internal}, out: {external}") }
    }

    /// The settings that differ from the defaults.
    fn policy(&self, is_wide: bool) -> String {
        let affinity = self.affinity_seconds.map(|seconds| match is_wide {
            true => format!("ClientIP {seconds}s"),
            false => "ClientIP".to_owned(),
        });
        let local = |view: &View, word: &str| (view.policy == "Local").then(|| word.to_owned());
        let ranges = self.needs_source_address.then(|| "source ranges".to_owned());
        let words =
            [local(&self.internal, "in: Local"), local(&self.external, "out: Local"), affinity, ranges];
        let words: Vec<_> = words.into_iter().flatten().collect();
        if words.is_empty() { "-".to_owned() } else { words.join(", ") }
    }
}

impl View {
    /// The number of backends, or the behaviour without any.
    fn summary(&self) -> String {
        match self.backends.len() {
            0 => self.when_empty.to_string(),
            all if self.policy == "Local" => format!("{all} local"),
            all => format!("{all} ({} local)", self.local),
        }
    }

    fn list(&self) -> String {
        if self.backends.is_empty() {
            return self.when_empty.to_string();
        }
        self.backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}
