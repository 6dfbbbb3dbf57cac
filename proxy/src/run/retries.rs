//! Frontends that could not be written, and the times of their next attempts.
//!
//! A write that the kernel refused is retried every second. A frontend without room in a table waits longer after each
//! attempt, unless room appears: under an object too large for the tables, every other change stays as cheap as before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    error::chain,
    model::{address::IpFamily, frontend::FrontendKey, service::ServiceKey},
    observe::status::Unplaced,
    reconcile::MapError,
};

/// The delay after a first failure, and after each refusal of the kernel.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest delay for what finds no room.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// Names in one log line.
const NAMES: usize = 3;

#[derive(Debug, Default)]
pub struct Retries {
    /// By Service; `None` for removals, whose Service is gone.
    cohorts: BTreeMap<Option<ServiceKey>, Cohort>,
    /// The cohorts that the present pass retries.
    taken: BTreeMap<Option<ServiceKey>, Cohort>,
    /// Written frontends that must be in one pass with those of a cohort, which they left or which left them.
    siblings: BTreeSet<FrontendKey>,
}

/// The frontends of a Service, which share backends and are retried together.
#[derive(Debug)]
struct Cohort {
    keys: BTreeSet<FrontendKey>,
    failed: BTreeSet<FrontendKey>,
    cause: Cause,
    since: Timestamp,
    delay: Duration,
    due: Instant,
}

#[derive(Clone, Debug)]
enum Cause {
    /// Not tried yet.
    None,
    /// No room in a table or in a share of it, and the entries that were free there.
    Full {
        error: Arc<MapError>,
        free: u32,
    },
    Refused,
}

/// New failures with the same error, for one log line.
#[derive(Debug, PartialEq, Eq)]
pub struct FailureSummary {
    pub error: String,
    pub count: usize,
    /// The first of them.
    pub names: String,
}

/// The result of a pass, as far as it failed.
pub struct FailedPass<'a> {
    pub failed: &'a [(FrontendKey, Arc<MapError>)],
    pub retry: Vec<FrontendKey>,
    /// The entries that are free for what failed for lack of them.
    pub room: &'a dyn Fn(&MapError) -> u32,
}

impl Retries {
    pub fn is_empty(&self) -> bool {
        self.cohorts.is_empty()
    }

    /// The time of the next attempt.
    pub fn next_due(&self) -> Option<Instant> {
        self.cohorts.values().map(|cohort| cohort.due).min()
    }

    /// Takes the frontends to apply now: those that are due, and those that share backends with a changed one.
    pub fn take(&mut self, now: Instant, changed: &BTreeSet<FrontendKey>) -> BTreeSet<FrontendKey> {
        self.take_if(|cohort| cohort.due <= now || !cohort.keys.is_disjoint(changed))
    }

    /// Before a pass over everything.
    pub fn take_all(&mut self) {
        self.take_if(|_| true);
    }

    fn take_if(&mut self, is_wanted: impl Fn(&Cohort) -> bool) -> BTreeSet<FrontendKey> {
        let taken: Vec<_> = self.cohorts.extract_if(.., |_, cohort| is_wanted(cohort)).collect();
        if taken.is_empty() {
            return BTreeSet::new();
        }
        let mut keys: BTreeSet<_> = taken.iter().flat_map(|(_, cohort)| &cohort.keys).copied().collect();
        keys.extend(&self.siblings);
        if self.cohorts.is_empty() {
            self.siblings.clear();
        }
        self.taken.extend(taken);
        keys
    }

