//! The state that the agent's loop shares with the serving thread. That thread answers also when the loop
//! hangs, when it is needed most.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use dns::{
    cluster::snapshot::Snapshot,
    observe::{
        alarms::{Alarm, PresentAlarm},
        faults::Faults,
    },
};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    conditions::{ConditionType, Conditions, Fault},
    events::listeners::Listeners,
    health::ProxyHealth,
    metrics::{Metrics, family_label},
    objects::{ObjectRequests, Objects},
    query_source::QuerySource,
    query_statistics::QueryStatistics,
    status::{DeviceStatus, NameServerStatus, Phase, Planes, Port, Status, Unplaced, UnservedPart},
};
use crate::{
    datapath::{self, XdpAttachment},
    index::Change,
    model::{
        address::IpFamily,
        backend::{SliceInfo, SliceKey},
        frontend::{FrontendKey, FrontendKind},
        service::ServiceKey,
        unserved::Unserved,
    },
    reconcile::Fill,
    source_state::SourceState,
};

/// The loop sends a heartbeat at least every ten seconds, as it verifies the hooks; without one for this long
/// it hangs.
const HUNG_AFTER: Duration = Duration::from_secs(60);

pub struct AgentState {
    pub metrics: Metrics,
    health: Mutex<ProxyHealth>,
    /// The last heartbeat of the agent's loop; `None` while there is no loop.
    last_heartbeat: Mutex<Option<Instant>>,
    status: Mutex<Status>,
    phase: watch::Sender<Phase>,
    /// Changes before this belong to an earlier agent.
    started: Timestamp,
    /// Triggers of slices that are not programmed yet.
    pending_triggers: Mutex<Vec<SliceTrigger>>,
    /// Triggers that the last pass programmed.
    programmed_triggers: Mutex<Vec<SliceTrigger>>,
    /// Set when DNS is served.
    query_source: OnceLock<QuerySource>,
    /// What of DNS does not work.
    pub dns_faults: Faults,
    /// The watches state their state here.
    pub source: SourceState,
    /// The age of the name server's heartbeat; unset without a name server.
    name_server_age: OnceLock<NameServerAge>,
    /// Requests of commands to the loop.
    pub object_requests: ObjectRequests,
    /// Any part of the agent states its faults here.
    pub conditions: Conditions,
    /// Who listens to events.
    pub events: Listeners,
}

type NameServerAge = Box<dyn Fn() -> Option<Duration> + Send + Sync>;

/// Limit of named parts of Services without effect.
const MAX_UNSERVED: usize = 100;

/// Limit of pending triggers: where slices are never programmed, there is nothing to measure.
const MAX_TRIGGERS: usize = 10_000;

/// The last-change trigger time of a slice (kube-proxy's rule C14).
struct SliceTrigger {
    slice: SliceKey,
    family: IpFamily,
    time: Timestamp,
}

impl SliceTrigger {
    /// Seconds since the trigger.
    fn age(&self, now: Timestamp) -> f64 {
        now.duration_since(self.time).as_secs_f64().max(0.0)
    }
}

/// The result of a pass.
pub struct PassSummary {
    /// Over all frontends, not only the changed ones.
    pub is_full_sync: bool,
    pub took: Duration,
    /// Number of frontends that could not be written.
    pub unwritten: usize,
    /// Families that are late for a reason of the node: only these count for health.
    pub late: BTreeSet<IpFamily>,
    /// Services without room.
    pub unplaced: Vec<Unplaced>,
    pub frontends: usize,
    pub fill: Vec<Fill>,
    pub is_node_eligible: Option<bool>,
}

impl AgentState {
    pub fn new(health_timeout: Duration, status: Status) -> Result<Self> {
        let phase = watch::Sender::new(status.phase.clone());
        let source = SourceState::default();
        Ok(Self {
            metrics: Metrics::new(&source.requests)?,
            health: Mutex::new(ProxyHealth::new(health_timeout)),
            last_heartbeat: Mutex::default(),
            status: Mutex::new(status),
            phase,
            started: Timestamp::now(),
            pending_triggers: Mutex::default(),
            programmed_triggers: Mutex::default(),
            query_source: OnceLock::new(),
            dns_faults: Faults::default(),
            source,
            name_server_age: OnceLock::new(),
            object_requests: ObjectRequests::default(),
            conditions: Conditions::default(),
            events: Listeners::default(),
        })
    }

