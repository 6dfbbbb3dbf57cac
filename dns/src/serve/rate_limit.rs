//! Response rate limiting over UDP, against reflection: a forged query makes this server send its answer to another host.
//!
//! Identical answers to one network are limited, and all denials and errors to it together, as an attacker would ask for
//! other names that do not exist. Every other excess answer is replaced by a truncated one, which is no larger than the
//! query: a genuine client comes again over TCP, which cannot be forged. As in BIND and Knot, a network is a /24 or /56.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::serve::handler::below;

/// Answers per second: the same one to one network.
pub const DEFAULT: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// Denials and errors to one network, as a multiple of that: the search lists of pods lead to many.
const NEGATIVE_FACTOR: u32 = 10;
/// The answers that may be sent at once, as a time at the limit.
const BURST: Duration = Duration::from_secs(1);
const V4_PREFIX: u32 = 24;
const V6_PREFIX: u32 = 56;
/// One in this many excess answers is sent truncated, the others are dropped.
const SLIP: usize = 2;
/// Buckets of all clients together. An answer has two to choose from.
const BUCKETS: usize = 1 << 15;
/// The upper bits of a bucket tell answers apart; the lower bits are a time in microseconds.
const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;
const HEADER: usize = 12;
/// The length of an OPT without options.
const OPT_LEN: usize = 11;
/// TC, in the third octet of the header.
const TRUNCATED: u8 = 0x02;

/// Buckets of fixed number: the tag of an answer, and the time when its excess is used up (GCRA).
#[derive(Debug)]
pub struct RateLimiter {
    buckets: Box<[AtomicU64]>,
    /// Microseconds per answer.
    interval: u64,
    /// Keyed, so that an attacker cannot choose the bucket of others.
    hasher: RandomState,
    started: Instant,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    Send,
    Truncate,
    Drop,
}

impl RateLimiter {
    pub fn new(per_second: NonZeroU32) -> Arc<Self> {
        Arc::new(Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            interval: u64::from(1_000_000 / per_second.get()).max(1),
            hasher: RandomState::new(),
            started: Instant::now(),
        })
    }

    /// Counts an answer to a client that is neither of this machine nor a pod of it.
    pub fn check(&self, client: IpAddr, reply: &[u8]) -> Limited {
        self.check_at(client, reply, self.started.elapsed(), below)
    }

    fn check_at(
        &self,
        client: IpAddr,
        reply: &[u8],
        now: Duration,
        random: impl FnOnce(usize) -> usize,
    ) -> Limited {
        let Some(answer) = Answer::of(reply) else { return Limited::Send };
        let interval = match answer {
            Answer::Positive(_) => self.interval,
            Answer::Negative => (self.interval / u64::from(NEGATIVE_FACTOR)).max(1),
        };
        // The upper bits are not zero, so that no answer has the tag of an empty bucket.
        let hash = self.hasher.hash_one((network(client), answer)) | 1 << 63;
        let now = u64::try_from(now.as_micros()).unwrap_or_default() & TIME;
        match (self.has_room(hash, interval, now), random(SLIP)) {
            (true, _) => Limited::Send,
            (false, 0) => Limited::Truncate,
            (false, _) => Limited::Drop,
        }
    }

    /// Adds an answer to its bucket, if there is room. Two workers that do so at the same time may count one answer for
    /// two.
    fn has_room(&self, hash: u64, interval: u64, now: u64) -> bool {
        let tag = hash >> TIME_BITS;
        let first = hash as usize % BUCKETS;
        let pair = [&self.buckets[first], &self.buckets[first ^ 1]];
        let loaded = pair.map(|bucket| bucket.load(Relaxed));
        let own = loaded.iter().position(|value| value >> TIME_BITS == tag);
        // Of two buckets of others, the one that is used up sooner.
        let at = own.unwrap_or(usize::from(loaded[0] & TIME > loaded[1] & TIME));
        let used = if own.is_some() { (loaded[at] & TIME).max(now) } else { now };
        let burst = u64::try_from(BURST.as_micros()).unwrap_or_default();
        if used + interval > now + burst {
            return false;
        }
        pair[at].store(tag << TIME_BITS | (used + interval) & TIME, Relaxed);
        true
    }
}

/// Answers that are limited together.
#[derive(Hash, PartialEq, Eq)]
enum Answer {
    /// Name and type of the question.
    Positive(Vec<u8>),
    /// Denials and errors of all names.
    Negative,
}

impl Answer {
    /// Returns `None` for what is no reply, or has no question and is as short as a query.
    fn of(reply: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = reply.first_chunk()?;
        let is_positive = header[3] & 0xf == 0 && header[6..8] != [0, 0];
        if !is_positive {
            return Some(Self::Negative);
        }
        let question = reply.get(HEADER..end_of_question(reply)?)?;
        Some(Self::Positive(question.to_ascii_lowercase()))
    }
}

fn end_of_question(reply: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *reply.get(at)? {
            0 => return Some(at + 5),
            length @ 1..=0x3f => at += 1 + usize::from(length),
            0x40.. => return None,
        }
    }
}

fn network(client: IpAddr) -> u128 {
    match client {
        IpAddr::V4(v4) => u128::from(v4.to_bits() >> (32 - V4_PREFIX)),
        IpAddr::V6(v6) => v6.to_bits() >> (128 - V6_PREFIX) | 1 << 127,
    }
}

