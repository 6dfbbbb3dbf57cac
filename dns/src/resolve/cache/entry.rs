//! A cached answer.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use hickory_server::proto::{
    op::{Edns, Message, OpCode, Query},
    rr::Record,
};
use tokio::time::Instant;

use super::{
    layout::Layout,
    lifetime::{AnswerKind, Lifetime},
};
use crate::{
    config::{Prefetch, Verify},
    observe::metrics::Plugin,
    resolve::{
        decode::decode,
        encode::encode_whole,
        reply::{ExtendedError, Reply},
    },
};

#[derive(Debug)]
pub(super) struct Entry {
    /// A complete message with id 0.
    wire: Box<[u8]>,
    /// `None` if the message has to be decoded for each reply.
    layout: Option<Layout>,
    stored: Instant,
    ttl: u32,
    pub is_failure: bool,
    /// Hits without a gap longer than the configured duration of `prefetch`.
    hits: AtomicU32,
    /// Milliseconds after `stored`: the time of the last hit, and the earliest time of the next refresh.
    last_hit: AtomicU64,
    recheck: AtomicU64,
    /// Whether a refresh is in flight.
    refreshing: AtomicBool,
    /// The clients that asked for it, each a bit by the hash of its address.
    clients: AtomicU64,
}

const HEADER: usize = 12;
/// Room for the OPT that is appended to a copy.
const MAX_OPT: usize = 16;

/// The hit count of an answer, which the answer that replaces it inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Popularity(u32);

