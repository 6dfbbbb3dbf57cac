//! The cache of forwarded answers.
//!
//! It never holds cluster data, which is answered from the snapshot. Answers are cached as the bytes of a message,
//! so that their size is known to the byte, and are decoded for each client. Positive answers and denials have a
//! store each, so that neither evicts the other.

mod entry;
mod key;
mod layout;
mod lifetime;

use std::{net::IpAddr, sync::Arc, time::Duration};

use entry::Entry;
pub(crate) use entry::Popularity;
use hickory_server::proto::{op::Query, rr::LowerName};
pub(crate) use key::CacheKey;
use lifetime::{AnswerKind, Lifetime, lifetime};
use prometheus::IntCounter;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync};

use crate::{
    config::{self, Doubt, LastKnownGood, Prefetch, ServeStale, Stored, Verify, Zones},
    observe::metrics::{CacheMetrics, KnownGood, StoreKind},
    resolve::reply::{QueryFlags, Reply},
};

#[derive(Debug)]
pub(crate) struct Cache {
    zones: Zones,
    success: Option<AnswerStore>,
    denial: Option<AnswerStore>,
    limits: lifetime::Limits,
    prefetch: Option<Prefetch>,
    serve_stale: Option<ServeStale>,
    prefer_positive: bool,
    /// Set if a denial of a name that was resolved just before is doubted.
    doubt: Option<Doubt>,
    keep_ttl: bool,
    metrics: CacheMetrics,
}

/// The result of a lookup.
pub(crate) enum CacheLookup {
    Fresh(Reply),
    /// Fresh, popular, and about to expire: the caller must refresh it.
    Due(Reply, Popularity),
    Stale(Stale),
    Miss,
}

/// A question as octets.
pub struct AskedOctets<'q> {
    /// In lower case, with the root.
    pub name: &'q [u8],
    pub qtype: u16,
    /// The question section.
    pub question: &'q [u8],
    pub flags: QueryFlags,
    pub client: IpAddr,
    /// Set if addresses are shuffled: a random number below another.
    pub shuffle: Option<fn(usize) -> usize>,
}

/// An expired answer that may be served while the upstream fails (RFC 8767).
pub(crate) struct Stale {
    pub reply: Reply,
    pub popularity: Popularity,
    pub verify: Verify,
    /// Whether only a positive answer replaces it.
    pub needs_positive: bool,
    /// Whether to serve it without a query: the upstream failed within the configured recheck time, or a
    /// refresh is in flight.
    pub is_recheck_pending: bool,
}

#[derive(Debug)]
struct AnswerStore {
    store: sync::Cache<CacheKey, Arc<Entry>, Weigher, quick_cache::DefaultHashBuilder, Evictions>,
    except: Zones,
    kind: StoreKind,
}

/// The TTL, in seconds, of a denial that was doubted. RFC 2308, section 5, limits it from above only.
const DOUBTED_TTL: u32 = 5;
/// An answer inherits the clients of an earlier one that expired at most this long ago.
const CLIENTS_KEPT: Duration = Duration::from_secs(60);
/// The time for which a held answer is served before the upstreams are asked again.
const HELD_RECHECK: Duration = Duration::from_secs(5);

/// The minimum weight of an answer; a larger answer weighs its size. So a store holds at most its configured number
/// of answers, and at most that number times this many bytes.
const UNIT: u64 = 1024;

