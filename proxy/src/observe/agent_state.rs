//! What the agent tells about itself while it works, shared with the thread that answers for it. That thread answers
//! also when the agent hangs, which is when somebody asks.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    health::ProxyHealth,
    metrics::{Metrics, family_label},
    query_source::Askers,
    query_statistics::Asked,
    status::{Phase, Status},
};
use crate::{
    datapath::EarlyDevice,
    index::Change,
    model::{
        address::IpFamily,
        backend::{SliceInfo, SliceKey},
        frontend::{FrontendKey, FrontendKind},
    },
    reconcile::Fill,
};

/// The agent's loop turns every ten seconds at least, as it looks after the hooks; it hangs when it has not for so long.
const HANGS_AFTER: Duration = Duration::from_secs(60);

pub struct Vitals {
    pub metrics: Metrics,
    health: Mutex<ProxyHealth>,
    /// When the agent's loop last turned; none while it has none.
    turned: Mutex<Option<Instant>>,
    status: Mutex<Status>,
    phase: watch::Sender<Phase>,
    /// Changes that are older belong to a predecessor.
    started: Timestamp,
    /// Changes of slices that came and are not programmed yet.
    triggered: Mutex<Vec<Triggered>>,
    /// Those that the last pass programmed.
    programmed: Mutex<Vec<Triggered>>,
    /// Once names are answered.
    askers: OnceLock<Askers>,
}

/// So many slices at most are remembered until they are programmed: where that never happens, there is nothing to measure.
const MOST_TRIGGERED: usize = 10_000;

/// A slice that says itself when what it tells about happened (kube-proxy's rule C14).
struct Triggered {
    slice: SliceKey,
    family: IpFamily,
    time: Timestamp,
}

impl Triggered {
    /// Seconds since it happened.
    fn age(&self, now: Timestamp) -> f64 {
        now.duration_since(self.time).as_secs_f64().max(0.0)
    }
}

/// What the agent knows after a pass.
pub struct Passed<'a> {
    /// Over everything, and not over what changed.
    pub is_full: bool,
    pub took: Duration,
    pub unwritten: &'a BTreeSet<FrontendKey>,
    pub frontends: usize,
    pub fill: Vec<Fill>,
    pub is_node_eligible: Option<bool>,
}

impl Vitals {
    pub fn new(health_timeout: Duration, status: Status) -> Result<Self> {
        let phase = watch::Sender::new(status.phase.clone());
        Ok(Self {
            metrics: Metrics::new()?,
            health: Mutex::new(ProxyHealth::new(health_timeout)),
            turned: Mutex::default(),
            status: Mutex::new(status),
            phase,
            started: Timestamp::now(),
            triggered: Mutex::default(),
            programmed: Mutex::default(),
            askers: OnceLock::new(),
        })
    }

