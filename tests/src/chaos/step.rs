//! The steps of a run, chosen by a seed.

use std::fmt;

use crate::lab::{objects::Condition, rng::Rng};

/// Nodes of the cluster.
pub const NODES: usize = 3;
/// Services whose endpoints change.
pub const SERVICES: usize = 3;
/// Backends of each Service that are ready all the time.
pub const SOUND: usize = 2;
/// Backends of each Service that come and go.
pub const CHANGING: usize = 3;
/// Hostile objects, each of which is there or not.
pub const HOSTILE: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The agent is killed. An endpoint changes before the next one starts.
    Kill {
        node: usize,
        away_ms: u64,
        meanwhile: Change,
    },
    /// The agent is stopped, and continued later.
    Freeze {
        node: usize,
        for_ms: u64,
        meanwhile: Change,
    },
    /// A rolling update.
    Replace {
        node: usize,
        by: Successor,
    },
    Endpoint(Change),
    /// Many changes, as fast as they can be written.
    Burst {
        changes: [Change; 2],
        times: usize,
    },
    /// A hostile object appears, or disappears.
    Hostile(usize),
    /// A pod starts, connects, and ends with its device.
    Pod {
        node: usize,
    },
}

/// The new state of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub service: usize,
    /// Among the changing ones.
    pub backend: usize,
    /// `None`: in no slice.
    pub condition: Option<Condition>,
}

/// The agent of a rolling update. Not one with filters instead of links: the kernel drops what is sent to a device that gets a qdisc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    Same,
    NextAbi,
    /// With flow tables of this size.
    Larger(u32),
    GenericXdp,
}

impl Successor {
    pub fn flags(self, abi_version: u32) -> Vec<String> {
        match self {
            Self::Same => Vec::new(),
            Self::NextAbi => vec![format!("--abi-version={}", abi_version + 1)],
            Self::Larger(flows) => vec![format!("--max-flows={flows}")],
            Self::GenericXdp => vec!["--xdp=generic".to_owned()],
        }
    }
}

/// An endless sequence of steps. A run repeats with its seed, and its first steps are those of a shorter run.
pub struct Steps {
    rng: Rng,
    flows: u32,
}

impl Steps {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::of(seed), flows: 140_000 }
    }

    fn one_of(&mut self, count: usize) -> usize {
        self.rng.below(count as u64) as usize
    }

    fn change(&mut self) -> Change {
        let conditions =
            [None, Some(Condition::Ready), Some(Condition::Unready), Some(Condition::Terminating)];
        Change {
            service: self.one_of(SERVICES),
            backend: self.one_of(CHANGING),
            condition: conditions[self.one_of(conditions.len())],
        }
    }

    fn successor(&mut self) -> Successor {
        match self.one_of(5) {
            0 | 1 => Successor::Same,
            2 => Successor::NextAbi,
            3 => {
                self.flows += 10_000;
                Successor::Larger(self.flows)
            }
            _ => Successor::GenericXdp,
        }
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let node = self.one_of(NODES);
        Some(match self.one_of(15) {
            0..=2 => Step::Kill { node, away_ms: self.rng.below(500), meanwhile: self.change() },
            3 => Step::Freeze { node, for_ms: self.rng.below(1000), meanwhile: self.change() },
            4..=7 => Step::Replace { node, by: self.successor() },
            8..=10 => Step::Endpoint(self.change()),
            11 => Step::Burst { changes: [self.change(), self.change()], times: 20 + self.one_of(80) },
            12 | 13 => Step::Hostile(self.one_of(HOSTILE)),
            _ => Step::Pod { node },
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, backend, condition } = self;
        write!(to, "endpoint {backend} of Service {service} ")?;
        match condition {
            None => write!(to, "is in no slice"),
            Some(condition) => write!(to, "becomes {condition:?}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { node, away_ms, meanwhile } => {
                write!(to, "node {node}: the agent is killed and away for {away_ms} ms; {meanwhile}")
            }
            Self::Freeze { node, for_ms, meanwhile } => {
                write!(to, "node {node}: the agent is stopped for {for_ms} ms; {meanwhile}")
            }
            Self::Replace { node, by } => write!(to, "node {node}: rolling update to {by:?}"),
            Self::Endpoint(change) => write!(to, "{change}"),
            Self::Burst { changes: [one, other], times } => {
                write!(to, "{times} changes at once, the last ones: {one}; {other}")
            }
            Self::Hostile(object) => write!(to, "hostile object {object} comes or goes"),
            Self::Pod { node } => write!(to, "node {node}: a pod comes and goes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, mem::discriminant};

    use super::*;

    #[test]
    fn a_seed_repeats_and_all_kinds_of_steps_occur() {
        let steps: Vec<Step> = Steps::new(7).take(300).collect();
        assert!(Steps::new(7).take(300).eq(steps.iter().copied()));
        assert!(!Steps::new(8).take(300).eq(steps.iter().copied()));
        let kinds: HashSet<_> = steps.iter().map(discriminant).collect();
        assert_eq!(kinds.len(), 7);
        let successors: HashSet<_> = steps
            .iter()
            .filter_map(
                |step| if let Step::Replace { by, .. } = step { Some(discriminant(by)) } else { None },
            )
            .collect();
        assert_eq!(successors.len(), 4);
    }
}
