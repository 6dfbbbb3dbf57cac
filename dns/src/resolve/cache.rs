//! Forwarded answers, remembered.
//!
//! Nothing about the cluster is ever in here: that is answered from memory as it is. Answers are kept as the bytes of a
//! message, so that what they take is known to the byte, and read again for each client. Positive answers and denials
//! have a store each, so that neither crowds out the other.

mod entry;
mod key;
mod lifetime;

use std::{sync::Arc, time::Duration};

use entry::Entry;
pub(crate) use entry::Popularity;
use hickory_server::proto::{op::Query, rr::LowerName};
pub(crate) use key::CacheKey;
use lifetime::{AnswerKind, Lifetime, lifetime};
use prometheus::IntCounter;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync};

use crate::{
    config::{self, Prefetch, ServeStale, Stored, Verify, Zones},
    observe::metrics::{CacheMetrics, StoreKind},
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
    keep_ttl: bool,
    metrics: CacheMetrics,
}

/// What the cache knows about a question.
pub(crate) enum CacheLookup {
    Fresh(Reply),
    /// Fresh, popular, and about to expire: whoever finds it is to fetch it again.
    Due(Reply, Popularity),
    Stale(Stale),
    Miss,
}

/// An answer that has expired but may be served while the upstream fails.
pub(crate) struct Stale {
    pub reply: Reply,
    pub popularity: Popularity,
    pub verify: Verify,
    /// The upstream was asked a short while ago, or is being asked.
    pub is_recheck_pending: bool,
}

#[derive(Debug)]
struct AnswerStore {
    store: sync::Cache<CacheKey, Arc<Entry>, Weigher, quick_cache::DefaultHashBuilder, Evictions>,
    except: Zones,
    which: StoreKind,
}

/// An answer of usual size counts as this; a larger one as what it is. So a store holds no more answers than it was
/// told, and no more than so many times this.
const UNIT: u64 = 1024;
/// How long an upstream that failed is left alone while stale answers stand in (RFC 8767, section 5).
const RECHECK: Duration = Duration::from_secs(30);

impl Cache {
    pub(crate) fn new(config: &config::Cache, metrics: CacheMetrics) -> Self {
        let config::Cache { zones, success, denial, servfail, prefetch, serve_stale, keep_ttl } = config;
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
            serve_stale: serve_stale.clone(),
            keep_ttl: *keep_ttl,
            metrics,
        }
    }

    pub(crate) fn lookup(&self, question: &Query, flags: QueryFlags) -> CacheLookup {
        let key = key::KeyBuffer::new(question, flags);
        let mut expired = None;
        for answers in [&self.success, &self.denial].into_iter().flatten() {
            let Some(entry) = answers.store.get(key.bytes()) else { continue };
            if let Some(found) = self.fresh(&entry, question) {
                self.metrics.store(answers.which).hits.inc();
                return found;
            }
            expired = expired.or(Some(entry));
        }
        expired.and_then(|entry| self.stale(&entry, question)).map_or(CacheLookup::Miss, CacheLookup::Stale)
    }

    fn fresh(&self, entry: &Entry, question: &Query) -> Option<CacheLookup> {
        let left = entry.left()?;
        let reply = entry.reply(question, if self.keep_ttl { None } else { Some(entry.age()) })?;
        let is_due = self.prefetch.as_ref().is_some_and(|prefetch| entry.hit(prefetch, left));
        Some(if is_due { CacheLookup::Due(reply, entry.popularity()) } else { CacheLookup::Fresh(reply) })
    }

    fn stale(&self, entry: &Entry, question: &Query) -> Option<Stale> {
        let serve = self.serve_stale.as_ref()?;
        if entry.is_failure || entry.expired_for() > serve.duration {
            return None;
        }
        Some(Stale {
            reply: entry.stale_reply(question)?,
            popularity: entry.popularity(),
            verify: serve.verify.clone(),
            is_recheck_pending: entry.begin_recheck(&serve.verify),
        })
    }

    /// Keeps what may be kept, and gives back what clients are to see of it.
    pub(crate) fn store(&self, question: &Query, flags: QueryFlags, mut reply: Reply) -> Reply {
        let name = LowerName::new(question.name());
        if !self.zones.contains(&name) {
            return reply;
        }
        let Some(lifetime) = lifetime(&mut reply, question, &self.limits) else { return reply };
        let (answers, others) = match lifetime.kind {
            AnswerKind::Success => (&self.success, &self.denial),
            AnswerKind::Denial => (&self.denial, &self.success),
            // A failure says nothing new, and must not hide what was known before.
            AnswerKind::Failure if self.serves(question, flags) => return reply,
            AnswerKind::Failure => (&self.denial, &None),
        };
        let key = CacheKey::new(question, flags);
        if let Some(others) = others {
            // A later answer takes the place of the earlier one, whatever its kind.
            others.store.remove(key.bytes());
        }
        if let Some(answers) = answers.as_ref().filter(|answers| !answers.except.contains(&name)) {
            answers.insert(key, question, &reply, &lifetime, &self.metrics);
        }
        reply
    }

    /// Something is there that clients get.
    fn serves(&self, question: &Query, flags: QueryFlags) -> bool {
        let key = key::KeyBuffer::new(question, flags);
        let stores = [&self.success, &self.denial].into_iter().flatten();
        let longest = self.serve_stale.as_ref().map_or(Duration::ZERO, |serve| serve.duration);
        let served = |entry: Arc<Entry>| {
            !entry.is_failure && (entry.left().is_some() || entry.expired_for() < longest)
        };
        stores.filter_map(|answers| answers.store.get(key.bytes())).any(served)
    }

    /// A refresh is over. What came of it is as popular as what it replaces; if nothing did, it is not tried again at
    /// once.
    pub(crate) fn refreshed(&self, question: &Query, flags: QueryFlags, popularity: Popularity) {
        self.each_entry(question, flags, |entry| {
            if entry.awaits_refresh() { entry.defer_recheck(RECHECK) } else { entry.inherit(popularity) }
        });
    }

    pub(crate) fn defer_recheck(&self, question: &Query, flags: QueryFlags) {
        self.each_entry(question, flags, |entry| entry.defer_recheck(RECHECK));
    }

    fn each_entry(&self, question: &Query, flags: QueryFlags, act: impl Fn(&Entry)) {
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

    pub(crate) fn count_stale(&self) {
        self.metrics.served_stale.inc();
    }
}

impl AnswerStore {
    fn new(config: &Stored, which: StoreKind, metrics: &CacheMetrics) -> Option<Self> {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(config.capacity)
            .weight_capacity(u64::try_from(config.capacity).unwrap_or(u64::MAX).saturating_mul(UNIT))
            .build()
            .ok()
            .filter(|_| config.capacity > 0)?;
        let evictions = Evictions(metrics.store(which).evictions.clone());
        let hasher = quick_cache::DefaultHashBuilder::default();
        Some(Self {
            store: sync::Cache::with_options(options, Weigher, hasher, evictions),
            except: config.except.clone(),
            which,
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
        self.store.insert(key, Arc::new(entry));
        let metrics = metrics.store(self.which);
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