impl Cache {
    /// A Corefile's `serve_stale` replaces the policy.
    pub(crate) fn new(config: &config::Cache, policy: LastKnownGood, metrics: CacheMetrics) -> Self {
        let config::Cache {
            zones,
            success,
            denial,
            servfail,
            prefetch,
            serve_stale,
            prefer_positive,
            keep_ttl,
        } = config;
        let policy = if serve_stale.is_some() { LastKnownGood::Off } else { policy };
        Self {
            zones: zones.clone(),
            success: AnswerStore::new(success, StoreKind::Success, &metrics),
            denial: AnswerStore::new(denial, StoreKind::Denial, &metrics),
            limits: lifetime::Limits {
                success: (success.min_ttl, success.max_ttl),
                denial: (denial.min_ttl, denial.max_ttl),
                failure: *servfail,
            },
            prefetch: prefetch.clone(),
            // An outage is not felt more often than without the policy: a failure would be kept for that time.
            serve_stale: serve_stale.clone().or_else(|| policy.serve_stale(*servfail)),
            prefer_positive: *prefer_positive,
            doubt: policy.doubt(),
            keep_ttl: *keep_ttl,
            metrics,
        }
    }

    /// `client` asks the question; `None` if it is only asked again.
    pub(crate) fn lookup(&self, question: &Query, flags: &QueryFlags, client: Option<IpAddr>) -> CacheLookup {
        let key = key::KeyBuffer::new(question, flags);
        let mut expired: Option<Arc<Entry>> = None;
        for answers in [&self.success, &self.denial].into_iter().flatten() {
            let Some(entry) = answers.store.get(key.bytes()) else { continue };
            if let Some(found) = self.fresh(&entry, question) {
                if let Some(client) = client {
                    entry.record_client(client);
                }
                self.metrics.store(answers.kind).hits.inc();
                return found;
            }
            if self.prefer_positive && answers.kind == StoreKind::Success && self.is_servable(&entry) {
                return self.stale(&entry, question).map_or(CacheLookup::Miss, CacheLookup::Stale);
            }
            if expired.as_ref().is_none_or(|other| other.is_older_than(&entry)) {
                expired = Some(entry);
            }
        }
        expired.and_then(|entry| self.stale(&entry, question)).map_or(CacheLookup::Miss, CacheLookup::Stale)
    }

    /// A fresh answer as octets, for the fast path. Returns `None` for every answer that needs more.
    pub(crate) fn octets(&self, asked: &AskedOctets<'_>) -> Option<Vec<u8>> {
        if self.prefetch.is_some() {
            return None;
        }
        let key = key::KeyBuffer::of_octets(asked.name, asked.qtype, &asked.flags);
        for answers in [&self.success, &self.denial].into_iter().flatten() {
            let Some(entry) = answers.store.get(key.bytes()) else { continue };
            if entry.remaining().is_some() {
                let age = (!self.keep_ttl).then(|| entry.age());
                let reply = entry.octets(asked.question, age, asked.shuffle)?;
                entry.record_client(asked.client);
                self.metrics.requests.inc();
                self.metrics.store(answers.kind).hits.inc();
                return Some(reply);
            }
            if self.prefer_positive && answers.kind == StoreKind::Success {
                return None;
            }
        }
        None
    }

    fn fresh(&self, entry: &Entry, question: &Query) -> Option<CacheLookup> {
        let remaining = entry.remaining()?;
        let reply = entry.reply(question, if self.keep_ttl { None } else { Some(entry.age()) })?;
        let is_due = self.prefetch.as_ref().is_some_and(|prefetch| entry.record_hit(prefetch, remaining));
        Some(if is_due { CacheLookup::Due(reply, entry.popularity()) } else { CacheLookup::Fresh(reply) })
    }

    fn stale(&self, entry: &Entry, question: &Query) -> Option<Stale> {
        let serve = self.serve_stale.as_ref()?;
        if entry.is_failure || entry.expired_for() > serve.duration {
            return None;
        }
        let reply = entry.stale_reply(question, serve.ttl)?;
        let reply_is_negative = !reply.is_positive(question);
        Some(Stale {
            reply,
            popularity: entry.popularity(),
            verify: serve.verify.clone(),
            needs_positive: self.prefer_positive && !reply_is_negative,
            is_recheck_pending: entry.joins_recheck(&serve.verify),
        })
    }

