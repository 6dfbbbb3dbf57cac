//! The agent's metrics. `kubeproxy_*` have kube-proxy's names and meanings; `portreeve_*` are our own.
//!
//! The kernel's counters are read on request, and not stored here.

use std::{cell::RefCell, time::Duration};

use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector, proto::MetricFamily,
};

use proxy_ebpf::abi::{ServiceConnections, ServiceStats};

use super::{conditions::Condition, status::Unplaced};
use crate::{
    model::{
        address::IpFamily,
        service::{ServiceKey, ServicePortKey},
        unserved::Unserved,
    },
    reconcile::Fill,
    source_state::{RequestMetrics, SourceReport},
};

mod connections;

pub use connections::BackendSeries;

const FAMILY: &str = "ip_family";

/// Counters of the kernel since the data plane was created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// By drop reason.
    pub refusals: Vec<(&'static str, u64)>,
    /// Packets by XDP outcome.
    pub xdp: Vec<(&'static str, u64)>,
    pub services: Vec<(ServicePortKey, ServiceStats)>,
    pub connections: Vec<(ServicePortKey, ServiceConnections)>,
    pub backends: Vec<BackendSeries>,
    pub health: HealthCounters,
    /// Of the tables that the programs write.
    pub fill: Vec<Fill>,
}

/// Passive health of backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCounters {
    /// Backends that are suspected now, by fault.
    pub suspected: Vec<(&'static str, u64)>,
    /// Suspicions that began, by fault.
    pub suspicions: Vec<(&'static str, u64)>,
    /// Suspicions that an answer ended.
    pub restored: u64,
    /// Connections that went on at another backend.
    pub resteered: u64,
}

pub struct Metrics {
    registry: Registry,
    syncs: SyncDurations,
    pub sync_last_timestamp: GaugeVec,
    pub sync_last_queued: GaugeVec,
    pub network_programming: HistogramVec,
    pub name_programming: HistogramVec,
    pub changes: ChangeCounters,
    pub no_local_endpoints: IntGaugeVec,
    pub healthz: IntCounterVec,
    pub livez: IntCounterVec,
    pub sync_failures: IntCounter,
    pub frontends: IntGauge,
    pub unwritten_frontends: IntGauge,
    tenants: TenantGauges,
    pub skipped_objects: IntCounter,
    pub reattachments: IntCounter,
    pub unattached: IntGauge,
    pub dns_faults: IntGauge,
    pub unread_counters: IntCounter,
    pub stale_connections: IntCounterVec,
    table_used: IntGaugeVec,
    table_capacity: IntGaugeVec,
    faults: FaultGauges,
    described: Vec<Described>,
}

/// Parts of Services that are not served for a reason of their own.
struct TenantGauges {
    unplaced_frontends: IntGaugeVec,
    unserved: IntGaugeVec,
}

/// Durations of passes.
struct SyncDurations {
    all: HistogramVec,
    full: HistogramVec,
    partial: HistogramVec,
}

/// Received and pending changes.
pub struct ChangeCounters {
    pub endpoints: IntCounter,
    pub endpoints_pending: IntGauge,
    pub services: IntCounter,
    pub services_pending: IntGauge,
}

impl SyncDurations {
    fn new(of: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            all: of.histogram(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "Duration of a pass over changed or all frontends.",
                sync_buckets(),
            )?,
            full: of.histogram(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "Duration of a pass over all frontends.",
                sync_buckets(),
            )?,
            partial: of.histogram(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "Duration of a pass over changed frontends.",
                sync_buckets(),
            )?,
        })
    }
}

impl TenantGauges {
    fn new(of: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            unplaced_frontends: of.gauges(
                "portreeve_unplaced_frontends",
                "Frontends without room, by the table that is full or whose share is used up.",
                &["reason"],
            )?,
            unserved: of.gauges(
                "portreeve_unserved",
                "Addresses and ports of Services without effect, by reason.",
                &["reason"],
            )?,
        })
    }
}

