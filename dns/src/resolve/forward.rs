//! Forwarding to upstreams, with the cache.
//!
//! A [`Forwarder`] belongs to one server block. It tries the block's rules in order and returns the upstream's
//! reply complete: the rcode, all sections, and the header bits that the upstream sets.
//!
//! ```text
//!  query ─> cache ─> in flight ─> rule ─> hedge ─> upstream ─> udp or stream ─> reply ─> cache
//!           (hit)    (coalesced)          (hedging delay,
//!                                          failover)
//! ```
//!
//! A query that loops back to this server joins the same query in flight, so a loop does not multiply queries.

mod bootstrap;
mod connection;
mod context;
mod failure;
#[cfg(test)]
pub(crate) mod fake;
mod hedge;
mod https;
mod in_flight;
mod loops;
mod probe;
mod resolv_conf;
mod rtt;
mod rule;
mod stream;
mod targets;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod udp;
mod upstream;
mod upstream_query;

use std::{net::IpAddr, sync::Arc, time::Duration};

pub use context::{OwnAddresses, ServerContext};
use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::LowerName,
};
use in_flight::InFlight;
pub use loops::LoopDetector;
use prometheus::IntCounter;
use rule::{Rule, RuleResult};
pub use tls::TlsError;

use crate::{
    config::{self, Verify},
    observe::metrics::{CacheMetrics, KnownGood, Refusal},
    resolve::{
        cache::{AskedOctets, Cache, CacheKey, CacheLookup, Popularity, Stale},
        reply::{EdnsOptions, QueryFlags, Reply},
    },
};

/// The rules and the cache of one server block.
#[derive(Debug, Clone)]
pub struct Forwarder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: Vec<Arc<Rule>>,
    alternates: Vec<Alternate>,
    cache: Option<Cache>,
    in_flight: InFlight<CacheKey, Reply>,
    coalesced: IntCounter,
    context: ServerContext,
}

/// The rule for answers with some response codes.
#[derive(Debug)]
struct Alternate {
    original: bool,
    rcodes: Vec<ResponseCode>,
    rule: Arc<Rule>,
}

impl Alternate {
    fn start(config: &config::Alternate, context: &ServerContext) -> Result<Self, TlsError> {
        let rule = Rule::start(&config.forward, context)?;
        Ok(Self { original: config.original, rcodes: config.rcodes.clone(), rule })
    }
}

impl Forwarder {
    /// Must be called within a runtime: its tasks watch files and probe upstreams, and end with the forwarder.
    pub fn start(
        (rules, alternates): (&[config::Forward], &[config::Alternate]),
        cache: Option<(&config::Cache, CacheMetrics)>,
        context: &ServerContext,
    ) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Shared {
            rules: rules.iter().map(|rule| Rule::start(rule, context)).collect::<Result<_, _>>()?,
            alternates: alternates
                .iter()
                .map(|one| Alternate::start(one, context))
                .collect::<Result<_, _>>()?,
            cache: cache.map(|(config, metrics)| Cache::new(config, context.last_known_good, metrics)),
            in_flight: InFlight::default(),
            coalesced: context.metrics.forward().coalesced,
            context: context.clone(),
        })))
    }

    /// The limit of queries in flight, by the least `max_concurrent` of the rules.
    pub fn max_in_flight(rules: &[config::Forward]) -> usize {
        let limits = rules.iter().map(|rule| rule.max_concurrent.unwrap_or(rule::MAX_IN_FLIGHT));
        limits.min().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
    }

    /// The cached answer. Does not block; a refresh runs in a task of its own.
    pub fn cached(&self, question: &Query, flags: &QueryFlags, client: IpAddr) -> Option<Reply> {
        let cache = self.0.cache.as_ref()?;
        cache.count_request();
        match cache.lookup(question, flags, Some(client)) {
            CacheLookup::Fresh(reply) => Some(reply.mask_ad(flags)),
            CacheLookup::Due(reply, popularity) => {
                self.refresh(question, flags, popularity);
                Some(reply.mask_ad(flags))
            }
            CacheLookup::Stale(stale) if stale.is_recheck_pending || stale.verify == Verify::Immediate => {
                if !stale.is_recheck_pending {
                    self.refresh(question, flags, stale.popularity);
                }
                cache.count_stale();
                Some(stale.reply.mask_ad(flags))
            }
            CacheLookup::Stale(_) | CacheLookup::Miss => None,
        }
    }

    /// A fresh cached answer as octets: its id and flags but AD and the rcode are to be set. Returns `None` for every
    /// answer that needs more.
    pub fn cached_octets(&self, asked: &AskedOctets<'_>) -> Option<Vec<u8>> {
        self.0.cache.as_ref()?.octets(asked)
    }

    /// Notes a client that got the answer of [`Self::resolve`].
    pub fn record_client(&self, question: &Query, flags: &QueryFlags, client: IpAddr) {
        if let Some(cache) = &self.0.cache {
            cache.record_client(question, flags, client);
        }
    }

    /// The answer of the upstreams, after a miss in [`Self::cached`]. A name that no rule matches is REFUSED.
    pub async fn resolve(&self, question: &Query, flags: &QueryFlags) -> Reply {
        if self.0.context.loops.is_own_probe(question) {
            return Reply::refused();
        }
        if let Some(cache) = &self.0.cache {
            cache.count_miss();
        }
        let mut reply = match self.0.cache.as_ref().map(|cache| cache.lookup(question, flags, None)) {
            Some(CacheLookup::Stale(stale)) => self.resolve_or_stale(question, flags, stale).await,
            Some(CacheLookup::Fresh(_) | CacheLookup::Due(..) | CacheLookup::Miss) | None => {
                self.0.resolve_once(question, flags).await
            }
        };
        reply.restore_case(question);
        reply.mask_ad(flags)
    }

    /// The reply to a query that exceeds the limit of pending queries.
    pub fn refuse(&self) -> Reply {
        self.0.context.metrics.forward().rejects.inc();
        self.0.context.metrics.refusals().count(Refusal::Pending);
        Reply::refused()
    }

    /// Queries the upstreams, with the stale answer as the fallback.
    async fn resolve_or_stale(&self, question: &Query, flags: &QueryFlags, stale: Stale) -> Reply {
        let time = match stale.verify {
            Verify::First(Some(time)) => time,
            Verify::First(None) | Verify::Immediate => NO_LIMIT,
        };
        // The query continues after the timeout: otherwise an upstream that is slightly slower would never refresh
        // the cache.
        let (shared, owned) = (Arc::clone(&self.0), (question.clone(), flags.clone()));
        let resolving = tokio::spawn(async move { shared.resolve_once(&owned.0, &owned.1).await });
        match tokio::time::timeout(time, resolving).await {
            Ok(Ok(reply))
                if reply.is_conclusive() && (!stale.needs_positive || reply.is_positive(question)) =>
            {
                reply
            }
            Ok(Ok(reply)) if reply.is_conclusive() => {
                self.0.serve_stale(question, flags, stale.reply, KnownGood::Held)
            }
            Ok(_) | Err(_) => self.0.serve_stale(question, flags, stale.reply, KnownGood::Stale),
        }
    }

    /// Refreshes an answer in the background.
    fn refresh(&self, question: &Query, flags: &QueryFlags, popularity: Popularity) {
        let (shared, question, flags) = (Arc::clone(&self.0), question.clone(), flags.clone());
        if let Some(cache) = &shared.cache {
            cache.count_prefetch();
        }
        tokio::spawn(async move {
            let reply = shared.resolve_once(&question, &flags).await;
            if let Some(cache) = &shared.cache {
                if !reply.is_conclusive() {
                    cache.count_known_good(KnownGood::Stale, &question);
                }
                cache.finish_refresh(&question, &flags, popularity);
            }
        });
    }
}

