//! The metrics of the directives: enabled plugins, `hosts`, `template` and `health`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_server::proto::op::Query;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{
    labels::{type_index, type_name},
    register::{Register, latencies},
};

#[derive(Debug, Clone)]
pub(super) struct Families {
    enabled: IntGaugeVec,
    hosts: HostsMetrics,
    matches: IntCounterVec,
    failed_records: IntCounterVec,
    health: HealthMetrics,
    taps_dropped: IntCounter,
}

/// The last read of the hosts file.
#[derive(Debug, Clone)]
pub struct HostsMetrics {
    entries: IntGauge,
    read_at: IntGauge,
}

/// The counters of the templates of one block.
#[derive(Debug, Clone)]
pub struct TemplateMetrics {
    families: Families,
    server: String,
    zone: String,
}

/// The server's requests to its own health endpoint.
#[derive(Debug, Clone)]
pub struct HealthMetrics {
    duration: Histogram,
    failures: IntCounter,
}

impl Families {
    pub(super) fn new(new: &Register<'_>) -> Self {
        const TEMPLATE: [&str; 5] = ["server", "zone", "view", "class", "type"];
        Self {
            enabled: new.gauges(
                "plugin_enabled",
                "1 for each directive of a server block.",
                &["server", "zone", "view", "name"],
            ),
            hosts: HostsMetrics {
                entries: new.gauge("hosts_entries", "Entries of hosts files and inline hosts."),
                read_at: new
                    .gauge("hosts_reload_timestamp_seconds", "Time of the last reload of the hosts file."),
            },
            matches: new.counters("template_matches_total", "Queries that matched a template.", &TEMPLATE),
            failed_records: new.counters(
                "template_rr_failures_total",
                "Records of templates that could not be built.",
                &TEMPLATE,
            ),
            taps_dropped: new.counter(
                "dnstap_dropped_messages_total",
                "Messages for dnstap collectors above the limits of the queue.",
            ),
            health: HealthMetrics {
                duration: new.histogram(
                    "health_request_duration_seconds",
                    "Time of the server's requests to its own health endpoint.",
                    latencies(),
                ),
                failures: new.counter(
                    "health_request_failures_total",
                    "Failed requests of the server to its own health endpoint.",
                ),
            },
        }
    }

    pub(super) fn enable(&self, server: &str, zone: &str, view: &str, names: &[&str]) {
        for name in names {
            self.enabled.with_label_values(&[server, zone, view, name]).set(1);
        }
    }

    pub(super) fn of_hosts(&self) -> HostsMetrics {
        self.hosts.clone()
    }

    pub(super) fn of_templates(&self, server: &str, zone: &str) -> TemplateMetrics {
        TemplateMetrics { families: self.clone(), server: server.to_owned(), zone: zone.to_owned() }
    }

    pub(super) fn taps_dropped(&self) -> IntCounter {
        self.taps_dropped.clone()
    }

    pub(super) fn of_health(&self) -> HealthMetrics {
        self.health.clone()
    }
}

impl HostsMetrics {
    pub fn record_read(&self, entries: usize) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.read_at.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}

impl TemplateMetrics {
    /// Counts a match of a template, and its records that could not be built.
    pub fn count_match(&self, question: &Query, failed_records: usize) {
        let qtype = type_name(type_index(question.query_type()));
        let labels = [self.server.as_str(), self.zone.as_str(), "", "IN", qtype];
        self.families.matches.with_label_values(&labels).inc();
        if failed_records > 0 {
            self.families.failed_records.with_label_values(&labels).inc_by(failed_records as u64);
        }
    }
}

impl HealthMetrics {
    pub fn observe_success(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }

    pub fn count_failure(&self) {
        self.failures.inc();
    }
}