    /// Stores the reply if it is cacheable. Returns it as clients must see it, with its TTLs within the limits.
    pub(crate) fn store(&self, question: &Query, flags: &QueryFlags, mut reply: Reply) -> Reply {
        let name = LowerName::new(question.name());
        if !self.zones.contains(&name) {
            return reply;
        }
        let Some(mut lifetime) = lifetime(&mut reply, question, &self.limits) else { return reply };
        let is_doubted = lifetime.kind == AnswerKind::Denial && self.doubts(question, flags, &reply);
        if is_doubted {
            lifetime.ttl = lifetime.ttl.min(DOUBTED_TTL);
            reply.authorities.iter_mut().for_each(|record| record.ttl = record.ttl.min(DOUBTED_TTL));
        }
        let (answers, other) = match lifetime.kind {
            AnswerKind::Success => (&self.success, &self.denial),
            // A later denial is doubted, too, as long as the answer is there.
            AnswerKind::Denial if self.prefer_positive || is_doubted => (&self.denial, &None),
            AnswerKind::Denial => (&self.denial, &self.success),
            // A failure carries no data, and must not replace a usable answer.
            AnswerKind::Failure if self.has_servable_answer(question, flags) => return reply,
            AnswerKind::Failure => (&self.denial, &None),
        };
        let key = CacheKey::new(question, flags);
        if let Some(other) = other {
            // A later answer replaces the earlier one, even from the other store.
            other.store.remove(key.bytes());
        }
        if let Some(answers) = answers.as_ref().filter(|answers| !answers.except.contains(&name)) {
            answers.insert(key, question, &reply, &lifetime, &self.metrics);
        }
        reply
    }

    /// Whether a reply denies a name that several clients have just resolved.
    pub(crate) fn doubts(&self, question: &Query, flags: &QueryFlags, reply: &Reply) -> bool {
        reply.is_conclusive() && !reply.is_positive(question) && self.doubted_entry(question, flags).is_some()
    }

    /// The answer whose denial would be doubted.
    fn doubted_entry(&self, question: &Query, flags: &QueryFlags) -> Option<Arc<Entry>> {
        let Doubt { window, .. } = self.doubt?;
        let entry = self.success.as_ref()?.store.get(key::KeyBuffer::new(question, flags).bytes())?;
        (entry.has_several_clients() && entry.expired_for() <= window).then_some(entry)
    }

    /// Stores a denial that no upstream contradicts. Returns the reply to clients: the denial, or with the policy
    /// `hold` the last answer.
    pub(crate) fn store_denied(&self, question: &Query, flags: &QueryFlags, denial: Reply) -> Reply {
        let held = self.doubt.filter(|doubt| doubt.holds).and(self.doubted_entry(question, flags));
        let reply = held.and_then(|entry| {
            entry.defer_recheck(HELD_RECHECK);
            entry.stale_reply(question, self.serve_stale.as_ref()?.ttl)
        });
        match reply {
            Some(reply) => {
                self.count_known_good(KnownGood::Held, question);
                reply
            }
            None => {
                self.count_known_good(KnownGood::Denied, question);
                self.store(question, flags, denial)
            }
        }
    }

    /// Whether an answer is cached that clients would get, fresh or stale.
    fn has_servable_answer(&self, question: &Query, flags: &QueryFlags) -> bool {
        let key = key::KeyBuffer::new(question, flags);
        let stores = [&self.success, &self.denial].into_iter().flatten();
        stores.filter_map(|answers| answers.store.get(key.bytes())).any(|entry| self.is_servable(&entry))
    }

    fn is_servable(&self, entry: &Entry) -> bool {
        let max_stale = self.serve_stale.as_ref().map_or(Duration::ZERO, |serve| serve.duration);
        !entry.is_failure && (entry.remaining().is_some() || entry.expired_for() < max_stale)
    }

