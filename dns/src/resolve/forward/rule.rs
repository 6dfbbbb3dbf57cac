//! One forwarding rule: selection of upstreams, failover, health and timeouts.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hickory_server::proto::{
    op::Query,
    rr::{LowerName, Name},
};
use rand::seq::SliceRandom as _;
use rustls::ClientConfig;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, interval, timeout},
};
use tracing::{info, warn};

use super::{
    bootstrap::{self, Resolvers},
    connection::Limits,
    context::ServerContext,
    failure::Failure,
    hedge::{Attempt, hedge},
    https::Https,
    loops, probe,
    stream::Dial,
    targets::Targets,
    tls::{self, TlsError},
    upstream::{Budget, Target, Upstream},
};
use crate::{
    config::{self, Forward, HealthCheck, Policy, UpstreamProtocol},
    observe::metrics::Refusal,
    resolve::reply::{QueryFlags, Reply},
};

#[derive(Debug)]
pub(super) struct Rule {
    config: Forward,
    context: ServerContext,
    /// Set if any upstream uses TLS.
    tls: Option<Arc<ClientConfig>>,
    targets: Mutex<Targets>,
    /// Replaced as a whole when a watched file or the addresses of a name change.
    upstreams: ArcSwap<Vec<Arc<Upstream>>>,
    /// Notified when the upstreams are replaced; `None` if none has to be resolved.
    resolved: Option<Notify>,
    /// The next upstream of the round robin.
    round_robin: AtomicUsize,
    in_flight: Semaphore,
}

/// The result of a rule.
pub(super) enum RuleResult {
    Final(Reply),
    /// To be used only if no later rule matches the name.
    Next(Reply),
}

/// Timeout of all tries together: a stub resolver waits for 5 s.
const TIME: Duration = Duration::from_secs(5);
const MAX_TRIES: usize = 6;
/// The limit of tries for any `max_connect_attempts`.
const MOST_TRIES: usize = 64;
/// How long a query waits for the first addresses of upstreams that are given by name.
const NAMES_TIME: Duration = Duration::from_secs(2);
/// Packets beyond one per try: for retries without 0x20 or EDNS, and for truncated answers. One for each try, so that
/// silent upstreams, which get a query without EDNS as well, do not use up the packet of the last upstream.
const SPARE_PACKETS: u32 = 6;
/// The upstreams that are asked for a second opinion on a denial, and the time for it. The client waits meanwhile.
const MAX_OPINIONS: usize = 4;
const OPINION_TIME: Duration = Duration::from_secs(1);
/// The default of `max_concurrent`: a query in flight takes memory.
pub(super) const MAX_IN_FLIGHT: u32 = 10_000;
/// The interval at which files are checked, and the number of intervals between loop probes of an excluded
/// upstream.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const POLLS_PER_LOOP_CHECK: u32 = 30;

impl Rule {
    pub(super) fn start(config: &Forward, context: &ServerContext) -> Result<Arc<Self>, TlsError> {
        let targets = Targets::new(config);
        let hosts = targets.hosts();
        let tls = needs_tls(config).then(|| tls::client_config(&config.tls)).transpose()?;
        let limit = config.max_concurrent.unwrap_or(MAX_IN_FLIGHT);
        let rule = Arc::new(Self {
            config: config.clone(),
            context: context.clone(),
            tls,
            targets: Mutex::new(targets),
            upstreams: ArcSwap::default(),
            resolved: (!hosts.is_empty()).then(Notify::new),
            round_robin: AtomicUsize::new(0),
            in_flight: Semaphore::new(usize::try_from(limit).unwrap_or(Semaphore::MAX_PERMITS)),
        });
        rule.set_upstreams(&rule.current_targets())?;
        tokio::spawn(watch_files(Arc::downgrade(&rule)));
        for host in hosts {
            let weak = Arc::downgrade(&rule);
            let update = move || weak.upgrade().map(|rule| rule.update()).is_some();
            tokio::spawn(bootstrap::keep_resolved(host, Resolvers::new(config, context), update));
        }
        Ok(rule)
    }

    pub(super) fn matches(&self, name: &LowerName) -> bool {
        self.config.takes(name)
    }