/// Longer than a query can take: [`Rule`] has a timeout of its own.
const NO_LIMIT: Duration = Duration::from_secs(60);

impl Shared {
    /// Resolves a question, once for all clients with the same key at the same time. AD is not part of the key.
    async fn resolve_once(&self, question: &Query, flags: &QueryFlags) -> Reply {
        let key = CacheKey::new(question, flags);
        self.in_flight.join(key, &self.coalesced, || self.query_rules(question, flags)).await
    }

    async fn query_rules(&self, question: &Query, flags: &QueryFlags) -> Reply {
        let name = LowerName::new(question.name());
        let (mut last, mut concluded) = (Reply::refused(), None);
        for rule in self.rules.iter().filter(|rule| rule.matches(&name)) {
            match rule.query(question, flags).await {
                RuleResult::Final(reply) => {
                    (last, concluded) = (reply, Some(rule));
                    break;
                }
                RuleResult::Next(reply) => last = reply,
            }
        }
        if let Some(alternate) = self.alternates.iter().find(|other| other.rcodes.contains(&last.rcode)) {
            let plain = QueryFlags { options: EdnsOptions::default(), ..flags.clone() };
            let asked = if alternate.original { &plain } else { flags };
            let (RuleResult::Final(reply) | RuleResult::Next(reply)) =
                alternate.rule.query(question, asked).await;
            (last, concluded) = (reply, Some(&alternate.rule));
        }
        match concluded {
            Some(rule) => self.conclude(rule, question, flags, last).await,
            None => self.store(question, flags, last),
        }
    }

    /// Stores a reply, after a second opinion if it denies a name that was resolved just before.
    async fn conclude(&self, rule: &Rule, question: &Query, flags: &QueryFlags, reply: Reply) -> Reply {
        let Some(cache) = &self.cache else { return reply };
        if !cache.doubts(question, flags, &reply) {
            return cache.store(question, flags, reply);
        }
        match rule.find_positive(question, flags).await {
            Some(positive) => {
                cache.count_known_good(KnownGood::Contradicted, question);
                cache.store(question, flags, positive)
            }
            None => cache.store_denied(question, flags, reply),
        }
    }

    fn store(&self, question: &Query, flags: &QueryFlags, reply: Reply) -> Reply {
        match &self.cache {
            Some(cache) => cache.store(question, flags, reply),
            None => reply,
        }
    }

    fn serve_stale(&self, question: &Query, flags: &QueryFlags, reply: Reply, outcome: KnownGood) -> Reply {
        if let Some(cache) = &self.cache {
            cache.count_known_good(outcome, question);
            cache.defer_recheck(question, flags);
            cache.count_stale();
        }
        reply
    }
}