impl ChangeCounters {
    fn new(of: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            endpoints: of.counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "Changes of EndpointSlices received.",
            )?,
            endpoints_pending: of.plain_gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Changes of EndpointSlices not programmed yet.",
            )?,
            services: of.counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Changes of Services received.",
            )?,
            services_pending: of.plain_gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Changes of Services not programmed yet.",
            )?,
        })
    }
}

/// Conditions, and the state of the source.
struct FaultGauges {
    conditions: IntGaugeVec,
    source_failing: IntGaugeVec,
    source_last_heard: GaugeVec,
}

impl FaultGauges {
    fn new(of: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let last_heard = Opts::new(
            "portreeve_source_last_heard_timestamp_seconds",
            "Time of the last data about a kind of object, also without a change.",
        );
        Ok(Self {
            conditions: of.gauges(
                "portreeve_condition",
                "A condition of the agent with its present status and reason, always 1.",
                &["type", "status", "reason"],
            )?,
            source_failing: of.gauges(
                "portreeve_source_failing",
                "Whether a kind of object cannot be watched at its source now.",
                &["kind"],
            )?,
            source_last_heard: of.register("gauge", GaugeVec::new(last_heard, &["kind"])?)?,
        })
    }
}

/// All families by name, with those that are not registered by a `Registrar`.
fn described(
    mut registered: Vec<Described>,
    process: &impl Collector,
) -> Result<Vec<Described>, prometheus::Error> {
    registered.extend(Described::all(process, "gauge").map(|one| {
        let kind = if one.name.ends_with("_total") { "counter" } else { "gauge" };
        Described { kind, ..one }
    }));
    let kernel = KernelFamilies::new()?;
    registered.extend(kernel.counters().into_iter().flat_map(|family| Described::all(family, "counter")));
    registered.extend(Described::all(&kernel.health.suspected, "gauge"));
    registered.extend(connections::described());
    registered.sort();
    Ok(registered)
}