    /// Ends a refresh. A new answer inherits the popularity of the old one; if there is none, the next refresh has
    /// to wait for the configured recheck time.
    pub(crate) fn finish_refresh(&self, question: &Query, flags: &QueryFlags, popularity: Popularity) {
        self.each_entry(question, flags, |entry| {
            if entry.awaits_refresh() {
                entry.defer_recheck(self.recheck())
            } else {
                entry.inherit(popularity)
            }
        });
    }

    pub(crate) fn defer_recheck(&self, question: &Query, flags: &QueryFlags) {
        self.each_entry(question, flags, |entry| entry.defer_recheck(self.recheck()));
    }

    pub(crate) fn record_client(&self, question: &Query, flags: &QueryFlags, client: IpAddr) {
        self.each_entry(question, flags, |entry| entry.record_client(client));
    }

    fn recheck(&self) -> Duration {
        self.serve_stale.as_ref().map_or(Duration::ZERO, |serve| serve.recheck)
    }

    fn each_entry(&self, question: &Query, flags: &QueryFlags, act: impl Fn(&Entry)) {
        let key = key::KeyBuffer::new(question, flags);
        let stores = [&self.success, &self.denial].into_iter().flatten();
        stores.filter_map(|answers| answers.store.get(key.bytes())).for_each(|entry| act(&entry));
    }

    pub(crate) fn count_request(&self) {
        self.metrics.requests.inc();
    }

    pub(crate) fn count_miss(&self) {
        self.metrics.misses.inc();
    }

    pub(crate) fn count_prefetch(&self) {
        self.metrics.prefetched.inc();
    }

    pub(crate) fn count_known_good(&self, outcome: KnownGood, question: &Query) {
        self.metrics.count_known_good(outcome, question.name());
    }

    pub(crate) fn count_stale(&self) {
        self.metrics.served_stale.inc();
    }
}

impl AnswerStore {
    fn new(config: &Stored, kind: StoreKind, metrics: &CacheMetrics) -> Option<Self> {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(config.capacity)
            .weight_capacity(u64::try_from(config.capacity).unwrap_or(u64::MAX).saturating_mul(UNIT))
            .build()
            .ok()
            .filter(|_| config.capacity > 0)?;
        let evictions = Evictions(metrics.store(kind).evictions.clone());
        let hasher = quick_cache::DefaultHashBuilder::default();
        Some(Self {
            store: sync::Cache::with_options(options, Weigher, hasher, evictions),
            except: config.except.clone(),
            kind,
        })
    }

    fn insert(
        &self,
        key: CacheKey,
        question: &Query,
        reply: &Reply,
        lifetime: &Lifetime,
        metrics: &CacheMetrics,
    ) {
        let Some(entry) = Entry::new(question, reply, lifetime) else { return };
        if let Some(before) = self.store.get(key.bytes()).filter(|before| before.expired_for() < CLIENTS_KEPT)
        {
            entry.inherit_clients(&before);
        }
        self.store.insert(key, Arc::new(entry));
        let metrics = metrics.store(self.kind);
        metrics.entries.set(i64::try_from(self.store.len()).unwrap_or(i64::MAX));
        metrics.bytes.set(i64::try_from(self.store.weight()).unwrap_or(i64::MAX));
    }
}

#[derive(Debug, Clone)]
struct Weigher;

impl Weighter<CacheKey, Arc<Entry>> for Weigher {
    fn weight(&self, key: &CacheKey, entry: &Arc<Entry>) -> u64 {
        u64::try_from(key.size() + entry.size()).unwrap_or(u64::MAX).max(UNIT)
    }
}

#[derive(Debug, Clone)]
struct Evictions(IntCounter);

impl Lifecycle<CacheKey, Arc<Entry>> for Evictions {
    type RequestState = ();

    fn begin_request(&self) {}

    fn on_evict(&self, (): &mut (), _key: CacheKey, _entry: Arc<Entry>) {
        self.0.inc();
    }
}

#[cfg(test)]
mod tests;
