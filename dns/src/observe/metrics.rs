//! What the server counts.
//!
//! Each figure is told under two names: ours (`portreeve_dns_..`), and that of CoreDNS, so that dashboards keep working.
//! Whoever counts on the path of a query holds a handle that was looked up before, and locks nothing.

mod cache;
mod clients;
mod expose;
mod forward;
mod labels;
mod losses;
mod plugins;
mod queries;

use std::{sync::Arc, time::Duration};

pub use cache::{CacheMetrics, StoreKind};
pub use forward::{ForwardMetrics, UpstreamCounts, UpstreamMetrics};
pub use labels::rcode_word;
pub use losses::{Loss, Losses};
pub use plugins::{HealthMetrics, HostsMetrics, TemplateMetrics};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector, exponential_buckets,
};
pub use queries::{QueryMetrics, Transport};

use crate::observe::clients::Clients;

/// Every family of numbers, and the handles for those who count.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    clients: Arc<Clients>,
    queries: queries::Families,
    cache: cache::Families,
    forward: forward::Families,
    known: plugins::Families,
    losses: Losses,
    programming: HistogramVec,
    reload_failed: IntCounter,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let new = Register(&registry);
        let clients = Arc::default();
        let metrics = Self {
            queries: queries::Families::new(&new, &clients),
            clients,
            cache: cache::Families::new(&new),
            forward: forward::Families::new(&new),
            known: plugins::Families::new(&new),
            losses: Losses::new(&new),
            programming: new.histograms(
                "kubernetes_dns_programming_duration_seconds",
                "Time from a change of endpoints to answers that show it.",
                &["service_kind"],
                doubling(0.001, 20),
            ),
            reload_failed: new
                .counter("reload_failed_total", "Changes of the configuration that were refused."),
            registry: registry.clone(),
        };
        let build = new.gauges("build_info", "1, with the version as its label.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }
}

impl Metrics {
    /// The queries that one zone of one server gets. A server is named like `dns://:53`.
    pub fn queries(&self, server: &str, zone: &str) -> QueryMetrics {
        self.queries.of(server, zone)
    }

    pub fn cache(&self, server: &str, zones: &str) -> CacheMetrics {
        self.cache.of(server, zones)
    }

    pub fn forward(&self) -> ForwardMetrics {
        self.forward.of_rules()
    }

    pub(crate) fn upstream(&self, to: &str) -> UpstreamMetrics {
        self.forward.of_upstream(to)
    }

    /// A block has these directives.
    pub(crate) fn enable(&self, server: &str, zone: &str, names: &[&str]) {
        self.known.enable(server, zone, names);
    }

    pub(crate) fn hosts(&self) -> HostsMetrics {
        self.known.of_hosts()
    }

    pub(crate) fn templates(&self, server: &str, zone: &str) -> TemplateMetrics {
        self.known.of_templates(server, zone)
    }

    pub(crate) fn health(&self) -> HealthMetrics {
        self.known.of_health()
    }

    /// What all listeners together do not answer.
    pub fn losses(&self) -> Losses {
        self.losses.clone()
    }

    /// A change of endpoints shows in answers; `kind` is `cluster_ip` or `headless_with_selector`.
    pub fn programmed(&self, kind: &str, after: Duration) {
        self.programming.with_label_values(&[kind]).observe(after.as_secs_f64());
    }

    /// Queries that broke something.
    pub fn panics(&self) -> u64 {
        self.queries.panics()
    }

    pub fn reload_failed(&self) {
        self.reload_failed.inc();
    }

    /// Who asks what.
    pub fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Who is asked, by address.
    pub fn upstreams(&self) -> Vec<UpstreamCounts> {
        self.forward.upstreams()
    }

    /// What a scraper reads.
    pub fn text(&self) -> String {
        let mut families = self.registry.gather();
        families.extend(clients::families(&self.clients.total()));
        expose::text(families)
    }
}

/// Makes families and lists them. Their names and labels are written in this crate, so nothing about them can fail.
struct Register<'a>(&'a Registry);

const FIXED: &str = "names and labels are fixed, and each is registered once";

impl Register<'_> {
    fn add<C: Collector + Clone + 'static>(&self, family: Result<C, prometheus::Error>) -> C {
        let family = family.expect(FIXED);
        self.0.register(Box::new(family.clone())).expect(FIXED);
        family
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
    }
}

fn doubling(first: f64, count: usize) -> Vec<f64> {
    exponential_buckets(first, 2.0, count).expect(FIXED)
}

/// From a quarter of a millisecond to eight seconds.
fn latencies() -> Vec<f64> {
    doubling(0.000_25, 16)
}