    pub fn health(&self) -> MutexGuard<'_, ProxyHealth> {
        let hangs = lock(&self.turned).is_some_and(|turned| turned.elapsed() > HANGS_AFTER);
        let mut health = lock(&self.health);
        health.set_hanging(hangs);
        health
    }

    /// The agent's loop is about to wait for something to do.
    pub fn turned(&self) {
        *lock(&self.turned) = Some(Instant::now());
    }

    /// The loop is over, and nobody expects it to turn.
    pub fn rests(&self) {
        *lock(&self.turned) = None;
    }

    pub fn status(&self) -> Status {
        let mut status = lock(&self.status).clone();
        let health = self.health();
        status.last_sync = health.last_updated();
        status.pending_since = health.pending_since();
        status.hangs = health.hangs();
        status
    }

    /// Names are answered from now on.
    pub fn answers(&self, askers: Askers) {
        // It happens once.
        let _ = self.askers.set(askers);
    }

    /// Who asks for names. Nothing: none are answered.
    pub fn asked(&self) -> Option<Asked> {
        self.askers.get().map(Askers::tell)
    }

    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub fn enter(&self, phase: Phase) {
        lock(&self.status).phase = phase.clone();
        self.phase.send_replace(phase);
    }

    /// A change was read. Only a slice says when what it tells about happened.
    pub fn came(&self, change: &Change) {
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

    /// What happened before this agent began took as long as nobody can tell, and of a slice that goes no time counts.
    fn note_trigger(&self, key: &SliceKey, slice: Option<&SliceInfo>) {
        let mut triggered = lock(&self.triggered);
        let Some(slice) = slice else { return triggered.retain(|one| one.slice != *key) };
        let has_room = triggered.len() < MOST_TRIGGERED;
        let time = slice.triggered.filter(|time| has_room && *time > self.started);
        triggered.extend(time.map(|time| Triggered { slice: key.clone(), family: slice.family, time }));
    }

    /// Frontends are to be written.
    pub fn queued<'a>(&self, touched: impl IntoIterator<Item = &'a FrontendKey>) {
        let now = Timestamp::now();
        let families: BTreeSet<IpFamily> = touched.into_iter().map(|key| key.address.family()).collect();
        for family in families {
            self.health().queued(family, now);
            self.metrics.sync_last_queued.with_label_values(&[family_label(family)]).set(seconds(now));
        }
    }

    pub fn skipped(&self, count: usize) {
        self.metrics.skipped_objects.inc_by(count as u64);
        lock(&self.status).skipped_objects += count;
    }

    pub fn attached(&self, repaired: usize, failures: BTreeSet<String>) {
        self.metrics.reattachments.inc_by(repaired as u64);
        self.metrics.unattached.set(failures.len() as i64);
        let mut status = lock(&self.status);
        status.reattachments += repaired;
        status.unattached = failures.into_iter().collect();
    }

    pub fn set_early(&self, devices: &[EarlyDevice]) {
        lock(&self.status).xdp = devices.iter().map(Into::into).collect();
    }

    /// A pass is over. A family with nothing left to write is in line.
    pub fn passed(&self, passed: Passed<'_>) {
        let now = Timestamp::now();
        lock(&self.programmed).clear();
        self.metrics.observe_sync(passed.is_full, passed.took);
        let late: BTreeSet<IpFamily> = passed.unwritten.iter().map(|key| key.address.family()).collect();
        for family in IpFamily::BOTH.into_iter().filter(|family| !late.contains(family)) {
            self.in_line(family, now);
        }
        if late.is_empty() {
            self.metrics.changes.services_pending.set(0);
            self.metrics.changes.endpoints_pending.set(0);
        } else {
            self.metrics.sync_failures.inc();
        }
        self.health().set_node_eligible(passed.is_node_eligible);
        self.note(passed);
    }

    fn note(&self, passed: Passed<'_>) {
        self.metrics.frontends.set(passed.frontends as i64);
        self.metrics.unwritten_frontends.set(passed.unwritten.len() as i64);
        self.metrics.set_fill(&passed.fill);
        let mut status = lock(&self.status);
        status.frontends = passed.frontends;
        status.unwritten_frontends = passed.unwritten.len();
        status.tables = passed.fill.into_iter().map(Into::into).collect();
    }

    fn in_line(&self, family: IpFamily, now: Timestamp) {
        let label = [family_label(family)];
        self.health().updated(family, now);
        self.metrics.sync_last_timestamp.with_label_values(&label).set(seconds(now));
        let programmed = self.metrics.network_programming.with_label_values(&label);
        let done: Vec<_> = lock(&self.triggered).extract_if(.., |one| one.family == family).collect();
        done.iter().for_each(|one| programmed.observe(one.age(now)));
        lock(&self.programmed).extend(done);
    }

    /// Names are as far as the last pass.
    pub fn answered(&self) {
        let now = Timestamp::now();
        for done in std::mem::take(&mut *lock(&self.programmed)) {
            let answered = self.metrics.name_programming.with_label_values(&[family_label(done.family)]);
            answered.observe(done.age(now));
        }
    }

    /// How many service ports lack an endpoint here that others have.
    pub fn set_no_local_endpoints(&self, kind: FrontendKind, family: IpFamily, count: usize) {
        let policy = if kind == FrontendKind::ClusterIp { "internal" } else { "external" };
        let labels = [policy, family_label(family)];
        self.metrics.no_local_endpoints.with_label_values(&labels).set(count as i64);
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_nanosecond() as f64 / 1e9
}

/// What is guarded is plain data, whole at every moment, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