    /// Records the failures of a pass. Returns those that are new.
    pub fn record(
        &mut self,
        pass: FailedPass<'_>,
        owner: impl Fn(&FrontendKey) -> Option<ServiceKey>,
        (now, time): (Instant, Timestamp),
    ) -> Vec<FailureSummary> {
        let taken = std::mem::take(&mut self.taken);
        let mut new: BTreeMap<String, Vec<FrontendKey>> = BTreeMap::new();
        for (key, error) in pass.failed {
            let service = owner(key);
            let earlier = taken.get(&service);
            let cohort = self.cohorts.entry(service).or_insert_with(|| Cohort::new(earlier, now, time));
            cohort.add(*key, cause(error, pass.room));
            if !cohort.failed.contains(key) && earlier.is_none_or(|earlier| !earlier.failed.contains(key)) {
                new.entry(chain(&**error)).or_default().push(*key);
            }
            cohort.failed.insert(*key);
        }
        for key in pass.retry {
            let cohort = self.cohorts.get_mut(&owner(&key)).map(|cohort| &mut cohort.keys);
            cohort.unwrap_or(&mut self.siblings).insert(key);
        }
        if self.cohorts.is_empty() {
            self.wait_for_siblings(now, time);
        }
        new.into_iter().map(|(error, keys)| FailureSummary::new(error, &keys)).collect()
    }

    /// Siblings of a pass without failures are applied once more.
    fn wait_for_siblings(&mut self, now: Instant, time: Timestamp) {
        if !self.siblings.is_empty() {
            let keys = std::mem::take(&mut self.siblings);
            self.cohorts.insert(None, Cohort { keys, ..Cohort::new(None, now, time) });
        }
    }

    /// Entries were freed: what waits for room in those tables or shares is due. Returns whether anything is.
    pub fn room_appeared(&mut self, now: Instant, room: impl Fn(&MapError) -> u32) -> bool {
        let mut is_any_due = false;
        for cohort in self.cohorts.values_mut() {
            if let Cause::Full { error, free } = &cohort.cause
                && room(error) > *free
            {
                cohort.due = now;
                is_any_due = true;
            }
        }
        is_any_due
    }

    /// The number of frontends that could not be written.
    pub fn failed(&self) -> usize {
        self.cohorts.values().map(|cohort| cohort.failed.len()).sum()
    }

    /// The Services with frontends to be retried.
    pub fn services(&self) -> BTreeSet<&ServiceKey> {
        self.cohorts.keys().flatten().collect()
    }

    /// The Services without room.
    pub fn unplaced(&self) -> Vec<Unplaced> {
        let cohorts = self.cohorts.iter();
        let unplaced = cohorts.filter_map(|(service, Cohort { failed, cause, since, .. })| match cause {
            Cause::Full { error, .. } => {
                let (table, is_over_budget) = table(error)?;
                Some(Unplaced {
                    service: service.as_ref()?.to_string(),
                    table: table.to_owned(),
                    is_over_budget,
                    reason: error.to_string(),
                    frontends: failed.len(),
                    since: *since,
                })
            }
            Cause::Refused | Cause::None => None,
        });
        unplaced.collect()
    }

    /// The families that are late for a reason of the node, not of an object: the kernel refused a write, or most of
    /// the frontends have no room.
    pub fn late_families(&self, published: usize) -> BTreeSet<IpFamily> {
        let is_full = |cohort: &&Cohort| matches!(cohort.cause, Cause::Full { .. });
        let is_over_budget = |cohort: &&Cohort| cohort.is_over_budget();
        let full = self.cohorts.values().filter(|cohort| is_full(cohort) && !is_over_budget(cohort));
        let most_are_late = full.map(|cohort| cohort.failed.len()).sum::<usize>() > published;
        let late = self
            .cohorts
            .values()
            .filter(|cohort| !is_full(cohort) || most_are_late && !is_over_budget(cohort));
        late.flat_map(|cohort| cohort.keys.iter().chain(&cohort.failed))
            .map(|key| key.address.family())
            .collect()
    }
}

impl Cohort {
    fn new(earlier: Option<&Self>, now: Instant, time: Timestamp) -> Self {
        let delay = match earlier {
            Some(Self { delay, cause: Cause::Full { .. } | Cause::None, .. }) => {
                (*delay * 2).min(LONGEST_DELAY)
            }
            Some(Self { cause: Cause::Refused, .. }) | None => FIRST_DELAY,
        };
        let since = earlier.map_or(time, |earlier| earlier.since);
        let (keys, failed) = (BTreeSet::new(), BTreeSet::new());
        Self { keys, failed, cause: Cause::None, since, delay, due: now + delay }
    }

