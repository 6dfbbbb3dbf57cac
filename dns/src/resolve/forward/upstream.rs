//! One upstream server.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{Either, select};
use hickory_server::proto::op::{Message, Query, ResponseCode};
use tokio::time::{Instant, timeout};

use super::{
    connection::{Answer, Limits},
    failure::Failure,
    hedge::within,
    rtt::RttEstimator,
    stream::{Dial, Pool},
    udp,
    upstream_query::{QueryOptions, UpstreamQuery},
};
use crate::{
    config::UpstreamProtocol,
    observe::{clients::SLOW, metrics::UpstreamMetrics},
    resolve::{
        decode::decode,
        reply::{QueryFlags, Reply},
    },
};

/// The address and transport of an upstream, which identify it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub address: SocketAddr,
    pub protocol: UpstreamProtocol,
    /// The name that the certificate must carry; `None` for the address.
    pub server_name: Option<String>,
}

/// The state of one upstream, updated with each query.
#[derive(Debug)]
pub(super) struct Upstream {
    pub target: Target,
    force_tcp: bool,
    /// The timeout of one try.
    read_timeout: Duration,
    source: Option<IpAddr>,
    pool: Pool,
    rtt: Mutex<RttEstimator>,
    /// Consecutive failed probes. A failed query starts the probes.
    fails: AtomicU32,
    /// Whether a probe task is running; it ends when the upstream answers.
    pub probing: AtomicBool,
    /// Whether the upstream forwards queries back to this server.
    pub loops: AtomicBool,
    /// Whether it was probed for a loop at least once.
    pub checked_for_loops: AtomicBool,
    capabilities: Capabilities,
    pub metrics: UpstreamMetrics,
}

/// The capabilities of an upstream over UDP, as observed.
#[derive(Debug, Default)]
struct Capabilities {
    /// It preserves the case of names. An upstream that does not, or ceases to, gets queries without 0x20.
    preserves_case: AtomicBool,
    changes_case: AtomicBool,
    /// It does not support EDNS. An upstream that has returned an OPT does, regardless of later replies, until a query with
    /// EDNS is not answered.
    lacks_edns: AtomicBool,
    supports_edns: AtomicBool,
    /// When it answered a query without EDNS while one with EDNS got no answer.
    dropped_edns: Mutex<Option<Instant>>,
}

/// The packets or connections left for one client query.
#[derive(Debug)]
pub(super) struct Budget(AtomicU32);

/// The wait for the reply to a query with EDNS, of an upstream that never returned an OPT, before one without EDNS is
/// sent as well.
const EDNS_DELAY: Duration = Duration::from_secs(1);
/// The time for which queries to an upstream that dropped one with EDNS have none. Not forever: the datagram may have
/// been lost.
const EDNS_RETRY: Duration = Duration::from_secs(600);
/// Timeout of the retry over TCP of a truncated answer, which is served as it is if TCP is blocked.
const TCP_RETRY: Duration = Duration::from_secs(1);

impl Upstream {
    pub(super) fn new(
        target: Target,
        dial: Dial,
        limits: Limits,
        read_timeout: Duration,
        metrics: UpstreamMetrics,
    ) -> Self {
        Self {
            target,
            force_tcp: dial.is_forced(),
            read_timeout,
            source: limits.source,
            pool: Pool::new(dial, limits),
            rtt: Mutex::default(),
            fails: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            loops: AtomicBool::new(false),
            checked_for_loops: AtomicBool::new(false),
            capabilities: Capabilities::default(),
            metrics,
        }
    }

    /// Closes connections that were idle for longer than `expire`.
    pub(super) fn close_expired(&self) {
        self.pool.close_expired();
    }

    /// The hedging delay: the wait for this upstream before another one is queried as well.
    pub(super) fn hedging_delay(&self) -> Duration {
        self.rtt().hedging_delay()
    }

    fn rtt(&self) -> MutexGuard<'_, RttEstimator> {
        self.rtt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_down(&self, max_fails: u32) -> bool {
        max_fails > 0 && self.fails.load(Relaxed) >= max_fails
    }