/// The header and question of a reply, truncated, with its OPT if that is the last record.
pub fn truncated(reply: &[u8]) -> Vec<u8> {
    let end = end_of_question(reply).filter(|end| *end <= reply.len() && reply[4..6] == [0, 1]);
    let mut short = reply.get(..end.unwrap_or(HEADER)).unwrap_or_default().to_vec();
    if short.len() < HEADER {
        return short;
    }
    let opt = reply.len().checked_sub(OPT_LEN).filter(|at| *at >= short.len()).map(|at| &reply[at..]);
    // An OPT without options: the root, type 41, and no data.
    let opt = opt.filter(|opt| reply[10..12] != [0, 0] && opt[..3] == [0, 0, 41] && opt[9..] == [0, 0]);
    short[2] |= TRUNCATED;
    short[4..6].copy_from_slice(&u16::from(end.is_some()).to_be_bytes());
    short[6..10].fill(0);
    short[10..12].copy_from_slice(&u16::from(opt.is_some()).to_be_bytes());
    short.extend_from_slice(opt.unwrap_or_default());
    short
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_server::proto::{
        op::{Edns, Message, OpCode, Query, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata::A},
    };

    use super::*;

    fn reply(name: &str, rcode: ResponseCode) -> Vec<u8> {
        let name = Name::from_ascii(name).unwrap();
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.metadata.response_code = rcode;
        if rcode == ResponseCode::NoError {
            message.add_answer(Record::from_rdata(name, 5, RData::A(A(Ipv4Addr::LOCALHOST))));
        }
        message.set_edns(Edns::new());
        message.to_vec().unwrap()
    }

    /// How many of 3000 answers within a millisecond are sent.
    fn sent(
        limiter: &RateLimiter,
        client: impl Fn(u32) -> IpAddr,
        reply: impl Fn(u32) -> Vec<u8>,
        at: u64,
    ) -> usize {
        let now = Duration::from_secs(at);
        let all = (0..3000).map(|n| limiter.check_at(client(n), &reply(n), now, |_| 0));
        all.filter(|limited| *limited == Limited::Send).count()
    }

    #[test]
    fn identical_answers_to_a_network_are_limited() {
        let limiter = RateLimiter::new(NonZeroU32::new(100).unwrap());
        let same = |_| reply("www.example.", ResponseCode::NoError);
        let v4 = |last: u32| IpAddr::from([198, 51, 100, (last % 200) as u8]);
        let v6 = |last: u32| IpAddr::V6(((0x2001_0db8_u128 << 96) + (u128::from(last % 9) << 66)).into());
        assert_eq!(sent(&limiter, v4, same, 1), 100, "a /24");
        assert_eq!(sent(&limiter, v6, same, 1), 100, "a /56");
        assert_eq!(sent(&limiter, |_| [198, 51, 101, 1].into(), same, 1), 100, "another network");
        assert_eq!(
            sent(&limiter, v4, |_| reply("WWW.Example.", ResponseCode::NoError), 1),
            0,
            "the case is the same"
        );
        assert_eq!(
            sent(&limiter, v4, |_| reply("other.example.", ResponseCode::NoError), 1),
            100,
            "another name"
        );
        assert_eq!(sent(&limiter, v4, same, 2), 100, "a second later");
        let denied = |n: u32| reply(&format!("n{n}.example."), ResponseCode::NXDomain);
        assert_eq!(sent(&limiter, v4, denied, 3), 1000, "all denials together");
        let refused = |_| reply("www.example.", ResponseCode::Refused);
        assert_eq!(sent(&limiter, v4, refused, 3), 0, "and errors");
    }

    #[test]
    fn many_networks_do_not_take_each_others_share() {
        let limiter = RateLimiter::new(DEFAULT);
        let answer = reply("www.example.", ResponseCode::NoError);
        let excess = (0..10_000_u32).filter(|n| {
            let client = IpAddr::from(Ipv4Addr::from(n << 8));
            limiter.check_at(client, &answer, Duration::from_secs(1), |_| 0) != Limited::Send
        });
        assert_eq!(excess.count(), 0);
    }

    #[test]
    fn every_other_excess_answer_is_truncated() {
        let limiter = RateLimiter::new(NonZeroU32::MIN);
        let answer = reply("www.example.", ResponseCode::NoError);
        let check = |random| limiter.check_at([10, 0, 0, 1].into(), &answer, Duration::ZERO, move |_| random);
        assert_eq!([check(0), check(0), check(1)], [Limited::Send, Limited::Truncate, Limited::Drop]);
        let short = truncated(&answer);
        let message = Message::from_vec(&short).unwrap();
        assert!(message.metadata.truncation && message.edns.is_some());
        assert_eq!((message.queries.len(), message.answers.len(), message.metadata.id), (1, 0, 7));
        assert_eq!(short.len(), HEADER + "www.example.".len() + 1 + 4 + OPT_LEN);
    }

    #[test]
    fn any_octets_can_be_truncated() {
        let answer = reply("www.example.", ResponseCode::NoError);
        for length in 0..answer.len() {
            let _ = truncated(&answer[..length]);
            let _ = Answer::of(&answer[..length]);
        }
        assert_eq!(truncated(&[0xff; 40]).len(), HEADER);
    }
}