    fn is_over_budget(&self) -> bool {
        matches!(&self.cause, Cause::Full { error, .. } if matches!(**error, MapError::OverBudget { .. }))
    }

    /// A refusal outweighs a full table: it is retried soon.
    fn add(&mut self, key: FrontendKey, cause: Cause) {
        self.keys.insert(key);
        match (&self.cause, cause) {
            (Cause::Refused, _) => {}
            (_, Cause::Refused) => {
                self.due = self.due - self.delay + FIRST_DELAY;
                self.delay = FIRST_DELAY;
                self.cause = Cause::Refused;
            }
            (_, full) => self.cause = full,
        }
    }
}

impl FailureSummary {
    fn new(error: String, keys: &[FrontendKey]) -> Self {
        let names: Vec<_> = keys.iter().take(NAMES).map(ToString::to_string).collect();
        Self { error, count: keys.len(), names: names.join(", ") }
    }
}

fn cause(error: &Arc<MapError>, room: &dyn Fn(&MapError) -> u32) -> Cause {
    match table(error) {
        Some(_) => Cause::Full { free: room(error), error: Arc::clone(error) },
        None => Cause::Refused,
    }
}

/// The table without room, and whether only the share of a tenant is used up.
fn table(error: &MapError) -> Option<(&'static str, bool)> {
    match error {
        MapError::Full { map, .. } => Some((map, false)),
        MapError::OverBudget { map, .. } => Some((map, true)),
        MapError::Refused { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{address::Protocol, frontend::FrontendAddress},
        reconcile::{Table, Tenant},
    };

    fn key(n: u16) -> FrontendKey {
        FrontendKey { address: FrontendAddress::Ip([10, 96, 0, 1].into()), port: n, protocol: Protocol::Tcp }
    }

    /// Frontends 0 to 99 are of `a/s0`, and so on.
    fn owner(key: &FrontendKey) -> Option<ServiceKey> {
        Some(ServiceKey::new("a", &format!("s{}", key.port / 100)))
    }

    fn full() -> MapError {
        MapError::Full { map: "SLOTS", capacity: 100 }
    }

    fn refused() -> MapError {
        MapError::Refused { action: "write", map: "SLOTS", source: "x".into() }
    }

    fn over_budget() -> MapError {
        let tenant = Tenant::Namespace("a".into());
        MapError::OverBudget { map: "SLOTS", table: Table::Slots, tenant, share: 50 }
    }

    struct Clock {
        start: Instant,
        retries: Retries,
    }

    impl Clock {
        fn new() -> Self {
            Self { start: Instant::now(), retries: Retries::default() }
        }

        fn at(&self, seconds: u64) -> (Instant, Timestamp) {
            let time = Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
            (self.start + Duration::from_secs(seconds), time)
        }

        fn fail(&mut self, seconds: u64, keys: &[u16], error: fn() -> MapError) -> Vec<FailureSummary> {
            let failed: Vec<_> = keys.iter().map(|n| (key(*n), Arc::new(error()))).collect();
            let retry = keys.iter().map(|n| key(*n)).collect();
            let now = self.at(seconds);
            self.retries.record(FailedPass { failed: &failed, retry, room: &|_| 10 }, owner, now)
        }

        fn take(&mut self, seconds: u64, changed: &[u16]) -> Vec<u16> {
            let changed = changed.iter().map(|n| key(*n)).collect();
            let now = self.at(seconds).0;
            self.retries.take(now, &changed).into_iter().map(|key| key.port).collect()
        }

        fn due(&self) -> Option<u64> {
            self.retries.next_due().map(|due| due.duration_since(self.start).as_secs())
        }
    }

    #[test]
    fn what_finds_no_room_is_retried_ever_later() {
        let mut clock = Clock::new();
        clock.fail(0, &[1, 2], full);
        let mut now = 0;
        for delay in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(clock.due(), Some(now + delay));
            now += delay;
            assert!(clock.take(now - 1, &[101]).is_empty(), "neither due nor changed");
            assert_eq!(clock.take(now, &[]), [1, 2]);
            clock.fail(now, &[1, 2], full);
        }
        assert_eq!(clock.retries.unplaced()[0].since, Timestamp::UNIX_EPOCH);
        assert_eq!(clock.take(now, &[2]), [1, 2], "a change applies at once, to all of the Service");
        clock.fail(now, &[], full);
        assert!(clock.retries.is_empty() && clock.due().is_none());
        clock.fail(now, &[1], full);
        assert_eq!(clock.due(), Some(now + 1), "a new failure starts from the beginning");
    }

    #[test]
    fn a_tenant_over_its_budget_makes_no_node_late() {
        let mut clock = Clock::new();
        clock.fail(0, &[1, 2, 3], over_budget);
        assert_eq!(clock.retries.late_families(0), BTreeSet::new());
        let unplaced = clock.retries.unplaced();
        let reason = "namespace a has used up its share of SLOTS (50 entries)";
        assert_eq!((unplaced[0].is_over_budget, &*unplaced[0].reason), (true, reason));
        assert_eq!(clock.take(1, &[]), [1, 2, 3]);
        clock.fail(1, &[1, 2, 3], over_budget);
        assert_eq!(clock.due(), Some(3), "as for a full table");
        assert!(clock.retries.room_appeared(clock.at(2).0, |error| match error {
            MapError::OverBudget { .. } => 11,
            MapError::Full { .. } | MapError::Refused { .. } => 0,
        }));
    }

    #[test]
    fn refused_writes_are_retried_every_second() {
        let mut clock = Clock::new();
        for now in 0..9 {
            clock.fail(now, &[1], refused);
            assert_eq!(clock.due(), Some(now + 1));
            assert_eq!(clock.take(now + 1, &[]), [1]);
        }
    }

    #[test]
    fn room_ends_the_wait_and_only_room_does() {
        let mut clock = Clock::new();
        clock.fail(0, &[1], full);
        clock.take(1, &[]);
        clock.fail(1, &[1], full);
        let now = clock.at(2).0;
        assert!(!clock.retries.room_appeared(now, |_| 10), "as much as before");
        assert!(clock.take(2, &[]).is_empty());
        assert!(clock.retries.room_appeared(now, |_| 20));
        assert_eq!(clock.take(2, &[]), [1]);
    }

    #[test]
    fn many_new_failures_are_one_line_and_known_ones_none() {
        let mut clock = Clock::new();
        let keys: Vec<u16> = (1..=50).collect();
        let lines = clock.fail(0, &keys, full);
        let names = "10.96.0.1:1/TCP, 10.96.0.1:2/TCP, 10.96.0.1:3/TCP".to_owned();
        let error = "SLOTS is full (100 entries)".to_owned();
        assert_eq!(lines, [FailureSummary { error, count: 50, names }]);
        clock.take(1, &[]);
        assert_eq!(clock.fail(1, &keys, full), []);
        clock.fail(2, &[101], full);
        clock.take(3, &[]);
        assert_eq!(clock.fail(3, &keys, full), [], "still known after passes without them");
    }

    #[test]
    fn one_object_without_room_does_not_make_the_node_late() {
        let mut clock = Clock::new();
        clock.fail(0, &[1, 2, 3], full);
        assert_eq!(clock.retries.late_families(1000), BTreeSet::new());
        assert_eq!(clock.retries.late_families(2), BTreeSet::from([IpFamily::V4]), "most have no room");
        assert_eq!(clock.retries.unplaced().len(), 1);
        clock.fail(1, &[101], refused);
        assert_eq!(clock.retries.late_families(1000), BTreeSet::from([IpFamily::V4]), "the kernel refuses");
        assert_eq!(clock.retries.unplaced().len(), 1);
    }
}
