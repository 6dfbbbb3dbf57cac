//! The TCP connections of sockets as metric families, built at each request from the kernel's counters.

use std::net::SocketAddr;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Summary,
};
use proxy_ebpf::abi::{BackendConnections, CONNECT_BOUNDS, ConnectFailure, ServiceConnections};

use super::Described;
use crate::model::service::ServicePortKey;

const NANOSECONDS: f64 = 1e9;
const MICROSECONDS: f64 = 1e6;

/// The connections to one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSeries {
    pub service: ServicePortKey,
    pub address: SocketAddr,
    pub connections: BackendConnections,
}

/// A metric family without its series.
struct Family {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    /// The label beside those of the service port, or of the backend.
    label: Option<&'static str>,
}

const SERVICE: [&str; 3] = ["namespace", "service", "port"];
const BACKEND: [&str; 4] = ["namespace", "service", "port", "backend"];

/// Of service ports, in the order of `service_series`.
const OF_SERVICES: [Family; 9] = [
    Family {
        name: "portreeve_service_tcp_connect_duration_seconds",
        kind: MetricType::HISTOGRAM,
        help: "Time to connect of TCP connections that sockets of this node opened through the socket LB.",
        label: None,
    },
    Family {
        name: "portreeve_service_tcp_failures_total",
        kind: MetricType::COUNTER,
        help: "TCP connections of sockets that failed: refused, timed_out, unreachable, abandoned by the application, or reset by the backend before its first byte.",
        label: Some("reason"),
    },
    Family {
        name: "portreeve_service_tcp_connections_open",
        kind: MetricType::GAUGE,
        help: "TCP connections of sockets that are open.",
        label: None,
    },
    Family {
        name: "portreeve_service_tcp_sent_bytes_total",
        kind: MetricType::COUNTER,
        help: "Bytes to backends over TCP connections of sockets; of open connections as of the last ten seconds.",
        label: None,
    },
    Family {
        name: "portreeve_service_tcp_received_bytes_total",
        kind: MetricType::COUNTER,
        help: "Bytes from backends over TCP connections of sockets; of open connections as of the last ten seconds.",
        label: None,
    },
    Family {
        name: "portreeve_service_tcp_retransmissions_total",
        kind: MetricType::COUNTER,
        help: "Segments to backends sent again; of open connections as of the last ten seconds.",
        label: None,
    },
    Family {
        name: "portreeve_service_tcp_round_trip_seconds",
        kind: MetricType::SUMMARY,
        help: "Smoothed round-trip time of TCP connections of sockets when they close.",
        label: None,
    },
    Family {
        name: "portreeve_service_flow_packets_total",
        kind: MetricType::COUNTER,
        help: "Packets of the service port's flows in the packet plane, to_backend or from_backend; those of flows that go on are added every few seconds.",
        label: Some("direction"),
    },
    Family {
        name: "portreeve_service_flow_bytes_total",
        kind: MetricType::COUNTER,
        help: "Bytes of these packets, from the IP header on.",
        label: Some("direction"),
    },
];

/// Of backends (`--metrics-per-backend`), in the order of `backend_series`.
const OF_BACKENDS: [Family; 7] = [
    Family {
        name: "portreeve_backend_tcp_opened_total",
        kind: MetricType::COUNTER,
        help: "TCP connections opened by sockets of this node through the socket LB.",
        label: None,
    },
    Family {
        name: "portreeve_backend_tcp_failures_total",
        kind: MetricType::COUNTER,
        help: "TCP connections of sockets that failed, as of service ports.",
        label: Some("reason"),
    },
    Family {
        name: "portreeve_backend_tcp_connections_open",
        kind: MetricType::GAUGE,
        help: "TCP connections of sockets that are open.",
        label: None,
    },
    Family {
        name: "portreeve_backend_tcp_sent_bytes_total",
        kind: MetricType::COUNTER,
        help: "Bytes to the backend over TCP connections of sockets; of open connections as of the last ten seconds.",
        label: None,
    },
    Family {
        name: "portreeve_backend_tcp_received_bytes_total",
        kind: MetricType::COUNTER,
        help: "Bytes from the backend over TCP connections of sockets; of open connections as of the last ten seconds.",
        label: None,
    },
    Family {
        name: "portreeve_backend_tcp_retransmissions_total",
        kind: MetricType::COUNTER,
        help: "Segments to the backend sent again; of open connections as of the last ten seconds.",
        label: None,
    },
    Family {
        name: "portreeve_backend_tcp_round_trip_seconds",
        kind: MetricType::GAUGE,
        help: "Smoothed round-trip time of the latest TCP connections of sockets when they closed.",
        label: None,
    },
];

/// All families, for the reference.
pub fn described() -> impl Iterator<Item = Described> {
    let of = |labels: &'static [&str]| {
        move |family: &Family| Described {
            name: family.name.to_owned(),
            kind: kind(family.kind),
            labels: labels.iter().copied().chain(family.label).map(str::to_owned).collect(),
            help: family.help.to_owned(),
        }
    };
    OF_SERVICES.iter().map(of(&SERVICE)).chain(OF_BACKENDS.iter().map(of(&BACKEND)))
}

