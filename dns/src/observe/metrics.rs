//! The metrics of the server.
//!
//! Each metric has its own name (`portreeve_dns_..`). One that CoreDNS has, has its name instead, if wanted, so that
//! dashboards keep working.
//! The path of a query uses handles that were looked up before, without locks.

mod cache;
mod clients;
mod expose;
mod forward;
mod labels;
mod losses;
mod plugins;
mod queries;
mod refusals;
mod register;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use cache::{CacheMetrics, KnownGood, StoreKind};
pub use expose::MetricNames;
pub use forward::{ForwardMetrics, UpstreamCounts, UpstreamMetrics};
pub use labels::rcode_word;
pub use losses::{Loss, Losses, RateLimited};
pub use plugins::{HealthMetrics, HostsMetrics, TemplateMetrics};
use prometheus::{HistogramVec, IntCounter, IntGaugeVec, Registry, process_collector::ProcessCollector};
pub use queries::{Plugin, QueryMetrics, Transport};
pub use refusals::{Refusal, Refusals};
pub use register::Described;
use register::{FIXED, Register, doubling};
use sha2::{Digest as _, Sha512};

use crate::observe::{
    alarms::{Alarm, Alarms},
    clients::Clients,
};

/// All metric families, and constructors of their handles.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// The process: memory, CPU time, file descriptors.
    process: Registry,
    described: Arc<[Described]>,
    clients: Arc<Clients>,
    queries: queries::Families,
    cache: cache::Families,
    forward: forward::Families,
    plugins: plugins::Families,
    losses: Losses,
    refusals: Refusals,
    programming: HistogramVec,
    reload_failed: IntCounter,
    version: IntGaugeVec,
    /// Set when the configuration is known.
    names: Arc<Mutex<MetricNames>>,
    certificate_failures: IntCounter,
    alarms: Alarms,
    alarm: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let new = Register::new(&registry);
        let clients = Arc::default();
        let metrics = Self {
            queries: queries::Families::new(&new, &clients),
            clients,
            cache: cache::Families::new(&new),
            forward: forward::Families::new(&new),
            plugins: plugins::Families::new(&new),
            losses: Losses::new(&new),
            refusals: Refusals::new(&new),
            programming: new.histograms(
                "kubernetes_dns_programming_duration_seconds",
                "Time from a change of endpoints to its publication in DNS.",
                &["service_kind"],
                doubling(0.001, 20),
            ),
            reload_failed: new.counter("reload_failed_total", "Changed configurations that were rejected."),
            version: new.gauges(
                "reload_version_info",
                "Always 1, with the hash of the Corefile in use as its label.",
                &["hash", "value"],
            ),
            names: Arc::default(),
            certificate_failures: new.counter(
                "tls_certificate_failures_total",
                "Changed certificates or keys of `tls` that could not be used.",
            ),
            alarms: Alarms::default(),
            alarm: new.gauges("forward_alarm", "1 while the alarm of the upstreams lasts.", &["alarm"]),
            registry: registry.clone(),
            process: Registry::new(),
            described: Arc::default(),
        };
        let build = new.gauges("build_info", "Always 1, with the version as its label.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.process.register(Box::new(ProcessCollector::for_self())).expect(FIXED);
        let described = new.described().into_iter().chain(clients::described());
        let named = |one: Described| -> Vec<_> {
            expose::names(&one.name, MetricNames::Both)
                .map(|name| Described { name, ..one.clone() })
                .collect()
        };
        Self { described: described.flat_map(named).collect(), ..metrics }
    }
}

impl Metrics {
    /// The counters of one zone of one server, labelled like `dns://:53`.
    pub fn queries(&self, server: &str, zone: &str) -> QueryMetrics {
        self.queries_of_view(server, zone, "")
    }

    pub(crate) fn queries_of_view(&self, server: &str, zone: &str, view: &str) -> QueryMetrics {
        self.queries.of(server, zone, view)
    }

    pub fn cache(&self, server: &str, zones: &str) -> CacheMetrics {
        self.cache.of(server, zones, &self.alarms)
    }

    pub fn forward(&self) -> ForwardMetrics {
        self.forward.of_rules()
    }

    pub(crate) fn upstream(&self, to: &str) -> UpstreamMetrics {
        self.forward.of_upstream(to)
    }

    /// Reports the directives of a block.
    pub(crate) fn enable(&self, server: &str, zone: &str, view: &str, names: &[&str]) {
        self.plugins.enable(server, zone, view, names);
    }

    pub(crate) fn hosts(&self) -> HostsMetrics {
        self.plugins.of_hosts()
    }

    pub(crate) fn templates(&self, server: &str, zone: &str) -> TemplateMetrics {
        self.plugins.of_templates(server, zone)
    }

    /// The messages for dnstap collectors that are dropped.
    pub(crate) fn taps_dropped(&self) -> IntCounter {
        self.plugins.taps_dropped()
    }

    pub(crate) fn health(&self) -> HealthMetrics {
        self.plugins.of_health()
    }

    /// The losses of all listeners together.
    pub fn losses(&self) -> Losses {
        self.losses.clone()
    }

    /// The refusals of all server blocks together.
    pub fn refusals(&self) -> Refusals {
        self.refusals.clone()
    }

    /// Records the publication of changed endpoints; `kind` is `cluster_ip` or `headless_with_selector`.
    pub fn programmed(&self, kind: &str, after: Duration) {
        self.programming.with_label_values(&[kind]).observe(after.as_secs_f64());
    }

    /// The number of queries that caused a panic.
    pub fn panics(&self) -> u64 {
        self.queries.panics()
    }

    /// Counts changed certificates that could not be used.
    pub fn certificate_failures(&self) -> IntCounter {
        self.certificate_failures.clone()
    }

    pub fn set_names(&self, names: MetricNames) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The text of the Corefile in use. Its hash is that of the octets; CoreDNS's is that of its own tokens.
    pub fn set_version(&self, corefile: &[u8]) {
        let hash: String = Sha512::digest(corefile).iter().map(|octet| format!("{octet:02x}")).collect();
        self.version.reset();
        self.version.with_label_values(&["sha512", &hash]).set(1);
    }

    pub fn reload_failed(&self) {
        self.reload_failed.inc();
    }

    /// The query statistics.
    pub fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// The counters of all upstreams, in order of their addresses.
    pub fn upstreams(&self) -> Vec<UpstreamCounts> {
        self.forward.upstreams()
    }

    /// The alarms of the upstreams.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// All families under all of their names, for the reference.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// The metrics in the text format of Prometheus.
    pub fn text(&self) -> String {
        let present = self.alarms.present();
        for alarm in Alarm::ALL {
            let is_present = present.iter().any(|present| present.alarm == alarm);
            self.alarm.with_label_values(&[alarm.name()]).set(is_present.into());
        }
        let mut families = self.registry.gather();
        families.extend(clients::families(&self.clients.total()));
        let names = *self.names.lock().unwrap_or_else(PoisonError::into_inner);
        expose::text(families, self.process.gather(), names)
    }
}
