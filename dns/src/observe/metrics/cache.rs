//! The metrics of the cache.

use std::fmt;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::register::Register;
use crate::observe::alarms::{Alarm, Alarms};

#[derive(Debug, Clone)]
pub(super) struct Families {
    entries: IntGaugeVec,
    bytes: IntGaugeVec,
    hits: IntCounterVec,
    misses: IntCounterVec,
    requests: IntCounterVec,
    prefetched: IntCounterVec,
    served_stale: IntCounterVec,
    evictions: IntCounterVec,
    last_known_good: IntCounterVec,
}

named_enum! {
    /// The label `outcome` of `cache_last_known_good_total`: what the upstreams said of a name with a known answer, and
    /// what became of it.
    pub enum KnownGood {
        /// All upstreams failed, and the expired answer was served.
        Stale = "stale",
        /// One upstream denied the name, another one did not.
        Contradicted = "contradicted",
        /// All upstreams denied the name; the denial was served, and cached for seconds only.
        Denied = "denied",
        /// All upstreams denied the name, and the expired answer was served.
        Held = "held",
    }
}

named_enum! {
    /// The label `type` of the cache's metrics: positive and negative answers have a store each.
    pub enum StoreKind {
        Success = "success",
        Denial = "denial",
    }
}

/// The counters of one cache.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    stores: [StoreMetrics; StoreKind::COUNT],
    pub misses: IntCounter,
    pub requests: IntCounter,
    pub prefetched: IntCounter,
    pub served_stale: IntCounter,
    last_known_good: [IntCounter; KnownGood::COUNT],
    alarms: Alarms,
}

#[derive(Debug, Clone)]
pub struct StoreMetrics {
    pub entries: IntGauge,
    pub bytes: IntGauge,
    pub hits: IntCounter,
    pub evictions: IntCounter,
}

impl Families {
    pub(super) fn new(new: &Register<'_>) -> Self {
        const CACHE: [&str; 3] = ["server", "zones", "view"];
        const STORE: [&str; 4] = ["server", "type", "zones", "view"];
        Self {
            entries: new.gauges("cache_entries", "Cached answers.", &STORE),
            bytes: new.gauges("cache_bytes", "Memory of the cached answers.", &STORE),
            hits: new.counters("cache_hits_total", "Queries answered from the cache.", &STORE),
            misses: new.counters("cache_misses_total", "Queries not answered from the cache.", &CACHE),
            requests: new.counters("cache_requests_total", "Queries looked up in the cache.", &CACHE),
            prefetched: new.counters("cache_prefetch_total", "Answers refreshed in the background.", &CACHE),
            served_stale: new.counters(
                "cache_served_stale_total",
                "Queries answered with an expired answer.",
                &CACHE,
            ),
            evictions: new.counters("cache_evictions_total", "Evicted answers.", &STORE),
            last_known_good: new.counters(
                "cache_last_known_good_total",
                "Failures and denials of names that were resolved before, by the outcome.",
                &["server", "zones", "view", "outcome"],
            ),
        }
    }

    pub(super) fn of(&self, server: &str, zones: &str, alarms: &Alarms) -> CacheMetrics {
        let cache = [server, zones, ""];
        let store = |kind: StoreKind| {
            let labels = [server, kind.name(), zones, ""];
            StoreMetrics {
                entries: self.entries.with_label_values(&labels),
                bytes: self.bytes.with_label_values(&labels),
                hits: self.hits.with_label_values(&labels),
                evictions: self.evictions.with_label_values(&labels),
            }
        };
        CacheMetrics {
            stores: StoreKind::ALL.map(store),
            misses: self.misses.with_label_values(&cache),
            requests: self.requests.with_label_values(&cache),
            prefetched: self.prefetched.with_label_values(&cache),
            served_stale: self.served_stale.with_label_values(&cache),
            last_known_good: KnownGood::ALL
                .map(|outcome| self.last_known_good.with_label_values(&[server, zones, "", outcome.name()])),
            alarms: alarms.clone(),
        }
    }
}

impl CacheMetrics {
    pub fn store(&self, store: StoreKind) -> &StoreMetrics {
        &self.stores[store as usize]
    }

    /// Counts what became of a known answer, and raises the alarm.
    pub fn count_known_good(&self, outcome: KnownGood, name: impl fmt::Display) {
        self.last_known_good[outcome as usize].inc();
        let alarm = match outcome {
            KnownGood::Stale => Alarm::Failing,
            KnownGood::Contradicted => Alarm::Contradicted,
            KnownGood::Held => Alarm::Held,
            // The deletion of a record is nothing unusual.
            KnownGood::Denied => return,
        };
        self.alarms.raise(alarm, name);
    }
}
