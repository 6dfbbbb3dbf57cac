//! The metrics of forwarding.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hickory_server::proto::op::ResponseCode;
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec,
    core::Collector,
    proto::{LabelPair, Metric},
};

use super::{
    labels::{RCODE_COUNT, rcode_index, rcode_name},
    register::{Register, latencies},
};

#[derive(Debug, Clone)]
pub(super) struct Families {
    rejects: IntCounter,
    all_down: IntCounter,
    coalesced: IntCounter,
    duration: HistogramVec,
    failed_probes: IntCounterVec,
    failures: IntCounterVec,
    slow: IntCounterVec,
    reused: IntCounterVec,
    opened: IntCounterVec,
    looping: IntCounterVec,
}

/// The counters of all rules together.
#[derive(Debug, Clone)]
pub struct ForwardMetrics {
    /// Refused because too many were in flight.
    pub rejects: IntCounter,
    /// Queries that found all upstreams down.
    pub all_down: IntCounter,
    /// Queries that joined an identical query in flight.
    pub coalesced: IntCounter,
}

/// The counters of one upstream.
#[derive(Debug, Clone)]
pub struct UpstreamMetrics(Arc<Upstream>);

#[derive(Debug)]
struct Upstream {
    families: Families,
    to: String,
    durations: [OnceLock<Histogram>; RCODE_COUNT],
}

/// The counts of the queries to one upstream, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamCounts {
    pub address: String,
    pub answers: u64,
    /// Queries without an answer.
    pub failed: u64,
    /// Queries that took longer than the threshold, answered or not.
    pub slow: u64,
}

const FORWARD: &str = "forward";
/// The label of the upstream's address.
const TO: &str = "to";

impl Families {
    pub(super) fn new(new: &Register<'_>) -> Self {
        const CONNECTION: [&str; 3] = ["proxy_name", TO, "proto"];
        Self {
            rejects: new.counter(
                "forward_max_concurrent_rejects_total",
                "Queries refused because the limit of concurrent queries was reached.",
            ),
            all_down: new
                .counter("forward_healthcheck_broken_total", "Queries that found all upstreams down."),
            coalesced: new
                .counter("forward_coalesced_total", "Queries that joined an identical query in flight."),
            duration: new.histograms(
                "proxy_request_duration_seconds",
                "Time from query to answer of an upstream.",
                &["proxy_name", TO, "rcode"],
                latencies(),
            ),
            failed_probes: new.counters(
                "proxy_healthcheck_failures_total",
                "Health probes without an answer.",
                &["proxy_name", TO],
            ),
            failures: new.counters(
                "proxy_failures_total",
                "Queries to an upstream without an answer.",
                &["proxy_name", TO],
            ),
            slow: new.counters(
                "proxy_slow_total",
                "Queries to an upstream that took more than 256 ms, answered or not.",
                &["proxy_name", TO],
            ),
            reused: new.counters(
                "proxy_conn_cache_hits_total",
                "Queries over a pooled connection.",
                &CONNECTION,
            ),
            opened: new.counters(
                "proxy_conn_cache_misses_total",
                "Queries that needed a new connection.",
                &CONNECTION,
            ),
            looping: new.counters("forward_loops_total", "Detections of a forwarding loop.", &[TO]),
        }
    }

    pub(super) fn of_rules(&self) -> ForwardMetrics {
        ForwardMetrics {
            rejects: self.rejects.clone(),
            all_down: self.all_down.clone(),
            coalesced: self.coalesced.clone(),
        }
    }

    /// The counts of all upstreams, in order of their addresses.
    pub(super) fn upstreams(&self) -> Vec<UpstreamCounts> {
        let mut upstreams = BTreeMap::new();
        let mut each = |family: &dyn Collector, add: fn(&mut UpstreamCounts, &Metric)| {
            let families = family.collect();
            for metric in families.iter().flat_map(|family| family.get_metric()) {
                let address =
                    metric.get_label().iter().find(|label| label.name() == TO).map(LabelPair::value);
                let address = address.unwrap_or_default().to_owned();
                let empty = UpstreamCounts { address: address.clone(), ..UpstreamCounts::default() };
                add(upstreams.entry(address).or_insert(empty), metric);
            }
        };
        each(&self.duration, |counts, metric| counts.answers += metric.get_histogram().get_sample_count());
        each(&self.failures, |counts, metric| counts.failed += metric.get_counter().get_value() as u64);
        each(&self.slow, |counts, metric| counts.slow += metric.get_counter().get_value() as u64);
        upstreams.into_values().collect()
    }

    pub(super) fn of_upstream(&self, to: &str) -> UpstreamMetrics {
        let durations = [const { OnceLock::new() }; _];
        UpstreamMetrics(Arc::new(Upstream { families: self.clone(), to: to.to_owned(), durations }))
    }
}

impl UpstreamMetrics {
    pub(crate) fn observe_answer(&self, rcode: ResponseCode, took: Duration) {
        let Upstream { families, to, durations } = &*self.0;
        let index = rcode_index(rcode);
        let labels = [FORWARD, to, rcode_name(index)];
        durations[index]
            .get_or_init(|| families.duration.with_label_values(&labels))
            .observe(took.as_secs_f64());
    }

    pub(crate) fn count_failure(&self) {
        self.0.families.failures.with_label_values(&[FORWARD, &self.0.to]).inc();
    }

    pub(crate) fn count_slow(&self) {
        self.0.families.slow.with_label_values(&[FORWARD, &self.0.to]).inc();
    }

    pub(crate) fn count_failed_probe(&self) {
        self.0.families.failed_probes.with_label_values(&[FORWARD, &self.0.to]).inc();
    }

    pub(crate) fn count_reused(&self, protocol: &str) {
        self.0.families.reused.with_label_values(&[FORWARD, &self.0.to, protocol]).inc();
    }

    pub(crate) fn count_opened(&self, protocol: &str) {
        self.0.families.opened.with_label_values(&[FORWARD, &self.0.to, protocol]).inc();
    }

    pub(crate) fn count_loop(&self) {
        self.0.families.looping.with_label_values(&[&self.0.to]).inc();
    }
}
