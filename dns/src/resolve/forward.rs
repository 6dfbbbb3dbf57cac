//! Names that are not answered here: asked of others, and remembered.
//!
//! A [`Forwarder`] belongs to one server block. It follows the block's rules in order; what comes back is the upstream's
//! reply, whole: rcode, all sections, and the bits that are the upstream's to set.
//!
//! ```text
//!  question ─> cache ─> flights ─> rule ─> race ─> upstream ─> udp, or stream ─> answer ─> cache
//!              (hit)    (the same          (patience,
//!                        question once)     failover)
//! ```
//!
//! A question that comes back to this server by whatever way joins its own flight, so no loop can feed itself.

#[cfg(test)]
pub(crate) mod fake;
mod hedge;
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
mod tls;
mod udp;
mod upstream;
mod upstream_query;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hickory_server::proto::{op::Query, rr::LowerName};
use in_flight::InFlight;
pub use loops::LoopDetector;
use prometheus::IntCounter;
pub use rule::OwnAddresses;
use rule::{Rule, RuleResult};
pub use tls::TlsError;

use crate::{
    config::{self, Verify},
    observe::{
        heartbeat::Heartbeat,
        metrics::{CacheMetrics, Metrics},
    },
    resolve::{
        cache::{Cache, CacheKey, CacheLookup, Popularity, Stale},
        reply::{QueryFlags, Reply},
    },
};

/// What all forwarders of a server share.
#[derive(Debug, Clone, Default)]
pub struct ServerContext {
    pub metrics: Arc<Metrics>,
    /// Where this server can be reached, as far as its sockets tell: never forwarded to.
    pub own: Arc<ArcSwap<OwnAddresses>>,
    pub loops: Arc<LoopDetector>,
    /// Find out whether an upstream leads back here.
    pub detect_loops: bool,
    pub heartbeat: Heartbeat,
}

/// What forwards for one server block, with its cache.
#[derive(Debug, Clone)]
pub struct Forwarder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: Vec<Arc<Rule>>,
    cache: Option<Cache>,
    in_flight: InFlight<CacheKey, Reply>,
    coalesced: IntCounter,
    context: ServerContext,
}

impl Forwarder {
    /// Must be called within a runtime: files are followed and upstreams probed by tasks that end with the forwarder.
    pub fn start(
        rules: &[config::Forward],
        cache: Option<(&config::Cache, CacheMetrics)>,
        context: &ServerContext,
    ) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Shared {
            rules: rules.iter().map(|rule| Rule::start(rule, context)).collect::<Result<_, _>>()?,
            cache: cache.map(|(config, metrics)| Cache::new(config, metrics)),
            in_flight: InFlight::default(),
            coalesced: context.metrics.forward().coalesced,
            context: context.clone(),
        })))
    }

    /// The answer, if it is remembered: neither waits nor asks anybody.
    pub fn cached(&self, question: &Query, flags: QueryFlags) -> Option<Reply> {
        let cache = self.0.cache.as_ref()?;
        cache.count_request();
        match cache.lookup(question, flags) {
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

    /// The answer that [`Self::cached`] did not have, or the refusal that stands for it. Names that no rule takes are
    /// REFUSED.
    pub async fn resolve(&self, question: &Query, flags: QueryFlags) -> Reply {
        if self.0.context.loops.is_own_probe(question) {
            return Reply::refused();
        }
        if let Some(cache) = &self.0.cache {
            cache.count_miss();
        }
        let mut reply = match self.0.cache.as_ref().map(|cache| cache.lookup(question, flags)) {
            Some(CacheLookup::Stale(stale)) => self.resolve_or_stale(question, flags, stale).await,
            Some(CacheLookup::Fresh(_) | CacheLookup::Due(..) | CacheLookup::Miss) | None => {
                self.0.resolve_once(question, flags).await
            }
        };
        reply.restore_case(question);
        reply.mask_ad(flags)
    }

    /// When as many answers are waited for as there may be.
    pub fn refuse(&self) -> Reply {
        self.0.context.metrics.forward().rejects.inc();
        Reply::refused()
    }

    /// What the upstreams say, or else what they said before.
    async fn resolve_or_stale(&self, question: &Query, flags: QueryFlags, stale: Stale) -> Reply {
        let time = match stale.verify {
            Verify::First(Some(time)) => time,
            Verify::First(None) | Verify::Immediate => NO_LIMIT,
        };
        // It goes on when the client waits no longer: an upstream that is a little slower would never be heard.
        let (shared, asked) = (Arc::clone(&self.0), question.clone());
        let asking = tokio::spawn(async move { shared.resolve_once(&asked, flags).await });
        match tokio::time::timeout(time, asking).await {
            Ok(Ok(reply)) if reply.is_conclusive() => reply,
            Ok(_) | Err(_) => self.0.keep_stale(question, flags, stale.reply),
        }
    }

    /// Asks behind the client's back.
    fn refresh(&self, question: &Query, flags: QueryFlags, popularity: Popularity) {
        let (shared, question) = (Arc::clone(&self.0), question.clone());
        if let Some(cache) = &shared.cache {
            cache.count_prefetch();
        }
        tokio::spawn(async move {
            shared.resolve_once(&question, flags).await;
            if let Some(cache) = &shared.cache {
                cache.refreshed(&question, flags, popularity);
            }
        });
    }
}

/// A question is given up by itself well before that.
const NO_LIMIT: Duration = Duration::from_secs(60);

impl Shared {
    /// Together with everybody who asks the same now. What AD a client wants is not part of the question.
    async fn resolve_once(&self, question: &Query, flags: QueryFlags) -> Reply {
        let key = CacheKey::new(question, flags);
        self.in_flight.join(key, &self.coalesced, || self.ask(question, flags)).await
    }

    async fn ask(&self, question: &Query, flags: QueryFlags) -> Reply {
        let name = LowerName::new(question.name());
        let mut last = Reply::refused();
        for rule in self.rules.iter().filter(|rule| rule.takes(&name)) {
            match rule.ask(question, flags).await {
                RuleResult::Final(reply) => return self.remember(question, flags, reply),
                RuleResult::Next(reply) => last = reply,
            }
        }
        self.remember(question, flags, last)
    }

    fn remember(&self, question: &Query, flags: QueryFlags, reply: Reply) -> Reply {
        match &self.cache {
            Some(cache) => cache.store(question, flags, reply),
            None => reply,
        }
    }

    fn keep_stale(&self, question: &Query, flags: QueryFlags, reply: Reply) -> Reply {
        if let Some(cache) = &self.cache {
            cache.defer_recheck(question, flags);
            cache.count_stale();
        }
        reply
    }
}