    pub(super) async fn query(&self, question: &Query, flags: &QueryFlags) -> RuleResult {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            self.context.metrics.forward().rejects.inc();
            self.context.metrics.refusals().count(Refusal::MaxConcurrent);
            return RuleResult::Final(Reply::refused());
        };
        self.wait_for_names().await;
        let upstreams = self.select_upstreams();
        let tries = self.max_tries(upstreams.len());
        let budget = Budget::of(u32::try_from(tries).unwrap_or_default() + SPARE_PACKETS);
        // An answer that only leads to the next upstream does not count as an attempt.
        let started = AtomicU32::new(0);
        let may_start = || {
            let limit = self.config.max_attempts.filter(|limit| *limit > 0).unwrap_or(u32::MAX);
            started.fetch_add(1, Relaxed) < limit
        };
        let attempts = upstreams.iter().cycle().take(tries).take_while(|_| may_start()).map(|upstream| {
            let answer = async {
                let answer = self.query_one(upstream, question, flags, &budget).await;
                if matches!(answer, Err(Failure::FailoverRcode(..))) {
                    started.fetch_sub(1, Relaxed);
                }
                answer
            };
            Attempt { hedging_delay: upstream.hedging_delay(), answer }
        });
        match hedge(attempts, TIME.max(self.config.read_timeout)).await {
            Ok(reply) => self.result(reply, question),
            Err(failures) => self.result(final_reply(failures), question),
        }
    }

    /// The limit of tries of all kinds.
    fn max_tries(&self, upstreams: usize) -> usize {
        match self.config.max_attempts {
            None => (upstreams * 2).min(MAX_TRIES),
            Some(_) if upstreams == 0 => 0,
            Some(0) => MOST_TRIES,
            Some(limit) => {
                usize::try_from(limit).unwrap_or(MOST_TRIES).saturating_add(upstreams).min(MOST_TRIES)
            }
        }
    }

    /// Waits for the first addresses of upstreams that are given by name.
    async fn wait_for_names(&self) {
        let Some(resolved) = &self.resolved else { return };
        let mut resolved = pin!(resolved.notified());
        // Before the check, so that no notification is missed.
        resolved.as_mut().enable();
        if self.upstreams.load().is_empty() {
            let _ = timeout(NAMES_TIME, resolved).await;
        }
    }

    /// The first positive reply of some upstreams, which are queried at the same time, among them perhaps the one that
    /// denied the name. `None` if there is none in time.
    pub(super) async fn find_positive(&self, question: &Query, flags: &QueryFlags) -> Option<Reply> {
        let upstreams = self.select_upstreams();
        let asked = || upstreams.iter().take(MAX_OPINIONS);
        let budget = Budget::of(u32::try_from(asked().count()).unwrap_or_default() + SPARE_PACKETS);
        let mut replies: FuturesUnordered<_> =
            asked().map(|upstream| self.query_one(upstream, question, flags, &budget)).collect();
        let first = async {
            while let Some(reply) = replies.next().await {
                if let Some(reply) = reply.ok().filter(|reply| reply.is_positive(question)) {
                    return Some(reply);
                }
            }
            None
        };
        timeout(OPINION_TIME, first).await.ok().flatten()
    }

    /// The upstreams to query, in order. Empty if there are none, or if all are loops, or down with `failfast`.
    fn select_upstreams(&self) -> Vec<Arc<Upstream>> {
        let all = self.upstreams.load();
        let is_usable = |upstream: &&Arc<Upstream>| !upstream.loops.load(Relaxed);
        let is_up = |upstream: &&Arc<Upstream>| !upstream.is_down(self.config.max_fails);
        let mut chosen: Vec<_> = all.iter().filter(is_usable).filter(is_up).cloned().collect();
        if chosen.is_empty() && all.iter().any(|upstream| is_usable(&upstream)) {
            self.context.metrics.forward().all_down.inc();
            if !self.config.fail_fast {
                // The probes alone may fail, so all are tried.
                chosen = all.iter().filter(is_usable).cloned().collect();
                chosen.shuffle(&mut rand::rng());
            }
            return chosen;
        }
        match self.config.policy {
            Policy::Sequential => {}
            Policy::Random => chosen.shuffle(&mut rand::rng()),
            Policy::RoundRobin if chosen.is_empty() => {}
            Policy::RoundRobin => {
                let first = self.round_robin.fetch_add(1, Relaxed) % chosen.len();
                chosen.rotate_left(first);
            }
        }
        chosen
    }

    async fn query_one(
        &self,
        upstream: &Arc<Upstream>,
        question: &Query,
        flags: &QueryFlags,
        budget: &Budget,
    ) -> Result<Reply, Failure> {
        let report_guard = FailureReport::of(upstream, &self.config.health_check);
        let result = upstream.query(question, flags, budget).await;
        report_guard.report(result.as_ref().err());
        let reply = result?;
        upstream.clear_failures();
        if self.config.failover.contains(&reply.rcode) {
            return Err(Failure::FailoverRcode(reply.rcode, Box::new(reply)));
        }
        Ok(reply)
    }

    fn result(&self, reply: Reply, question: &Query) -> RuleResult {
        let is_inconclusive = self.config.next.contains(&reply.rcode)
            || (self.config.next_on_nodata && reply.is_nodata(question));
        if is_inconclusive { RuleResult::Next(reply) } else { RuleResult::Final(reply) }
    }

    /// Replaces the upstreams if they have changed.
    pub(super) fn update(&self) {
        let now = self.current_targets();
        let before: Vec<Target> =
            self.upstreams.load().iter().map(|upstream| upstream.target.clone()).collect();
        if now == before {
            return;
        }
        match self.set_upstreams(&now) {
            Ok(()) => info!(zone = %self.config.from, upstreams = now.len(), "upstreams changed"),
            Err(error) => warn!(%error, "cannot use the changed list of upstreams"),
        }
        if let Some(resolved) = &self.resolved {
            resolved.notify_waiters();
        }
    }

    fn current_targets(&self) -> Vec<Target> {
        self.targets().current(&self.context.own.load())
    }

    fn targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the upstreams. Those that remain keep their state.
    fn set_upstreams(&self, targets: &[Target]) -> Result<(), TlsError> {
        if targets.is_empty() {
            warn!(zone = %self.config.from, "no upstream, forwarded queries fail with SERVFAIL");
        }
        let old = self.upstreams.load();
        let upstream = |target: &Target| match old.iter().find(|upstream| upstream.target == *target) {
            Some(known) => Ok(Arc::clone(known)),
            None => self.upstream(target).map(Arc::new),
        };
        let all = targets.iter().map(upstream).collect::<Result<Vec<_>, _>>()?;
        self.upstreams.store(Arc::new(all));
        Ok(())
    }

    fn upstream(&self, target: &Target) -> Result<Upstream, TlsError> {
        let name = || tls::server_name(target.server_name.as_deref(), target.address.ip());
        let dial = match (target.protocol, &self.tls) {
            (UpstreamProtocol::Tls, Some(config)) => Dial::Tls { config: Arc::clone(config), name: name()? },
            (UpstreamProtocol::Https, Some(config)) => Dial::Https(Arc::new(Https::new(
                config,
                name()?,
                target.address.port(),
                self.config.doh_method,
            ))),
            _ if self.config.force_tcp => Dial::TcpOnly,
            _ => Dial::TcpFallback,
        };
        let Forward { expire, max_age, max_idle, source, read_timeout, .. } = self.config;
        let limits = Limits { expire, max_age, max_idle, source };
        let metrics = self.context.metrics.upstream(&target.address.to_string());
        Ok(Upstream::new(target.clone(), dial, limits, read_timeout, metrics))
    }

    /// Probes the upstreams that were never probed for a loop, and with `again` those that were found to loop.
    async fn check_for_loops(&self, again: bool) {
        let all = self.upstreams.load_full();
        let is_suspect = |upstream: &&Arc<Upstream>| {
            !upstream.checked_for_loops.swap(true, Relaxed) || (again && upstream.loops.load(Relaxed))
        };
        let suspects: Vec<_> = all.iter().filter(is_suspect).cloned().collect();
        loops::probe_all(&self.context.loops, &suspects, &Name::from(&self.config.from)).await;
    }
}