    /// Counts a failed probe. Returns whether it is the first in a row.
    pub(super) fn count_failure(&self) -> bool {
        self.fails.fetch_add(1, Relaxed) == 0
    }

    /// Resets the failed probes. Returns whether there were any.
    pub(super) fn clear_failures(&self) -> bool {
        self.fails.swap(0, Relaxed) > 0
    }

    /// Sends a query, and updates the state from the answer or its absence.
    pub(super) async fn query(
        &self,
        question: &Query,
        flags: &QueryFlags,
        budget: &Budget,
    ) -> Result<Reply, Failure> {
        let mut waiting = RttSample { upstream: self, since: Instant::now(), answered: false };
        let reply = if self.force_tcp {
            self.query_stream(question, flags, self.read_timeout, budget).await
        } else {
            self.query_udp(question, flags, budget).await
        }?;
        waiting.answered = true;
        let took = waiting.since.elapsed();
        self.rtt().sample(took);
        self.metrics.observe_answer(reply.rcode, took);
        Ok(reply)
    }

    /// Queries over UDP, and over TCP when the answer is truncated: the whole answer can be cached, and is there
    /// when the client retries over TCP.
    async fn query_udp(
        &self,
        question: &Query,
        flags: &QueryFlags,
        budget: &Budget,
    ) -> Result<Reply, Failure> {
        let part = self.query_with_fallback(question, flags, budget).await?;
        if !part.truncated {
            return Ok(part);
        }
        Ok(self.query_stream(question, flags, TCP_RETRY, budget).await.unwrap_or(part))
    }

    /// Queries over UDP, and once more without 0x20 or EDNS if the reply shows that the upstream does not support
    /// it.
    async fn query_with_fallback(
        &self,
        question: &Query,
        flags: &QueryFlags,
        budget: &Budget,
    ) -> Result<Reply, Failure> {
        let options = self.capabilities.options();
        let first = if options.edns && !self.capabilities.supports_edns.load(Relaxed) {
            self.exchange_with_unproven_edns(question, flags, options, budget).await
        } else {
            self.exchange_datagram(question, flags, options, budget).await
        };
        if options.edns && matches!(first, Err(Failure::Timeout)) {
            // Unproven again: another server or a middlebox may have come in its place.
            self.capabilities.supports_edns.store(false, Relaxed);
        }
        let options = match &first {
            Err(Failure::WrongCase) => QueryOptions { randomise_case: false, ..options },
            Err(Failure::NoQuestion) if options.edns => QueryOptions { edns: false, ..options },
            Ok((_, Edns::Refused)) if options.edns => QueryOptions { edns: false, ..options },
            Ok(_) | Err(_) => return first.map(|(reply, _)| reply),
        };
        let (reply, edns) = self.exchange_datagram(question, flags, options, budget).await?;
        // After a second refusal, the cause is the question, which any client can choose: nothing is recorded.
        if edns == Edns::Understood {
            self.capabilities.record(options);
        }
        Ok(reply)
    }

    /// Queries with EDNS, and without it as well when the reply is late: some servers and middleboxes drop queries
    /// with EDNS. The first answer counts, so a server that is only slow keeps EDNS.
    async fn exchange_with_unproven_edns(
        &self,
        question: &Query,
        flags: &QueryFlags,
        options: QueryOptions,
        budget: &Budget,
    ) -> Result<(Reply, Edns), Failure> {
        let mut with_edns = pin!(self.exchange_datagram(question, flags, options, budget));
        if let Ok(answer) = timeout(EDNS_DELAY, &mut with_edns).await {
            return answer;
        }
        let options = QueryOptions { edns: false, ..options };
        let without = pin!(self.exchange_datagram(question, flags, options, budget));
        match select(with_edns, without).await {
            Either::Left((Ok(answer), _)) => Ok(answer),
            Either::Right((Err(_), with_edns)) => with_edns.await,
            Either::Left((Err(_), without)) => self.record_dropped_edns(without.await),
            Either::Right((answer, _)) => self.record_dropped_edns(answer),
        }
    }

