//! The metrics of queries and answers, by zone.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::{
    labels::{RCODE_COUNT, TYPES, rcode_index, rcode_name, type_index, type_name},
    register::{Register, latencies},
};
use crate::{cluster::topic::Topic, observe::clients::Clients};

named_enum! {
    /// The transport of a request: the label `proto`.
    pub enum Transport {
        Udp = "udp",
        Tcp = "tcp",
    }
}

named_enum! {
    /// The part of the server that answered: the label `plugin`.
    pub enum Plugin {
        /// None: a refusal, or a failure of all upstreams.
        None = "",
        Kubernetes = "kubernetes",
        K8sExternal = "k8s_external",
        Forward = "forward",
        Cache = "cache",
        Hosts = "hosts",
        Template = "template",
        Local = "local",
        Any = "any",
        Acl = "acl",
        Chaos = "chaos",
        Whoami = "whoami",
        File = "file",
        Auto = "auto",
        Secondary = "secondary",
        Transfer = "transfer",
        Autopath = "autopath",
        Rewrite = "rewrite",
        Dns64 = "dns64",
    }
}

#[derive(Debug, Clone)]
pub(super) struct Families {
    requests: IntCounterVec,
    responses: IntCounterVec,
    duration: HistogramVec,
    request_size: HistogramVec,
    response_size: HistogramVec,
    dnssec_ok: IntCounterVec,
    panics: IntCounter,
    clients: Arc<Clients>,
}

/// The counters of one zone of one server, each created when it is first incremented.
#[derive(Debug, Clone)]
pub struct QueryMetrics(Arc<Zone>);

#[derive(Debug)]
struct Zone {
    families: Families,
    server: String,
    name: String,
    view: String,
    /// By protocol, address family and qtype.
    requests: [OnceLock<IntCounter>; Transport::COUNT * FAMILIES.len() * (TYPES.len() + 1)],
    /// By plugin and response code.
    responses: [OnceLock<IntCounter>; Plugin::COUNT * RCODE_COUNT],
    duration: Histogram,
    request_size: [Histogram; Transport::COUNT],
    response_size: [Histogram; Transport::COUNT],
    dnssec_ok: IntCounter,
}

/// The label `family`: IPv4, IPv6.
const FAMILIES: [&str; 2] = ["1", "2"];

impl Families {
    pub(super) fn new(new: &Register<'_>, clients: &Arc<Clients>) -> Self {
        const ZONE: [&str; 3] = ["server", "zone", "view"];
        const SIZED: [&str; 4] = ["server", "zone", "view", "proto"];
        let sizes = || {
            vec![
                0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3,
                64e3,
            ]
        };
        Self {
            requests: new.counters(
                "dns_requests_total",
                "Queries, by zone, protocol, address family and type.",
                &["server", "zone", "view", "proto", "family", "type"],
            ),
            responses: new.counters(
                "dns_responses_total",
                "Answers, by zone, response code and plugin.",
                &["server", "zone", "view", "rcode", "plugin"],
            ),
            duration: new.histograms(
                "dns_request_duration_seconds",
                "Time from query to answer.",
                &ZONE,
                latencies(),
            ),
            request_size: new.histograms("dns_request_size_bytes", "Size of queries.", &SIZED, sizes()),
            response_size: new.histograms("dns_response_size_bytes", "Size of answers.", &SIZED, sizes()),
            dnssec_ok: new.counters("dns_do_requests_total", "Queries with the DO bit set.", &ZONE),
            panics: new
                .counter("panics_total", "Queries that caused a panic and were answered with SERVFAIL."),
            clients: Arc::clone(clients),
        }
    }

    pub(super) fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// `view`: the name of the block's view, or empty.
    pub(super) fn of(&self, server: &str, name: &str, view: &str) -> QueryMetrics {
        let zone = [server, name, view];
        let sized = |family: &HistogramVec| {
            Transport::ALL.map(|transport| family.with_label_values(&[server, name, view, transport.name()]))
        };
        QueryMetrics(Arc::new(Zone {
            families: self.clone(),
            server: server.to_owned(),
            name: name.to_owned(),
            view: view.to_owned(),
            requests: [const { OnceLock::new() }; _],
            responses: [const { OnceLock::new() }; _],
            duration: self.duration.with_label_values(&zone),
            request_size: sized(&self.request_size),
            response_size: sized(&self.response_size),
            dnssec_ok: self.dnssec_ok.with_label_values(&zone),
        }))
    }
}

impl QueryMetrics {
    /// Counts a panic; the counter is shared by all zones.
    pub fn count_panic(&self) {
        self.0.families.panics.inc();
    }

    pub fn count_query(
        &self,
        transport: Transport,
        is_v6: bool,
        qtype: RecordType,
        dnssec_ok: bool,
        size: usize,
    ) {
        let zone = &self.0;
        let at = (transport as usize, usize::from(is_v6), type_index(qtype));
        let index = (at.0 * FAMILIES.len() + at.1) * (TYPES.len() + 1) + at.2;
        let labels = [transport.name(), FAMILIES[at.1], type_name(at.2)];
        zone.requests[index].get_or_init(|| zone.counter(&zone.families.requests, &labels)).inc();
        zone.request_size[at.0].observe(size as f64);
        if dnssec_ok {
            zone.dnssec_ok.inc();
        }
    }

    #[cfg(test)]
    pub fn clients(&self) -> &Clients {
        &self.0.families.clients
    }

    /// Adds an answered query to the query statistics.
    pub fn record_client(&self, client: IpAddr, topic: Topic, rcode: ResponseCode, took: Duration) {
        self.0.families.clients.record(client, topic, rcode, took);
    }

    pub fn observe_answer(
        &self,
        transport: Transport,
        rcode: ResponseCode,
        plugin: Plugin,
        size: usize,
        took: Duration,
    ) {
        let zone = &self.0;
        let rcode = rcode_index(rcode);
        let labels = [rcode_name(rcode), plugin.name()];
        let counter = &zone.responses[plugin as usize * RCODE_COUNT + rcode];
        counter.get_or_init(|| zone.counter(&zone.families.responses, &labels)).inc();
        zone.response_size[transport as usize].observe(size as f64);
        zone.duration.observe(took.as_secs_f64());
    }
}

impl Zone {
    fn counter(&self, family: &IntCounterVec, labels: &[&str]) -> IntCounter {
        let labels = [&[self.server.as_str(), self.name.as_str(), self.view.as_str()], labels].concat();
        family.with_label_values(&labels)
    }
}