    pub fn health(&self) -> MutexGuard<'_, ProxyHealth> {
        let hangs = lock(&self.last_heartbeat).is_some_and(|heartbeat| heartbeat.elapsed() > HUNG_AFTER);
        let mut health = lock(&self.health);
        health.set_hanging(hangs);
        health
    }

    /// Heartbeat: the agent's loop is about to wait for events.
    pub fn heartbeat(&self) {
        *lock(&self.last_heartbeat) = Some(Instant::now());
    }

    /// The loop has ended; no heartbeat is expected.
    pub fn loop_ended(&self) {
        *lock(&self.last_heartbeat) = None;
    }

    pub fn status(&self) -> Status {
        let mut status = self.refresh_conditions();
        status.conditions = self.conditions.all();
        status
    }

    /// States the conditions that follow from the status. Called at intervals, so that faults are logged when they begin.
    pub fn refresh_conditions(&self) -> Status {
        let status = self.plain_status();
        for (r#type, faults) in status.stated(Timestamp::now()) {
            self.conditions.set(r#type, "agent", faults);
        }
        if self.query_source.get().is_some() {
            let fault = |PresentAlarm { alarm, sentence }| Fault::new(alarm.name(), reason(alarm), sentence);
            self.conditions.set(
                ConditionType::UpstreamsReliable,
                "dns",
                self.dns_alarms().into_iter().map(fault),
            );
        }
        status
    }

    fn plain_status(&self) -> Status {
        let mut status = lock(&self.status).clone();
        let health = self.health();
        status.last_sync = health.last_updated();
        status.pending_since = health.pending_since();
        status.hangs = health.hangs();
        status.is_live = Some(health.is_healthy(Timestamp::now()));
        status.dns_faults = self.dns_faults.errors();
        status.source = Some(self.source.report());
        status.name_server = self.name_server_age.get().map(|age| NameServerStatus::new(age()));
        status
    }

    /// The alarms of the upstreams of DNS.
    pub fn dns_alarms(&self) -> Vec<PresentAlarm> {
        self.query_source.get().map(|source| source.metrics.alarms().present()).unwrap_or_default()
    }

    pub fn node_name(&self) -> String {
        lock(&self.status).node.clone()
    }

    pub fn set_setup(&self, cgroup: &Path, socket_lb: &str, has_packet_plane: bool) {
        let mut status = lock(&self.status);
        status.cgroup = Some(cgroup.to_owned());
        status.planes = Some(Planes { socket_lb: socket_lb.to_owned(), packet: has_packet_plane });
    }

    pub fn set_ports(&self, ports: Vec<Port>) {
        lock(&self.status).ports = ports;
    }

    pub fn set_devices(&self, devices: Vec<DeviceStatus>) {
        lock(&self.status).devices = devices;
    }

    /// `age`: the time since the name server was alive; `None`: it never was.
    pub fn watch_name_server(&self, age: impl Fn() -> Option<Duration> + Send + Sync + 'static) {
        // Called once.
        let _ = self.name_server_age.set(Box::new(age));
    }

    /// DNS is served from now on.
    pub fn dns_started(&self, query_source: QuerySource) {
        // Called once.
        let _ = self.query_source.set(query_source);
    }

    /// The query statistics. Returns `None` if DNS is not served.
    pub fn query_statistics(&self) -> Option<QueryStatistics> {
        self.query_source.get().map(QuerySource::read)
    }

    /// The objects of the name server. Returns `None` if DNS is not served.
    pub fn names(&self) -> Option<Arc<Snapshot>> {
        self.query_source.get().map(QuerySource::names)
    }

    /// The objects of the loop's index. Returns `None` if they cannot be had now.
    pub async fn objects(&self) -> Option<Objects> {
        let is_serving = matches!(lock(&self.status).phase, Phase::Serving);
        if is_serving { self.object_requests.ask().await } else { None }
    }

    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub fn enter(&self, phase: Phase) {
        lock(&self.status).phase = phase.clone();
        self.phase.send_replace(phase);
    }

    /// A change was received. Only slices have a trigger time.
    pub fn change_received(&self, change: &Change) {
        match change {
            Change::Service(..) => {
                self.metrics.changes.services.inc();
                self.metrics.changes.services_pending.inc();
            }
            Change::Slice(key, slice) => {
                self.metrics.changes.endpoints.inc();
                self.metrics.changes.endpoints_pending.inc();
                self.note_trigger(key, slice.as_deref());
            }
            Change::Endpoints(..) | Change::Node(_) | Change::ServiceCidr(..) => {}
        }
    }

    /// Ignores triggers from before the start, whose delay is unknown. A deleted slice is not measured.
    fn note_trigger(&self, key: &SliceKey, slice: Option<&SliceInfo>) {
        let mut triggered = lock(&self.pending_triggers);
        let Some(slice) = slice else { return triggered.retain(|one| one.slice != *key) };
        let has_room = triggered.len() < MAX_TRIGGERS;
        let time = slice.triggered.filter(|time| has_room && *time > self.started);
        triggered.extend(time.map(|time| SliceTrigger { slice: key.clone(), family: slice.family, time }));
    }

    /// Frontends are about to be written.
    pub fn frontends_queued<'a>(&self, touched: impl IntoIterator<Item = &'a FrontendKey>) {
        let now = Timestamp::now();
        let families: BTreeSet<IpFamily> = touched.into_iter().map(|key| key.address.family()).collect();
        for family in families {
            self.health().queued(family, now);
            self.metrics.sync_last_queued.with_label_values(&[family_label(family)]).set(seconds(now));
        }
    }

    /// Connections of sockets to pods that are gone were reset.
    pub fn sockets_reset(&self, count: usize) {
        self.metrics.stale_connections.with_label_values(&["socket"]).inc_by(count as u64);
    }

    /// What the node does not permit.
    pub fn add_impossible(&self, impossible: impl IntoIterator<Item = String>) {
        lock(&self.status).impossible.extend(impossible);
    }

    /// The parts of Services without effect.
    pub fn set_unserved(&self, unserved: &[(ServiceKey, Unserved)]) {
        self.metrics.set_unserved(unserved);
        let part = |(service, unserved): &(ServiceKey, Unserved)| UnservedPart {
            service: service.to_string(),
            reason: unserved.to_string(),
        };
        let mut status = lock(&self.status);
        status.unserved_count = unserved.len();
        status.unserved = unserved.iter().take(MAX_UNSERVED).map(part).collect();
    }

    pub fn objects_skipped(&self, count: usize) {
        self.metrics.skipped_objects.inc_by(count as u64);
        lock(&self.status).skipped_objects += count;
    }

    pub fn hooks_verified(&self, repaired: usize, failures: BTreeSet<String>) {
        self.metrics.reattachments.inc_by(repaired as u64);
        self.metrics.unattached.set(failures.len() as i64);
        let cgroup = lock(&self.status).cgroup.clone();
        let scope = cgroup.as_deref().map(datapath::cgroup_scope);
        let mut status = lock(&self.status);
        status.cgroup_scope = scope;
        status.reattachments += repaired;
        status.unattached = failures.into_iter().collect();
    }

    pub fn set_xdp(&self, devices: &[XdpAttachment]) {
        lock(&self.status).xdp = devices.iter().map(Into::into).collect();
    }

    /// A pass has ended. A family that is not late is synced.
    pub fn pass_completed(&self, pass: PassSummary) {
        let now = Timestamp::now();
        lock(&self.programmed_triggers).clear();
        self.metrics.observe_sync(pass.is_full_sync, pass.took);
        for family in IpFamily::BOTH.into_iter().filter(|family| !pass.late.contains(family)) {
            self.family_synced(family, now);
        }
        if pass.late.is_empty() {
            self.metrics.changes.services_pending.set(0);
            self.metrics.changes.endpoints_pending.set(0);
        }
        if pass.unwritten > 0 {
            self.metrics.sync_failures.inc();
        }
        self.health().set_node_eligible(pass.is_node_eligible);
        self.record(pass);
    }

    fn record(&self, pass: PassSummary) {
        self.metrics.frontends.set(pass.frontends as i64);
        self.metrics.unwritten_frontends.set(pass.unwritten as i64);
        self.metrics.set_unplaced(&pass.unplaced);
        self.metrics.set_fill(&pass.fill);
        let mut status = lock(&self.status);
        status.frontends = pass.frontends;
        status.unwritten_frontends = pass.unwritten;
        status.unplaced = pass.unplaced;
        status.tables = pass.fill.into_iter().map(Into::into).collect();
        status.is_node_known = Some(pass.is_node_eligible.is_some());
    }

    fn family_synced(&self, family: IpFamily, now: Timestamp) {
        let label = [family_label(family)];
        self.health().updated(family, now);
        self.metrics.sync_last_timestamp.with_label_values(&label).set(seconds(now));
        let programmed = self.metrics.network_programming.with_label_values(&label);
        let done: Vec<_> = lock(&self.pending_triggers).extract_if(.., |one| one.family == family).collect();
        done.iter().for_each(|one| programmed.observe(one.age(now)));
        lock(&self.programmed_triggers).extend(done);
    }

    /// DNS answers include the last pass.
    pub fn dns_published(&self) {
        let now = Timestamp::now();
        for done in std::mem::take(&mut *lock(&self.programmed_triggers)) {
            let answered = self.metrics.name_programming.with_label_values(&[family_label(done.family)]);
            answered.observe(done.age(now));
        }
    }

    /// The number of service ports without a local endpoint, but with endpoints elsewhere.
    pub fn set_no_local_endpoints(&self, kind: FrontendKind, family: IpFamily, count: usize) {
        let policy = if kind == FrontendKind::ClusterIp { "internal" } else { "external" };
        let labels = [policy, family_label(family)];
        self.metrics.no_local_endpoints.with_label_values(&labels).set(count as i64);
    }
}