impl Metrics {
    /// `requests`: of the source, which counts them.
    pub fn new(requests: &RequestMetrics) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let of = Registrar { registry: &registry, described: RefCell::default() };
        let metrics = Self {
            syncs: SyncDurations::new(&of)?,
            sync_last_timestamp: of.gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "Time of the last pass without unwritten frontends.",
            )?,
            sync_last_queued: of.gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "Time of the last change received.",
            )?,
            network_programming: of.histogram(
                "kubeproxy_network_programming_duration_seconds",
                "Delay from the trigger time of an EndpointSlice to the maps.",
                network_programming_buckets(),
            )?,
            name_programming: of.histogram(
                "portreeve_name_programming_duration_seconds",
                "Delay from the trigger time of an EndpointSlice to the DNS answers.",
                network_programming_buckets(),
            )?,
            changes: ChangeCounters::new(&of)?,
            no_local_endpoints: of.gauges(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Service ports with policy Local and endpoints, but none on this node.",
                &["traffic_policy", FAMILY],
            )?,
            healthz: of.counters("kubeproxy_proxy_healthz_total", "Responses of /healthz.", &["code"])?,
            livez: of.counters("kubeproxy_proxy_livez_total", "Responses of /livez.", &["code"])?,
            sync_failures: of.counter("portreeve_sync_failures_total", "Passes with unwritten frontends.")?,
            frontends: of.plain_gauge("portreeve_frontends", "Published frontends.")?,
            unwritten_frontends: of
                .plain_gauge("portreeve_unwritten_frontends", "Frontends to be retried.")?,
            tenants: TenantGauges::new(&of)?,
            skipped_objects: of.counter(
                "portreeve_skipped_objects_total",
                "Invalid objects or parts of objects, skipped.",
            )?,
            reattachments: of.counter(
                "portreeve_reattachments_total",
                "Hooks that had lost their program, attached again.",
            )?,
            unattached: of.plain_gauge(
                "portreeve_unattached",
                "Hooks and devices without their program after the last attempt.",
            )?,
            dns_faults: of.plain_gauge(
                "portreeve_dns_faults",
                "Parts of DNS that do not work and are retried: unbound addresses, an unusable Corefile.",
            )?,
            unread_counters: of.counter(
                "portreeve_unread_counters_total",
                "Scrapes without the kernel's counters, which could not be read.",
            )?,
            stale_connections: of.counters(
                "portreeve_stale_connections_reset_total",
                "Connections to pods that are gone for good, reset by the agent.",
                &["plane"],
            )?,
            table_used: of.gauges("portreeve_table_entries", "Entries in use in a table.", &["table"])?,
            table_capacity: of.gauges(
                "portreeve_table_capacity",
                "Capacity of a table in entries.",
                &["table"],
            )?,
            faults: FaultGauges::new(&of)?,
            described: Vec::new(),
            registry: registry.clone(),
        };
        of.build_info()?;
        of.register("counter", requests.count.clone())?;
        of.register("histogram", requests.duration.clone())?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        let described = described(of.described.into_inner(), &process)?;
        registry.register(Box::new(process))?;
        Ok(Self { described, ..metrics })
    }

    pub fn set_unplaced(&self, unplaced: &[Unplaced]) {
        self.tenants.unplaced_frontends.reset();
        for Unplaced { table, is_over_budget, frontends, .. } in unplaced {
            let reason = if *is_over_budget { format!("share of {table}") } else { table.clone() };
            self.tenants.unplaced_frontends.with_label_values(&[&reason]).add(*frontends as i64);
        }
    }

    pub fn set_conditions(&self, conditions: &[Condition]) {
        self.faults.conditions.reset();
        for Condition { r#type, status, reason, .. } in conditions {
            let labels = [&r#type.to_string(), status.name(), reason.as_str()];
            self.faults.conditions.with_label_values(&labels).set(1);
        }
    }

    pub fn set_source(&self, source: &SourceReport) {
        for (kind, report) in &source.kinds {
            self.faults.source_failing.with_label_values(&[kind]).set(report.failure.is_some().into());
            let heard = report.last_heard.map_or(0.0, |time| time.as_nanosecond() as f64 / 1e9);
            self.faults.source_last_heard.with_label_values(&[kind]).set(heard);
        }
    }

    /// All families, by name.
    #[cfg_attr(not(test), expect(dead_code, reason = "the reference in docs/ is made from it by a test"))]
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    pub fn set_unserved(&self, unserved: &[(ServiceKey, Unserved)]) {
        self.tenants.unserved.reset();
        for (_, unserved) in unserved {
            self.tenants.unserved.with_label_values(&[unserved.code()]).inc();
        }
    }

    pub fn set_fill(&self, fill: &[Fill]) {
        for Fill { map, used, capacity } in fill {
            self.table_used.with_label_values(&[map]).set(i64::from(*used));
            self.table_capacity.with_label_values(&[map]).set(i64::from(*capacity));
        }
    }

    /// A pass writes both families at once, so the duration counts for both.
    pub fn observe_sync(&self, is_full: bool, took: Duration) {
        let SyncDurations { all, full, partial } = &self.syncs;
        for histogram in [all, if is_full { full } else { partial }] {
            for family in IpFamily::BOTH {
                histogram.with_label_values(&[family_label(family)]).observe(took.as_secs_f64());
            }
        }
    }

    /// All metrics in the Prometheus text format, including the kernel's counters.
    pub fn render(&self, kernel: &KernelCounters) -> Result<Vec<u8>, prometheus::Error> {
        self.set_fill(&kernel.fill);
        let mut families = self.registry.gather();
        families.extend(kernel_families(kernel)?);
        families.extend(connections::families(&kernel.connections, &kernel.backends));
        // The encoder rejects families without metrics.
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

pub fn family_label(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

/// The kernel's counters as metric families for one response.
fn kernel_families(kernel: &KernelCounters) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let families = KernelFamilies::new()?;
    let KernelFamilies { refusals, xdp, connections, refused, health } = &families;
    health.set(&kernel.health);
    for (reason, count) in &kernel.refusals {
        refusals.with_label_values(&[reason]).inc_by(*count);
    }
    for (outcome, count) in &kernel.xdp {
        xdp.with_label_values(&[outcome]).inc_by(*count);
    }
    for (service, stats) in &kernel.services {
        let key = &service.service;
        let values = [&*key.namespace, &*key.name, &*service.port_name];
        connections.with_label_values(&values).inc_by(stats.translated);
        refused.with_label_values(&values).inc_by(stats.refused);
    }
    let counters = families.counters().into_iter().flat_map(Collector::collect);
    Ok(counters.chain(families.health.suspected.collect()).collect())
}

struct KernelFamilies {
    refusals: IntCounterVec,
    xdp: IntCounterVec,
    connections: IntCounterVec,
    refused: IntCounterVec,
    health: HealthFamilies,
}

impl KernelFamilies {
    fn new() -> Result<Self, prometheus::Error> {
        let family = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let service = ["namespace", "service", "port"];
        Ok(Self {
            refusals: family(
                "portreeve_refusals_total",
                "Connections and datagrams refused, by reason.",
                &["reason"],
            )?,
            xdp: family(
                "portreeve_xdp_packets_total",
                "Packets processed by XDP, by outcome.",
                &["outcome"],
            )?,
            connections: family(
                "portreeve_service_connections_total",
                "Connections and datagram flows with a backend.",
                &service,
            )?,
            refused: family(
                "portreeve_service_refusals_total",
                "Connections and datagram flows refused.",
                &service,
            )?,
            health: HealthFamilies::new()?,
        })
    }

    fn counters(&self) -> [&dyn Collector; 7] {
        let HealthFamilies { suspicions, restored, resteered, .. } = &self.health;
        [&self.refusals, &self.xdp, &self.connections, &self.refused, suspicions, restored, resteered]
    }
}

struct HealthFamilies {
    suspected: IntGaugeVec,
    suspicions: IntCounterVec,
    restored: IntCounter,
    resteered: IntCounter,
}

impl HealthFamilies {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            suspected: IntGaugeVec::new(
                Opts::new(
                    "portreeve_backends_suspected",
                    "Backends that are left out of new connections, or on trial, by the fault that connections have found.",
                ),
                &["reason"],
            )?,
            suspicions: IntCounterVec::new(
                Opts::new("portreeve_backend_suspicions_total", "Suspicions of backends, by fault."),
                &["reason"],
            )?,
            restored: IntCounter::new(
                "portreeve_backends_restored_total",
                "Suspicions of backends that an answer has ended.",
            )?,
            resteered: IntCounter::new(
                "portreeve_connects_resteered_total",
                "Connections whose SYN was not answered, and that went on at another backend.",
            )?,
        })
    }

    fn set(&self, counters: &HealthCounters) {
        let HealthCounters { suspected, suspicions, restored, resteered } = counters;
        for (fault, count) in suspected {
            self.suspected.with_label_values(&[fault]).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        for (fault, count) in suspicions {
            self.suspicions.with_label_values(&[fault]).inc_by(*count);
        }
        self.restored.inc_by(*restored);
        self.resteered.inc_by(*resteered);
    }
}

