//! Counters of queries, and their values.

use std::{
    iter::Sum,
    ops::AddAssign,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use hickory_server::proto::op::ResponseCode;

use crate::cluster::topic::Topic;

/// The threshold of a slow query, above any round-trip time on earth: a query was retried, or a server is
/// overloaded. It is also a bucket bound of the histograms.
pub const SLOW: Duration = Duration::from_millis(256);

named_enum! {
    /// A flaw of an answer, for query statistics.
    pub enum Trouble {
        /// REFUSED, FORMERR, NOTIMP or BADVERS.
        Refused = "refused",
        /// SERVFAIL.
        Failed = "failed",
        /// Answered after more than [`SLOW`].
        Slow = "slow",
    }
}

/// The troubles of one query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Troubles([bool; Trouble::COUNT]);

impl Troubles {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other rcodes are answers")]
    pub fn of(rcode: ResponseCode, took: Duration) -> Self {
        let (refused, failed) = match rcode {
            ResponseCode::Refused | ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => {
                (true, false)
            }
            ResponseCode::ServFail => (false, true),
            _ => (false, false),
        };
        Self([refused, failed, took > SLOW])
    }
}

/// Counters that several threads may increment.
#[derive(Debug, Default)]
pub struct Counters {
    topics: [AtomicU64; Topic::COUNT],
    troubles: [AtomicU64; Trouble::COUNT],
}

impl Counters {
    pub fn add(&self, topic: Topic, Troubles(troubles): Troubles) {
        self.topics[topic as usize].fetch_add(1, Relaxed);
        for (count, _) in self.troubles.iter().zip(troubles).filter(|(_, is_set)| *is_set) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            topics: self.topics.each_ref().map(|count| count.load(Relaxed)),
            troubles: self.troubles.each_ref().map(|count| count.load(Relaxed)),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    topics: [u64; Topic::COUNT],
    troubles: [u64; Trouble::COUNT],
}

impl Counts {
    /// The number of queries, each of which has one topic.
    pub fn queries(&self) -> u64 {
        self.topics.iter().sum()
    }

    pub fn topics(&self) -> impl Iterator<Item = (Topic, u64)> {
        Topic::ALL.into_iter().zip(self.topics)
    }

    pub fn troubles(&self) -> impl Iterator<Item = (Trouble, u64)> {
        Trouble::ALL.into_iter().zip(self.troubles)
    }

    #[cfg(test)]
    pub fn of(topics: &[(Topic, u64)], troubles: &[(Trouble, u64)]) -> Self {
        let mut counts = Self::default();
        topics.iter().for_each(|(topic, count)| counts.topics[*topic as usize] += count);
        troubles.iter().for_each(|(trouble, count)| counts.troubles[*trouble as usize] += count);
        counts
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.topics.iter_mut().zip(more.topics).for_each(|(count, more)| *count += more);
        self.troubles.iter_mut().zip(more.troubles).for_each(|(count, more)| *count += more);
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, more| {
            sum += more;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_follow_rcode_and_duration() {
        use Trouble::{Failed, Refused, Slow};
        let moment = Duration::from_millis(1);
        for (rcode, took, want) in [
            (ResponseCode::NoError, moment, &[][..]),
            (ResponseCode::NXDomain, moment, &[]),
            (ResponseCode::Refused, moment, &[Refused]),
            (ResponseCode::FormErr, moment, &[Refused]),
            (ResponseCode::NotImp, moment, &[Refused]),
            (ResponseCode::BADVERS, moment, &[Refused]),
            (ResponseCode::ServFail, moment, &[Failed]),
            (ResponseCode::NoError, SLOW, &[]),
            (ResponseCode::NoError, SLOW + moment, &[Slow]),
            (ResponseCode::ServFail, SLOW + moment, &[Failed, Slow]),
        ] {
            let counters = Counters::default();
            counters.add(Topic::External, Troubles::of(rcode, took));
            let troubles: Vec<_> = want.iter().map(|trouble| (*trouble, 1)).collect();
            assert_eq!(counters.counts(), Counts::of(&[(Topic::External, 1)], &troubles), "{rcode} {took:?}");
        }
    }
}