/// The reason of a condition.
fn reason(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::Failing => "Failing",
        Alarm::Contradicted => "Contradicted",
        Alarm::Held => "Held",
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_nanosecond() as f64 / 1e9
}

/// The data are plain values and always consistent, so a poisoned lock is no problem.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{super::metrics::KernelCounters, *};
    use crate::model::{address::Protocol, frontend::FrontendAddress};

    fn summary(late: BTreeSet<IpFamily>) -> PassSummary {
        let unplaced = Unplaced {
            service: "a/huge".to_owned(),
            table: "SLOTS".to_owned(),
            is_over_budget: false,
            reason: "SLOTS is full (8 entries)".to_owned(),
            frontends: 1,
            since: Timestamp::UNIX_EPOCH,
        };
        PassSummary {
            is_full_sync: false,
            took: Duration::ZERO,
            unwritten: 1,
            late,
            unplaced: vec![unplaced],
            frontends: 9,
            fill: Vec::new(),
            is_node_eligible: Some(true),
        }
    }

    #[test]
    fn each_alarm_of_upstreams_is_a_reason() {
        for (alarm, want) in
            [(Alarm::Failing, "Failing"), (Alarm::Contradicted, "Contradicted"), (Alarm::Held, "Held")]
        {
            let state = AgentState::new(Duration::ZERO, Status::new("n")).unwrap();
            let metrics = Arc::<dns::observe::metrics::Metrics>::default();
            state.dns_started(QuerySource { metrics: Arc::clone(&metrics), published: Arc::default() });
            metrics.alarms().raise(alarm, "a.example.");
            let conditions = state.status().conditions;
            let faults = conditions.iter().filter(|one| one.is_fault());
            let reasons: Vec<_> = faults.map(|one| (one.r#type, one.reason.as_str())).collect();
            assert!(reasons.contains(&(ConditionType::UpstreamsReliable, want)), "{reasons:?}");
        }
    }

    #[test]
    fn a_service_without_room_is_in_the_status_and_costs_the_node_no_health() {
        // Everything that is pending is overdue.
        let state = AgentState::new(Duration::ZERO, Status::new("n")).unwrap();
        let address = FrontendAddress::Ip([10, 96, 0, 1].into());
        let key = FrontendKey { address, port: 80, protocol: Protocol::Tcp };
        for (late, code) in [(BTreeSet::new(), 200), (BTreeSet::from([IpFamily::V4]), 503)] {
            state.frontends_queued([&key]);
            state.pass_completed(summary(late));
            let (health, now) = (state.health().clone(), Timestamp::now());
            assert_eq!((health.livez(now).status(), health.healthz(now).status()), (code, code));
            let status = state.status();
            assert_eq!((status.unwritten_frontends, status.unplaced.len()), (1, 1));
            let metrics = state.metrics.render(&KernelCounters::default()).unwrap();
            let metrics = String::from_utf8(metrics).unwrap();
            assert!(metrics.contains(r#"portreeve_unplaced_frontends{reason="SLOTS"} 1"#), "{metrics}");
        }
    }
}
