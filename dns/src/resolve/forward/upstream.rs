//! One server that is asked.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_server::proto::{
    ProtoError,
    op::{Message, Query, ResponseCode},
    serialize::binary::DecodeError,
};
use nix::errno::Errno;
use thiserror::Error;
use tokio::time::Instant;

use super::{
    Reply, Wants,
    hedge::within,
    rtt::Pace,
    stream::{Dial, Pool},
    udp,
    upstream_query::{Asked, Manner},
};
use crate::observe::{clients::SLOW, metrics::UpstreamMetrics};

/// What to connect to; two that are equal are the same upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub address: SocketAddr,
    /// With TLS: the name that the certificate must carry. None: the address.
    pub tls: Option<Option<String>>,
}

/// What is known of one upstream, updated by whoever asks it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub target: Target,
    force_tcp: bool,
    pool: Pool,
    pace: Mutex<Pace>,
    /// Probes in a row that failed. A question that fails begins them.
    fails: AtomicU32,
    /// A probe runs until the upstream answers again.
    pub probing: AtomicBool,
    /// What is asked there comes back here.
    pub loops: AtomicBool,
    /// It was looked once whether it does.
    pub looked_for_loops: AtomicBool,
    habits: Habits,
    pub metrics: UpstreamMetrics,
}

/// What an upstream was seen to do with questions over UDP.
#[derive(Debug, Default)]
struct Habits {
    /// It repeats names as they were written; one that does not from the start is asked in plain letters.
    keeps_case: AtomicBool,
    changes_case: AtomicBool,
    /// It does not understand an OPT; one that has sent an OPT back does, whatever a single answer looks like.
    is_old: AtomicBool,
    speaks_edns: AtomicBool,
}

/// Packets, or connections, that one question of a client may still cost.
#[derive(Debug)]
pub(super) struct Budget(AtomicU32);