impl Entry {
    /// Returns `None` when the answer cannot be encoded, which does not happen to an answer that was decoded.
    pub(super) fn new(question: &Query, reply: &Reply, lifetime: &Lifetime) -> Option<Self> {
        let mut message = Message::response(0, OpCode::Query);
        message.metadata.response_code = reply.rcode;
        message.metadata.authentic_data = reply.authentic_data;
        message.add_query(question.clone());
        message.answers.clone_from(&reply.answers);
        message.authorities.clone_from(&reply.authorities);
        message.additionals.clone_from(&reply.additionals);
        if !reply.errors.is_empty() {
            let mut edns = Edns::new();
            reply.errors.iter().for_each(|error| edns.options_mut().insert(error.clone()));
            message.set_edns(edns);
        }
        let wire = encode_whole(&message, usize::from(u16::MAX))?;
        Some(Self {
            layout: Layout::of(&wire),
            wire: wire.into(),
            stored: Instant::now(),
            ttl: lifetime.ttl,
            is_failure: lifetime.kind == AnswerKind::Failure,
            hits: AtomicU32::new(0),
            last_hit: AtomicU64::new(0),
            recheck: AtomicU64::new(0),
            refreshing: AtomicBool::new(false),
            clients: AtomicU64::new(0),
        })
    }

    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.wire.len() + self.layout.as_ref().map_or(0, Layout::size)
    }

    pub(super) fn age(&self) -> u32 {
        u32::try_from(self.stored.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// Seconds until it expires. Returns `None` once it has expired.
    pub(super) fn remaining(&self) -> Option<u32> {
        self.ttl.checked_sub(self.age()).filter(|remaining| *remaining > 0)
    }

    pub(super) fn expired_for(&self) -> Duration {
        self.stored.elapsed().saturating_sub(Duration::from_secs(self.ttl.into()))
    }

    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.stored < other.stored
    }

    /// Notes a client. Two clients of the same hash count as one.
    pub(super) fn record_client(&self, client: IpAddr) {
        let bit = 1 << hash(client);
        // Most often it is known; a write would take the cache line from the other workers.
        if self.clients.load(Relaxed) & bit == 0 {
            self.clients.fetch_or(bit, Relaxed);
        }
    }

    pub(super) fn has_several_clients(&self) -> bool {
        self.clients.load(Relaxed).count_ones() > 1
    }

    pub(super) fn inherit_clients(&self, other: &Self) {
        self.clients.fetch_or(other.clients.load(Relaxed), Relaxed);
    }

    /// The reply to a client, its TTLs reduced by `age`.
    pub(super) fn reply(&self, question: &Query, age: Option<u32>) -> Option<Reply> {
        let age = age.unwrap_or_default();
        self.read(question, |record| record.ttl = record.ttl.saturating_sub(age))
    }

    /// The same as octets, with a question that differs from the cached one in case only. Returns `None` if the message
    /// has to be decoded for that.
    pub(super) fn octets(
        &self,
        question: &[u8],
        age: Option<u32>,
        shuffle: Option<fn(usize) -> usize>,
    ) -> Option<Vec<u8>> {
        let layout = self.layout.as_ref()?;
        let mut reply = Vec::with_capacity(self.wire.len() + MAX_OPT);
        reply.extend_from_slice(&self.wire);
        reply.get_mut(HEADER..HEADER + question.len())?.copy_from_slice(question);
        if let Some(age) = age {
            layout.age(&mut reply, age);
        }
        if let Some(below) = shuffle {
            layout.shuffle(&mut reply, below);
        }
        Some(reply)
    }

    pub(super) fn stale_reply(&self, question: &Query, ttl: u32) -> Option<Reply> {
        let reply = self.read(question, |record| record.ttl = ttl)?;
        Some(reply.with_error(ExtendedError::StaleAnswer))
    }

    fn read(&self, question: &Query, change: impl Fn(&mut Record)) -> Option<Reply> {
        // Encoded by `new`, so it can be decoded.
        let message = decode(&self.wire).ok()?;
        let mut reply = Reply::from_upstream(message, question);
        reply.authoritative = false;
        reply.plugin = Plugin::Cache;
        let Reply { answers, authorities, additionals, .. } = &mut reply;
        answers.iter_mut().chain(authorities).chain(additionals).for_each(change);
        Some(reply)
    }

    /// Counts a hit. Returns whether the caller must refresh the answer; it is then marked as refreshing.
    pub(super) fn record_hit(&self, prefetch: &Prefetch, remaining: u32) -> bool {
        let now = self.now();
        let gap = now.saturating_sub(self.last_hit.swap(now, Relaxed));
        let hits = if u128::from(gap) > prefetch.duration.as_millis() {
            self.hits.store(1, Relaxed);
            1
        } else {
            self.hits.fetch_add(1, Relaxed) + 1
        };
        let is_due = u64::from(remaining) * 100 <= u64::from(self.ttl) * u64::from(prefetch.percentage);
        let may_ask = now >= self.recheck.load(Relaxed);
        hits >= prefetch.amount && is_due && may_ask && !self.refreshing.swap(true, Relaxed)
    }

    /// Whether a refresh was begun and has not replaced this entry.
    pub(super) fn awaits_refresh(&self) -> bool {
        self.refreshing.load(Relaxed)
    }

    pub(super) fn popularity(&self) -> Popularity {
        Popularity(self.hits.load(Relaxed))
    }

    pub(super) fn inherit(&self, Popularity(hits): Popularity) {
        self.hits.fetch_max(hits, Relaxed);
    }

    pub(super) fn defer_recheck(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.recheck.store(self.now().saturating_add(time), Relaxed);
        self.refreshing.store(false, Relaxed);
    }

    /// Whether to serve this entry without a query: the last refresh failed recently, or (with `verify immediate`)
    /// another one is in flight. Returns `false` to one caller, which must refresh the answer; with `immediate` the
    /// entry is then marked as refreshing.
    pub(super) fn joins_recheck(&self, verify: &Verify) -> bool {
        let is_immediate = *verify == Verify::Immediate;
        self.now() < self.recheck.load(Relaxed) || (is_immediate && self.refreshing.swap(true, Relaxed))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.stored.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A number below 64. Addresses of pods differ in their last bits.
fn hash(client: IpAddr) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let low = match client {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 ^ v6.to_bits() as u64,
    };
    (low.wrapping_mul(ODD) >> 58) as u32
}
