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
use in_flight::Flights;
pub use loops::Loops;
use prometheus::IntCounter;
pub use rule::OwnAddresses;
use rule::{Outcome, Rule};
pub use tls::TlsError;

use crate::{
    config::{self, Verify},
    observe::{
        heartbeat::Pulse,
        metrics::{CacheMetrics, Metrics},
    },
    resolve::{
        cache::{Cache, Found, Key, Popularity, Stale},
        reply::{Reply, Wants},
    },
};

/// What all forwarders of a server share.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub metrics: Arc<Metrics>,
    /// Where this server can be reached, as far as its sockets tell: never forwarded to.
    pub own: Arc<ArcSwap<OwnAddresses>>,
    pub loops: Arc<Loops>,
    /// Find out whether an upstream leads back here.
    pub detect_loops: bool,
    pub pulse: Pulse,
}

/// What forwards for one server block, with its cache.
#[derive(Debug, Clone)]
pub struct Forwarder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: Vec<Arc<Rule>>,
    cache: Option<Cache>,
    flights: Flights<Key, Reply>,
    coalesced: IntCounter,
    surroundings: Surroundings,
}

impl Forwarder {
    /// Must be called within a runtime: files are followed and upstreams probed by tasks that end with the forwarder.
    pub fn start(
        rules: &[config::Forward],
        cache: Option<(&config::Cache, CacheMetrics)>,
        surroundings: &Surroundings,
    ) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Shared {
            rules: rules.iter().map(|rule| Rule::start(rule, surroundings)).collect::<Result<_, _>>()?,
            cache: cache.map(|(config, metrics)| Cache::new(config, metrics)),
            flights: Flights::default(),
            coalesced: surroundings.metrics.forward().coalesced,
            surroundings: surroundings.clone(),
        })))
    }

    /// The answer, if it is remembered: neither waits nor asks anybody.
    pub fn cached(&self, question: &Query, wants: Wants) -> Option<Reply> {
        let cache = self.0.cache.as_ref()?;
        cache.is_asked();
        match cache.look(question, wants) {
            Found::Fresh(reply) => Some(reply.masked(wants)),
            Found::Due(reply, popularity) => {
                self.refresh(question, wants, popularity);
                Some(reply.masked(wants))
            }
            Found::Stale(stale) if stale.must_wait || stale.verify == Verify::Immediate => {
                if !stale.must_wait {
                    self.refresh(question, wants, stale.popularity);
                }
                cache.serves_stale();
                Some(stale.reply.masked(wants))
            }
            Found::Stale(_) | Found::Nothing => None,
        }
    }

    /// The answer that [`Self::cached`] did not have, or the refusal that stands for it. Names that no rule takes are
    /// REFUSED.
    pub async fn resolve(&self, question: &Query, wants: Wants) -> Reply {
        if self.0.surroundings.loops.came_back(question) {
            return Reply::refused();
        }
        if let Some(cache) = &self.0.cache {
            cache.misses();
        }
        let mut reply = match self.0.cache.as_ref().map(|cache| cache.look(question, wants)) {
            Some(Found::Stale(stale)) => self.verified(question, wants, stale).await,
            Some(Found::Fresh(_) | Found::Due(..) | Found::Nothing) | None => {
                self.0.asked_once(question, wants).await
            }
        };
        reply.name_after(question);
        reply.masked(wants)
    }

    /// When as many answers are waited for as there may be.
    pub fn refuse(&self) -> Reply {
        self.0.surroundings.metrics.forward().rejects.inc();
        Reply::refused()
    }

    /// What the upstreams say, or else what they said before.
    async fn verified(&self, question: &Query, wants: Wants, stale: Stale) -> Reply {
        let time = match stale.verify {
            Verify::First(Some(time)) => time,
            Verify::First(None) | Verify::Immediate => NO_LIMIT,
        };
        // It goes on when the client waits no longer: an upstream that is a little slower would never be heard.
        let (shared, asked) = (Arc::clone(&self.0), question.clone());
        let asking = tokio::spawn(async move { shared.asked_once(&asked, wants).await });
        match tokio::time::timeout(time, asking).await {
            Ok(Ok(reply)) if reply.is_news() => reply,
            Ok(_) | Err(_) => self.0.keep_stale(question, wants, stale.reply),
        }
    }

    /// Asks behind the client's back.
    fn refresh(&self, question: &Query, wants: Wants, popularity: Popularity) {
        let (shared, question) = (Arc::clone(&self.0), question.clone());
        if let Some(cache) = &shared.cache {
            cache.prefetches();
        }
        tokio::spawn(async move {
            shared.asked_once(&question, wants).await;
            if let Some(cache) = &shared.cache {
                cache.refreshed(&question, wants, popularity);
            }
        });
    }
}

/// A question is given up by itself well before that.
const NO_LIMIT: Duration = Duration::from_secs(60);

impl Shared {
    /// Together with everybody who asks the same now. What AD a client wants is not part of the question.
    async fn asked_once(&self, question: &Query, wants: Wants) -> Reply {
        let key = Key::new(question, wants);
        self.flights.join(key, &self.coalesced, || self.ask(question, wants)).await
    }

    async fn ask(&self, question: &Query, wants: Wants) -> Reply {
        let name = LowerName::new(question.name());
        let mut last = Reply::refused();
        for rule in self.rules.iter().filter(|rule| rule.takes(&name)) {
            match rule.ask(question, wants).await {
                Outcome::Final(reply) => return self.remember(question, wants, reply),
                Outcome::Next(reply) => last = reply,
            }
        }
        self.remember(question, wants, last)
    }

    fn remember(&self, question: &Query, wants: Wants, reply: Reply) -> Reply {
        match &self.cache {
            Some(cache) => cache.store(question, wants, reply),
            None => reply,
        }
    }

    fn keep_stale(&self, question: &Query, wants: Wants, reply: Reply) -> Reply {
        if let Some(cache) = &self.cache {
            cache.put_off(question, wants);
            cache.serves_stale();
        }
        reply
    }
}
