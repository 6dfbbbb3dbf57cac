//! Compares the clients' records with the history of the backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use nix::errno::Errno;

use super::{
    changer::{History, Span},
    dialler::{Failure, Record, Step},
};

/// Violations with a description; the others are only counted.
const DESCRIBED: usize = 10;

#[derive(Debug, Default, PartialEq)]
pub struct AtomicityReport {
    pub connects: u64,
    pub changes: u64,
    /// From the first connect to the last.
    pub seconds: f64,
    pub failures: BTreeMap<String, u64>,
    pub violations: u64,
    /// Descriptions of the first violations.
    pub described: Vec<String>,
    /// Connects during which a switch happened.
    pub overtaken: u64,
    /// Backends that answered.
    pub reached: usize,
}

impl AtomicityReport {
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Whether no connect failed and none reached a wrong backend.
    pub fn holds(&self) -> bool {
        self.failures.is_empty() && self.violations == 0
    }
}

pub(super) fn judge(history: &History, records: &[Record]) -> AtomicityReport {
    let began = records.iter().map(|record| record.began).min().unwrap_or_default();
    let ended = records.iter().map(|record| record.connected).max().unwrap_or_default();
    let time = Span { from: began, until: ended };
    let mut outcome = AtomicityReport {
        connects: records.len() as u64,
        changes: history.switches.iter().filter(|switch| switch.meets(&time)).count() as u64,
        seconds: ended.saturating_sub(began) as f64 / 1e9,
        ..AtomicityReport::default()
    };
    let mut reached = BTreeSet::new();
    for record in records {
        outcome.overtaken += u64::from(is_overtaken(record, &history.switches));
        match record.reached {
            Err(failure) => *outcome.failures.entry(failure.to_string()).or_default() += 1,
            Ok(generation) => {
                reached.insert(generation);
                if let Some(violation) = violation(record, generation, &history.lifetimes) {
                    outcome.violations += 1;
                    outcome.described.extend((outcome.described.len() < DESCRIBED).then_some(violation));
                }
            }
        }
    }
    outcome.reached = reached.len();
    outcome
}

/// Describes a record whose backend was not valid at that time.
fn violation(record: &Record, generation: u32, lifetimes: &[Span]) -> Option<String> {
    let Some(lifetime) = lifetimes.get(generation as usize) else {
        return Some(format!("reached generation {generation}, which never existed"));
    };
    if record.began > lifetime.until {
        let late = record.began - lifetime.until;
        Some(format!("reached generation {generation}, started {late} ns after the switch away from it"))
    } else if record.connected < lifetime.from {
        let early = lifetime.from - record.connected;
        Some(format!("reached generation {generation} {early} ns before the switch to it"))
    } else {
        None
    }
}

fn is_overtaken(record: &Record, switches: &[Span]) -> bool {
    let next = switches.partition_point(|switch| switch.until < record.began);
    switches.get(next).is_some_and(|switch| switch.from <= record.connected)
}

impl Span {
    fn meets(&self, other: &Self) -> bool {
        self.from <= other.until && other.from <= self.until
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Connect => "connect",
            Step::Answer => "answer",
        };
        match self.errno {
            0 => write!(f, "{step}: connection closed"),
            errno => write!(f, "{step}: {:?}", Errno::from_raw(errno)),
        }
    }
}

impl fmt::Display for AtomicityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = |count: u64| count as f64 / self.seconds.max(f64::EPSILON);
        writeln!(f, "connects    {:>9}  {:>7.0}/s", self.connects, per_second(self.connects))?;
        writeln!(f, "changes     {:>9}  {:>7.0}/s", self.changes, per_second(self.changes))?;
        writeln!(f, "overtaken   {:>9}  connects during which a change happened", self.overtaken)?;
        writeln!(f, "backends    {:>9}  that answered", self.reached)?;
        writeln!(f, "failures    {:>9}", self.failed())?;
        for (what, count) in &self.failures {
            writeln!(f, "            {count:>9}  {what}")?;
        }
        write!(f, "violations  {:>9}", self.violations)?;
        self.described.iter().try_for_each(|violation| write!(f, "\n            {violation}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: u64 = u64::MAX;

    /// Generation 0 served until the switch at 100..110 added generation 1, which still serves.
    fn history() -> History {
        let span = |from, until| Span { from, until };
        History {
            lifetimes: vec![span(10, 110), span(100, NEVER)],
            switches: vec![span(10, 20), span(100, 110)],
        }
    }

    #[test]
    fn an_answer_is_compared_with_the_lifetime_of_its_backend() {
        struct Case {
            name: &'static str,
            times: (u64, u64),
            generation: u32,
            holds: bool,
            overtaken: u64,
        }
        let case =
            |name, times, generation, holds, overtaken| Case { name, times, generation, holds, overtaken };
        for case in [
            case("before the switch", (50, 60), 0, true, 0),
            case("the new one, before the switch to it began", (50, 99), 1, false, 0),
            case("the new one, at the start of the switch to it", (50, 100), 1, true, 1),
            case("the old one, during the switch", (105, 200), 0, true, 1),
            case("the new one, during the switch", (105, 200), 1, true, 1),
            case("the old one, started at the end of the switch", (110, 200), 0, true, 1),
            case("the old one, started after the switch", (111, 200), 0, false, 0),
            case("the new one, after the switch", (111, 200), 1, true, 0),
            case("the old one, started long before", (50, 5000), 0, true, 1),
            case("an unknown generation", (111, 200), 2, false, 0),
        ] {
            let (began, connected) = case.times;
            let outcome = judge(&history(), &[Record { began, connected, reached: Ok(case.generation) }]);
            assert_eq!(outcome.holds(), case.holds, "{}: {outcome:?}", case.name);
            assert_eq!(outcome.overtaken, case.overtaken, "{}", case.name);
        }
    }

    #[test]
    fn failures_are_counted_by_name() {
        let record = |step, errno| Record { began: 50, connected: 60, reached: Err(Failure { step, errno }) };
        let records = [record(Step::Connect, 111), record(Step::Connect, 111), record(Step::Answer, 0)];
        let outcome = judge(&history(), &records);
        assert!(!outcome.holds());
        let failures: Vec<_> = outcome.failures.iter().map(|(what, count)| (what.as_str(), *count)).collect();
        assert_eq!(failures, [("answer: connection closed", 1), ("connect: ECONNREFUSED", 2)]);
    }
}
