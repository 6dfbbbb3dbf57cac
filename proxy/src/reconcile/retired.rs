//! Entries that wait for a grace period.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use crate::model::address::IpFamily;

/// The number of a pass that retired entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// An entry that is unreachable for new look-ups and may be reused after a grace period.
#[derive(Clone, Debug)]
pub enum Retired {
    Frontend(u32),
    Descriptor(u32),
    Slots { offset: u32, length: u32 },
    Backend(IpFamily, u32),
    Service(u32),
    Ranges { set: u32, content: BTreeSet<IpNetwork>, was_published: bool },
}