/// From 1 ms, doubling.
fn sync_buckets() -> Vec<f64> {
    (0..15).map(|exponent| 0.001 * f64::from(1 << exponent)).collect()
}

/// Fine for good values, coarse for bad ones; the same as kube-proxy's.
fn network_programming_buckets() -> Vec<f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from)).collect()
}

/// A metric family, for the reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    pub name: String,
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

impl Described {
    fn all(metric: &(impl Collector + ?Sized), kind: &'static str) -> impl Iterator<Item = Self> {
        metric.desc().into_iter().map(move |desc| Self {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        })
    }
}

/// Creates registered metrics.
struct Registrar<'a> {
    registry: &'a Registry,
    described: RefCell<Vec<Described>>,
}

impl Registrar<'_> {
    fn register<C: Collector + Clone + 'static>(
        &self,
        kind: &'static str,
        metric: C,
    ) -> Result<C, prometheus::Error> {
        self.described.borrow_mut().extend(Described::all(&metric, kind));
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> Result<HistogramVec, prometheus::Error> {
        self.register(
            "histogram",
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &[FAMILY])?,
        )
    }

    fn gauge(&self, name: &str, help: &str) -> Result<GaugeVec, prometheus::Error> {
        self.register("gauge", GaugeVec::new(Opts::new(name, help), &[FAMILY])?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.register("gauge", IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn plain_gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register("gauge", IntGauge::new(name, help)?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register("counter", IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.register("counter", IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn build_info(&self) -> Result<(), prometheus::Error> {
        self.constant_one(
            "portreeve_build_info",
            "Version of the agent, always 1.",
            "version",
            env!("CARGO_PKG_VERSION"),
        )?;
        // The name that all Kubernetes components have, for dashboards.
        self.constant_one(
            "kubernetes_build_info",
            "Version of the component, always 1.",
            "git_version",
            concat!("v", env!("CARGO_PKG_VERSION")),
        )
    }

    fn constant_one(
        &self,
        name: &str,
        help: &str,
        label: &str,
        value: &str,
    ) -> Result<(), prometheus::Error> {
        self.gauges(name, help, &[label])?.with_label_values(&[value]).set(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proxy_ebpf::abi::BackendConnections;

    use super::*;
    use crate::model::address::Protocol;

    #[test]
    fn buckets_are_kube_proxys() {
        let sync = sync_buckets();
        assert_eq!((sync.len(), sync[0], sync[14]), (15, 0.001, 16.384));
        let network = network_programming_buckets();
        assert_eq!(&network[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(&network[60..64], [59.0, 60.0, 65.0, 70.0]);
        assert_eq!(&network[72..], [115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0]);
    }

    #[test]
    fn kernel_counters_and_agent_metrics_are_rendered_together() {
        let metrics = Metrics::new(&RequestMetrics::default()).unwrap();
        metrics.observe_sync(true, Duration::from_millis(3));
        metrics.set_fill(&[Fill { map: "SLOTS", used: 7, capacity: 100 }]);
        let service = ServicePortKey {
            service: ServiceKey::new("shop", "web"),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        };
        let of_service = ServiceConnections {
            closed: 4,
            failures: [0, 2, 0, 0, 1],
            sent: 100,
            round_trips: 1500,
            round_trip_samples: 3,
            connect_time: 1_250_000_000,
            connect_times: [5, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0],
            ..ServiceConnections::default()
        };
        let of_backend = BackendConnections { opened: 3, closed: 4, ..BackendConnections::default() };
        let kernel = KernelCounters {
            refusals: vec![("no_endpoint", 5)],
            xdp: vec![("sent_to_backend", 4)],
            services: vec![(service.clone(), ServiceStats { translated: 9, refused: 1 })],
            connections: vec![(service.clone(), of_service)],
            backends: vec![BackendSeries {
                service,
                address: "10.244.1.4:8080".parse().unwrap(),
                connections: of_backend,
            }],
            health: HealthCounters {
                suspected: vec![("silent", 2)],
                suspicions: vec![("refused", 3)],
                restored: 4,
                resteered: 5,
            },
            fill: vec![Fill { map: "FLOWS_V4", used: 2, capacity: 8 }],
        };
        let text = String::from_utf8(metrics.render(&kernel).unwrap()).unwrap();
        for line in [
            r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.004"} 1"#,
            r#"kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1"#,
            r#"portreeve_table_entries{table="SLOTS"} 7"#,
            r#"portreeve_table_entries{table="FLOWS_V4"} 2"#,
            r#"portreeve_refusals_total{reason="no_endpoint"} 5"#,
            r#"portreeve_backends_suspected{reason="silent"} 2"#,
            r#"portreeve_backend_suspicions_total{reason="refused"} 3"#,
            r#"portreeve_backends_restored_total 4"#,
            r#"portreeve_connects_resteered_total 5"#,
            r#"portreeve_xdp_packets_total{outcome="sent_to_backend"} 4"#,
            r#"portreeve_service_connections_total{namespace="shop",port="http",service="web"} 9"#,
            r#"portreeve_service_refusals_total{namespace="shop",port="http",service="web"} 1"#,
            r#"portreeve_service_tcp_connect_duration_seconds_bucket{namespace="shop",service="web",port="http",le="0.0001"} 5"#,
            r#"portreeve_service_tcp_connect_duration_seconds_bucket{namespace="shop",service="web",port="http",le="1"} 6"#,
            r#"portreeve_service_tcp_connect_duration_seconds_bucket{namespace="shop",service="web",port="http",le="3"} 7"#,
            r#"portreeve_service_tcp_connect_duration_seconds_bucket{namespace="shop",service="web",port="http",le="+Inf"} 7"#,
            r#"portreeve_service_tcp_connect_duration_seconds_sum{namespace="shop",service="web",port="http"} 1.25"#,
            r#"portreeve_service_tcp_connect_duration_seconds_count{namespace="shop",service="web",port="http"} 7"#,
            r#"portreeve_service_tcp_failures_total{namespace="shop",service="web",port="http",reason="timed_out"} 2"#,
            r#"portreeve_service_tcp_failures_total{namespace="shop",service="web",port="http",reason="reset"} 1"#,
            r#"portreeve_service_tcp_connections_open{namespace="shop",service="web",port="http"} 3"#,
            r#"portreeve_service_tcp_sent_bytes_total{namespace="shop",service="web",port="http"} 100"#,
            r#"portreeve_service_tcp_round_trip_seconds_sum{namespace="shop",service="web",port="http"} 0.0015"#,
            r#"portreeve_service_tcp_round_trip_seconds_count{namespace="shop",service="web",port="http"} 3"#,
            // Never negative.
            r#"portreeve_backend_tcp_connections_open{namespace="shop",service="web",port="http",backend="10.244.1.4:8080"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"));
        metrics.render(&KernelCounters::default()).unwrap();
    }

    /// Names that kube-proxy has and promtool does not like.
    const OF_KUBE_PROXY: [&str; 1] = ["kubeproxy_sync_proxy_rules_no_local_endpoints_total"];

    /// The rules of `promtool check metrics` (prometheus/client_golang, `testutil/promlint`), and full sentences.
    fn complaints(Described { name, kind, labels, help }: &Described) -> Vec<&'static str> {
        let words: Vec<_> = name.split('_').collect();
        let has_word = |list: &[&str]| words.iter().any(|word| list.contains(word));
        let is_snake_case = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        let is_counter = *kind == "counter";
        let rules = [
            (help.is_empty() || !help.ends_with('.'), "no sentence as help"),
            (is_counter && !name.ends_with("_total"), "a counter without _total"),
            (!is_counter && name.ends_with("_total"), "_total without being a counter"),
            (["_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)), "a reserved suffix"),
            (labels.iter().any(|label| label == "le" || label == "quantile"), "a reserved label"),
            (has_word(&["gauge", "counter", "histogram", "summary", "untyped"]), "a type in the name"),
            (!is_snake_case(name) || !labels.iter().all(|label| is_snake_case(label)), "not snake_case"),
            (
                has_word(&[
                    "milliseconds",
                    "microseconds",
                    "nanoseconds",
                    "minutes",
                    "hours",
                    "days",
                    "kilobytes",
                    "megabytes",
                    "gigabytes",
                    "bits",
                    "celsius",
                ]),
                "not a base unit",
            ),
            (
                has_word(&["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"]),
                "an abbreviated unit",
            ),
            // Prometheus adds these at a scrape, and renames ours.
            (labels.iter().any(|label| label == "job" || label == "instance"), "a label of Prometheus"),
        ];
        rules.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, rule)| rule).collect()
    }

    #[test]
    fn every_metric_passes_promtools_lint() {
        let metrics = Metrics::new(&RequestMetrics::default()).unwrap();
        let named = |described: &&Described| !OF_KUBE_PROXY.contains(&described.name.as_str());
        let wrong: Vec<_> = metrics
            .described()
            .iter()
            .filter(named)
            .map(|described| (described.name.as_str(), complaints(described)))
            .filter(|(_, complaints)| !complaints.is_empty())
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let dns = ::dns::observe::metrics::Metrics::default();
        let of_dns = dns.described().iter().map(|one| Described {
            name: one.name.clone(),
            kind: one.kind,
            labels: one.labels.clone(),
            help: one.help.clone(),
        });
        let wrong: Vec<_> = of_dns
            .map(|described| (described.name.clone(), complaints(&described)))
            .filter(|(_, complaints)| !complaints.is_empty())
            .collect();
        assert!(wrong.is_empty(), "of DNS: {wrong:#?}");
        let names: std::collections::BTreeSet<_> =
            metrics.described().iter().map(|described| &described.name).collect();
        assert_eq!(names.len(), metrics.described().len(), "each is registered once");
    }

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    const INTRODUCTION: &str = "# Metrics

The agent serves these at `--metrics-bind-address` under `/metrics`. `kubeproxy_*` have kube-proxy's names and meanings, and
`rest_client_*` those of client-go, so that dashboards and alerts keep working. There is no Go runtime: the `go_*` series of
other components do not exist.

The counters of service ports have two series for each port that this node uses, and 24 more (`portreeve_service_tcp_*`) if
sockets of this node connected to it over TCP; `--service-metrics=false` leaves them out. Those of backends are left out unless
`--metrics-per-backend` is given: they have eleven series for each backend that was used. The kernel counts both per connection,
at the sockets that the socket LB translated; connections through the packet LB, and MPTCP, are not among them. `portreeve get
services -o wide` and `get backends -o wide` show the same counts.

A useful alert is `portreeve_condition{status=\"False\"} == 1`: `portreeve status` shows the message.

This page is generated: `UPDATE_EXPECT=1 cargo test -p proxy --lib observe::metrics`.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
";

    const OF_NAMES: &str = "
## DNS

The name server has a server of its own (`--dns-metrics-bind-address`, or `prometheus` in the Corefile), see
[replacing-coredns.md](replacing-coredns.md). It serves `process_*` as above, and its own names, `portreeve_dns_*`. Metrics
that CoreDNS has are served under CoreDNS's name instead if the Corefile has `prometheus`, as that of a default cluster has;
`--dns-metrics-names` sets the names, or serves both while dashboards are changed. The hash of
`coredns_reload_version_info` is that of the file; CoreDNS's is that of the words in it.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
";

    #[test]
    fn the_page_lists_every_metric() {
        let row = |name: &str, kind: &str, labels: &[String], help: &str| {
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            format!("| `{name}` | {kind} | {labels} | {help} |\n")
        };
        let mut page = INTRODUCTION.to_owned();
        for Described { name, kind, labels, help } in
            Metrics::new(&RequestMetrics::default()).unwrap().described()
        {
            page += &row(name, kind, labels, help);
        }
        page += OF_NAMES;
        let mut names = ::dns::observe::metrics::Metrics::default().described().to_vec();
        names.sort();
        for one in names {
            page += &row(&one.name, one.kind, &one.labels, &one.help);
        }
        expect_test::expect_file![PAGE].assert_eq(&page);
    }
}