#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("cannot write the question")]
    Question(#[from] ProtoError),
    #[error("cannot exchange packets")]
    Network(#[from] io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("cannot understand the answer")]
    Malformed(#[from] DecodeError),
    #[error("the answer is to another question")]
    Foreign,
    #[error("the answer spells the name in another way")]
    OtherCase,
    #[error("the answer names no question")]
    NoQuestion,
    #[error("the question has cost as many packets as it may")]
    Spent,
    #[error("the upstream answers {0}")]
    Unwanted(ResponseCode, Box<Reply>),
}

/// One try; a client waits 5 s for all of them.
const TRY: Duration = Duration::from_secs(2);
/// A part of the answer is there already, and where TCP is blocked it is all there will be.
const WHOLE_ANSWER: Duration = Duration::from_secs(1);

impl Upstream {
    pub(super) fn new(target: Target, dial: Dial, expire: Duration, metrics: UpstreamMetrics) -> Self {
        let force_tcp = dial.is_forced();
        Self {
            target,
            force_tcp,
            pool: Pool::new(dial, expire),
            pace: Mutex::default(),
            fails: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            loops: AtomicBool::new(false),
            looked_for_loops: AtomicBool::new(false),
            habits: Habits::default(),
            metrics,
        }
    }

    /// Lets go of connections that nobody has used for long.
    pub(super) fn close_expired(&self) {
        self.pool.close_expired();
    }

    /// How long an answer may take before somebody else is asked as well.
    pub(super) fn patience(&self) -> Duration {
        self.pace().patience()
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn is_down(&self, max_fails: u32) -> bool {
        max_fails > 0 && self.fails.load(Relaxed) >= max_fails
    }

    /// Counts; says whether it is the first failure in a row.
    pub(super) fn has_failed(&self) -> bool {
        self.fails.fetch_add(1, Relaxed) == 0
    }

    /// Says whether it had failed before.
    pub(super) fn is_alive(&self) -> bool {
        self.fails.swap(0, Relaxed) > 0
    }

    /// Asks, and learns from the answer or its absence.
    pub(super) async fn ask(
        &self,
        question: &Query,
        wants: Wants,
        budget: &Budget,
    ) -> Result<Reply, Failure> {
        let mut waiting = Waiting { upstream: self, since: Instant::now(), answered: false };
        let reply = if self.force_tcp {
            self.over_stream(question, wants, TRY, budget).await
        } else {
            self.over_udp(question, wants, budget).await
        }?;
        waiting.answered = true;
        let took = waiting.since.elapsed();
        self.pace().answered(took);
        self.metrics.answered(reply.rcode, took);
        Ok(reply)
    }

    /// A truncated answer is fetched whole: it can be stored then, and the client that comes again over TCP finds it.
    async fn over_udp(&self, question: &Query, wants: Wants, budget: &Budget) -> Result<Reply, Failure> {
        let part = self.adapting(question, wants, budget).await?;
        if !part.truncated {
            return Ok(part);
        }
        Ok(self.over_stream(question, wants, WHOLE_ANSWER, budget).await.unwrap_or(part))
    }

    /// Asks again in a way that the upstream may like better, where the first was its trouble.
    async fn adapting(&self, question: &Query, wants: Wants, budget: &Budget) -> Result<Reply, Failure> {
        let manner = self.habits.manner();
        let first = self.datagram(question, wants, manner, budget).await;
        let manner = match &first {
            Err(Failure::OtherCase) => Manner { mix_case: false, ..manner },
            Err(Failure::NoQuestion) if manner.edns => Manner { edns: false, ..manner },
            Ok((_, Edns::Refused)) if manner.edns => Manner { edns: false, ..manner },
            Ok(_) | Err(_) => return first.map(|(reply, _)| reply),
        };
        let (reply, edns) = self.datagram(question, wants, manner, budget).await?;
        // Refused again, it is the question that was not liked, which anybody can choose.
        if edns == Edns::Understood {
            self.habits.learn(manner);
        }
        Ok(reply)
    }

    async fn datagram(
        &self,
        question: &Query,
        wants: Wants,
        manner: Manner,
        budget: &Budget,
    ) -> Result<(Reply, Edns), Failure> {
        budget.spend()?;
        let asked = Asked::new(question, wants, manner)?;
        let proven = self.habits.keeps_case.load(Relaxed);
        let wire = within(TRY, Failure::Silent, udp::exchange(self.target.address, &asked, proven)).await?;
        if manner.mix_case {
            self.habits.keeps_case.store(true, Relaxed);
        }
        let message = Message::from_vec(&wire)?;
        self.habits.speaks_edns.fetch_or(message.edns.is_some(), Relaxed);
        let edns = Edns::of(&message);
        Ok((Reply::from_upstream(message, question), edns))
    }

    async fn over_stream(
        &self,
        question: &Query,
        wants: Wants,
        time: Duration,
        budget: &Budget,
    ) -> Result<Reply, Failure> {
        budget.spend()?;
        let manner = Manner { mix_case: false, edns: !self.habits.is_old.load(Relaxed) };
        let asked = Asked::new(question, wants, manner)?;
        let exchange = self.pool.exchange(self.target.address, &asked, &self.metrics);
        let wire = within(time, Failure::Silent, exchange).await?;
        Ok(Reply::from_upstream(Message::from_vec(&wire)?, question))
    }
}

impl Failure {
    /// It says something about the upstream's health, not about this question.
    pub(super) fn is_of_the_upstream(&self) -> bool {
        match self {
            Self::Network(error) => !is_shortage(error),
            Self::Silent => true,
            Self::Question(_)
            | Self::Malformed(_)
            | Self::Foreign
            | Self::OtherCase
            | Self::NoQuestion
            | Self::Spent
            | Self::Unwanted(..) => false,
        }
    }
}

/// This machine has no more descriptors, ports or memory: nothing was sent, so no upstream is to blame.
fn is_shortage(error: &io::Error) -> bool {
    const SHORTAGES: [Errno; 6] = [
        Errno::EADDRINUSE,
        Errno::EADDRNOTAVAIL,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOBUFS,
        Errno::ENOMEM,
    ];
    error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| SHORTAGES.contains(&errno))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tls {
            None => write!(f, "{}", self.address),
            Some(_) => write!(f, "tls://{}", self.address),
        }
    }
}

impl Budget {
    pub(super) fn of(packets: u32) -> Self {
        Self(AtomicU32::new(packets))
    }

    fn spend(&self) -> Result<(), Failure> {
        let spent = self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| Failure::Spent)
    }
}

impl Habits {
    fn manner(&self) -> Manner {
        Manner { mix_case: !self.changes_case.load(Relaxed), edns: !self.is_old.load(Relaxed) }
    }

    /// This manner worked where the usual one did not.
    fn learn(&self, manner: Manner) {
        self.changes_case.fetch_or(!manner.mix_case, Relaxed);
        self.is_old.fetch_or(!manner.edns && !self.speaks_edns.load(Relaxed), Relaxed);
    }
}

/// Whether a reply shows that the OPT was too much for whoever wrote it (RFC 6891, section 7).
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

/// Somebody who waits for an answer. Who is left waiting, because another upstream was faster, has learnt that this one
/// is slow.
struct Waiting<'a> {
    upstream: &'a Upstream,
    since: Instant,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        if !self.answered {
            self.upstream.pace().silent(waited);
        }
        if waited > SLOW {
            self.upstream.metrics.was_slow();
        }
    }
}