#[cfg(test)]
impl Rule {
    pub(super) fn fail_all(&self) {
        self.upstreams.load().iter().for_each(|upstream| {
            upstream.count_failure();
        });
    }
}

fn needs_tls(config: &Forward) -> bool {
    let is_encrypted = |upstream: &config::Upstream| match upstream {
        config::Upstream::Server { protocol, .. } | config::Upstream::Host { protocol, .. } => {
            *protocol != UpstreamProtocol::Dns
        }
        config::Upstream::ResolvConf(_) => false,
    };
    config.to.iter().any(is_encrypted)
}

/// Watches the files that list upstreams, and probes the excluded upstreams, until the rule is dropped.
async fn watch_files(rule: Weak<Rule>) {
    let mut polls = interval(POLL_INTERVAL);
    for poll in 0_u32.. {
        polls.tick().await;
        let Some(rule) = rule.upgrade() else { return };
        rule.update();
        rule.upstreams.load().iter().for_each(|upstream| upstream.close_expired());
        // Not in the first interval: the listeners that a looping probe would reach may not be bound yet.
        if poll > 0 && rule.context.detect_loops {
            rule.check_for_loops(poll % POLLS_PER_LOOP_CHECK == 0).await;
        }
    }
}

/// The last reply with a `failover` rcode, or SERVFAIL if there is none.
fn final_reply(failures: Vec<Failure>) -> Reply {
    let mut replies = failures.into_iter().rev().filter_map(|failure| match failure {
        Failure::FailoverRcode(_, reply) => Some(*reply),
        Failure::Question(_)
        | Failure::Network(_)
        | Failure::Http(_)
        | Failure::Timeout
        | Failure::Malformed(_)
        | Failure::Foreign
        | Failure::WrongCase
        | Failure::NoQuestion
        | Failure::BudgetSpent => None,
    });
    replies.next().unwrap_or_else(Reply::servfail)
}

/// Starts probes of an upstream after a failed query, and after one that was cancelled beyond the hedging delay
/// because another upstream was faster.
struct FailureReport<'a> {
    upstream: &'a Arc<Upstream>,
    check: &'a HealthCheck,
    since: Instant,
    is_reported: bool,
}

impl<'a> FailureReport<'a> {
    fn of(upstream: &'a Arc<Upstream>, check: &'a HealthCheck) -> Self {
        Self { upstream, check, since: Instant::now(), is_reported: false }
    }

    fn report(mut self, failure: Option<&Failure>) {
        self.is_reported = true;
        if failure.is_some_and(Failure::is_upstream_failure) {
            self.upstream.metrics.count_failure();
            probe::start(self.upstream, self.check);
        }
    }
}

impl Drop for FailureReport<'_> {
    fn drop(&mut self) {
        if !self.is_reported && self.since.elapsed() >= self.upstream.hedging_delay() {
            probe::start(self.upstream, self.check);
        }
    }
}