fn kind(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::SUMMARY => "summary",
        MetricType::HISTOGRAM => "histogram",
        MetricType::UNTYPED => "untyped",
    }
}

/// The families with their series.
pub fn families(
    services: &[(ServicePortKey, ServiceConnections)],
    backends: &[BackendSeries],
) -> Vec<MetricFamily> {
    let of_services = services.iter().map(|(key, connections)| service_series(key, connections));
    let of_backends = backends.iter().map(backend_series);
    let mut families = gathered(&OF_SERVICES, of_services);
    families.extend(gathered(&OF_BACKENDS, of_backends));
    families
}

/// Each family with its part of each group of series.
fn gathered<const N: usize>(
    families: &[Family; N],
    groups: impl Iterator<Item = [Vec<Metric>; N]>,
) -> Vec<MetricFamily> {
    let mut all = [const { Vec::new() }; N];
    for group in groups {
        for (series, more) in all.iter_mut().zip(group) {
            series.extend(more);
        }
    }
    let family = |(Family { name, kind, help, .. }, series): (&Family, Vec<Metric>)| {
        let mut family = MetricFamily::default();
        family.set_name((*name).to_owned());
        family.set_help((*help).to_owned());
        family.set_field_type(*kind);
        family.set_metric(series);
        family
    };
    families.iter().zip(all).map(family).collect()
}

fn service_series(key: &ServicePortKey, connections: &ServiceConnections) -> [Vec<Metric>; 9] {
    let labels = || labels(key);
    let failures = connections.failures().map(|(failure, count)| (failure, count as f64));
    let mut round_trips = Summary::default();
    round_trips.set_sample_count(connections.round_trip_samples);
    round_trips.set_sample_sum(connections.round_trips as f64 / MICROSECONDS);
    let mut connect_times = metric(labels());
    connect_times.set_histogram(connect_times_of(connections));
    let mut round_trip = metric(labels());
    round_trip.set_summary(round_trips);
    [
        vec![connect_times],
        by_reason(labels, failures),
        vec![gauge(labels(), connections.open() as f64)],
        vec![counter(labels(), connections.sent as f64)],
        vec![counter(labels(), connections.received as f64)],
        vec![counter(labels(), connections.retransmissions as f64)],
        vec![round_trip],
        by_direction(labels, connections.forwarded.map(|traffic| traffic.packets)),
        by_direction(labels, connections.forwarded.map(|traffic| traffic.bytes)),
    ]
}

fn by_direction(labels: impl Fn() -> Vec<LabelPair>, counts: [u64; 2]) -> Vec<Metric> {
    let series = |(direction, count): (&str, u64)| {
        let mut labels = labels();
        labels.push(pair("direction", direction));
        counter(labels, count as f64)
    };
    ["to_backend", "from_backend"].into_iter().zip(counts).map(series).collect()
}

fn connect_times_of(connections: &ServiceConnections) -> Histogram {
    let (mut histogram, mut count) = (Histogram::default(), 0);
    let buckets = CONNECT_BOUNDS.iter().zip(connections.connect_times).map(|(bound, more)| {
        count += more;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / NANOSECONDS);
        bucket.set_cumulative_count(count);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(connections.opened());
    histogram.set_sample_sum(connections.connect_time as f64 / NANOSECONDS);
    histogram
}

fn backend_series(series: &BackendSeries) -> [Vec<Metric>; 7] {
    let BackendSeries { service, address, connections } = series;
    let labels = || {
        let mut labels = labels(service);
        labels.push(pair("backend", &address.to_string()));
        labels
    };
    let failures = connections.failures().map(|(failure, count)| (failure, f64::from(count)));
    let round_trip = (connections.round_trip != 0)
        .then(|| gauge(labels(), f64::from(connections.round_trip) / MICROSECONDS));
    [
        vec![counter(labels(), connections.opened as f64)],
        by_reason(labels, failures),
        vec![gauge(labels(), connections.open() as f64)],
        vec![counter(labels(), connections.sent as f64)],
        vec![counter(labels(), connections.received as f64)],
        vec![counter(labels(), f64::from(connections.retransmissions))],
        round_trip.into_iter().collect(),
    ]
}

fn by_reason(
    labels: impl Fn() -> Vec<LabelPair>,
    failures: impl Iterator<Item = (ConnectFailure, f64)>,
) -> Vec<Metric> {
    let series = |(failure, count): (ConnectFailure, f64)| {
        let mut labels = labels();
        labels.push(pair("reason", failure.name()));
        counter(labels, count)
    };
    failures.map(series).collect()
}

fn labels(key: &ServicePortKey) -> Vec<LabelPair> {
    let values = [&*key.service.namespace, &*key.service.name, &*key.port_name];
    SERVICE.into_iter().zip(values).map(|(name, value)| pair(name, value)).collect()
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn metric(labels: Vec<LabelPair>) -> Metric {
    Metric::from_label(labels)
}

fn counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let (mut metric, mut counter) = (metric(labels), Counter::default());
    counter.set_value(value);
    metric.set_counter(counter);
    metric
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let (mut metric, mut gauge) = (metric(labels), Gauge::default());
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}