    fn record_dropped_edns(&self, answer: Result<(Reply, Edns), Failure>) -> Result<(Reply, Edns), Failure> {
        if answer.is_ok() {
            *self.capabilities.dropped_edns() = Some(Instant::now());
        }
        answer
    }

    async fn exchange_datagram(
        &self,
        question: &Query,
        flags: &QueryFlags,
        options: QueryOptions,
        budget: &Budget,
    ) -> Result<(Reply, Edns), Failure> {
        budget.spend()?;
        let query = UpstreamQuery::new(question, flags, options)?;
        let proven = self.capabilities.preserves_case.load(Relaxed);
        let exchange = udp::exchange(self.target.address, self.source, &query, proven);
        let wire = within(self.read_timeout, Failure::Timeout, exchange).await?;
        if options.randomise_case {
            self.capabilities.preserves_case.store(true, Relaxed);
        }
        let message = decode(&wire)?;
        self.capabilities.supports_edns.fetch_or(message.edns.is_some(), Relaxed);
        let edns = Edns::of(&message);
        Ok((Reply::from_upstream(message, question), edns))
    }

    async fn query_stream(
        &self,
        question: &Query,
        flags: &QueryFlags,
        time: Duration,
        budget: &Budget,
    ) -> Result<Reply, Failure> {
        budget.spend()?;
        let options = QueryOptions { randomise_case: false, edns: !self.capabilities.lacks_edns() };
        let mut query = UpstreamQuery::new(question, flags, options)?;
        if self.target.protocol == UpstreamProtocol::Https {
            query = query.without_id();
        }
        let exchange = self.pool.exchange(self.target.address, &query, &self.metrics);
        let Answer { wire, age } = within(time, Failure::Timeout, exchange).await?;
        Ok(Reply::from_upstream(decode(&wire)?, question).aged(age))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            UpstreamProtocol::Dns => write!(f, "{}", self.address),
            UpstreamProtocol::Tls => write!(f, "tls://{}", self.address),
            UpstreamProtocol::Https => write!(f, "https://{}", self.address),
        }
    }
}

impl Target {
    pub(super) fn plain(address: SocketAddr) -> Self {
        Self { address, protocol: UpstreamProtocol::Dns, server_name: None }
    }
}

impl Budget {
    pub(super) fn of(packets: u32) -> Self {
        Self(AtomicU32::new(packets))
    }

    fn spend(&self) -> Result<(), Failure> {
        let spent = self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| Failure::BudgetSpent)
    }
}

impl Capabilities {
    fn options(&self) -> QueryOptions {
        QueryOptions { randomise_case: !self.changes_case.load(Relaxed), edns: !self.lacks_edns() }
    }

    fn lacks_edns(&self) -> bool {
        let has_dropped = || self.dropped_edns().is_some_and(|since| since.elapsed() < EDNS_RETRY);
        self.lacks_edns.load(Relaxed) || (!self.supports_edns.load(Relaxed) && has_dropped())
    }

    fn dropped_edns(&self) -> MutexGuard<'_, Option<Instant>> {
        self.dropped_edns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the options of a query that was answered after one with the default options failed.
    fn record(&self, options: QueryOptions) {
        self.changes_case.fetch_or(!options.randomise_case, Relaxed);
        self.lacks_edns.fetch_or(!options.edns && !self.supports_edns.load(Relaxed), Relaxed);
    }
}

/// EDNS support as shown by a reply (RFC 6891, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edns {
    Understood,
    Refused,
}

impl Edns {
    fn of(message: &Message) -> Self {
        let refused = matches!(message.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp);
        if refused && message.edns.is_none() { Self::Refused } else { Self::Understood }
    }
}

/// Measures the wait for an answer. A query that is cancelled because another upstream was faster adds its wait to
/// the RTT as a lower bound.
struct RttSample<'a> {
    upstream: &'a Upstream,
    since: Instant,
    answered: bool,
}

impl Drop for RttSample<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        if !self.answered {
            self.upstream.rtt().timed_out(waited);
        }
        if waited > SLOW {
            self.upstream.metrics.count_slow();
        }
    }
}
