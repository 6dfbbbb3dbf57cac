//! `SERVICE_NETWORKS_*`: the treatment of packets to Service addresses that no frontend claims.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::Unclaimed;

use super::maps::{BatchError, LbMaps, MapError};

/// Entries per batch.
const BATCH: usize = 1024;

/// The entries in the maps, and the changes that are not written yet.
#[derive(Debug, Default)]
pub struct UnclaimedNetworks {
    written: HashMap<IpNetwork, Unclaimed>,
    /// The ServiceCIDRs among them, kept apart because they are few and read often.
    service_cidrs: HashSet<IpNetwork>,
    pending: BTreeMap<IpNetwork, Option<Unclaimed>>,
}

impl UnclaimedNetworks {
    /// Reads the entries of an earlier agent.
    pub fn adopt(maps: &impl LbMaps) -> Result<Self, MapError> {
        let written: HashMap<_, _> = maps.service_networks()?.into_iter().collect();
        let is_unallocated = |entry: &(&IpNetwork, &Unclaimed)| *entry.1 == Unclaimed::Unallocated;
        let service_cidrs = written.iter().filter(is_unallocated).map(|(network, _)| *network).collect();
        Ok(Self { written, service_cidrs, pending: BTreeMap::new() })
    }

    /// Replaces all entries at the next `write`.
    pub fn set_all(&mut self, entries: impl IntoIterator<Item = (IpNetwork, Unclaimed)>) {
        let mut gone: BTreeSet<IpNetwork> = self.written.keys().copied().collect();
        self.pending.clear();
        for (network, unclaimed) in entries {
            gone.remove(&network);
            self.set(network, Some(unclaimed));
        }
        self.pending.extend(gone.into_iter().map(|network| (network, None)));
    }

    /// Sets (`Some`) or removes (`None`) an entry at the next `write`.
    pub fn set(&mut self, network: IpNetwork, unclaimed: Option<Unclaimed>) {
        if self.written.get(&network).copied() == unclaimed {
            self.pending.remove(&network);
        } else {
            self.pending.insert(network, unclaimed);
        }
    }

    /// Whether an entry for the network exists or is pending.
    pub fn has(&self, network: IpNetwork) -> bool {
        self.written.contains_key(&network) || self.pending.contains_key(&network)
    }

    /// The ServiceCIDRs, written or pending.
    pub fn service_cidrs(&self) -> impl Iterator<Item = IpNetwork> {
        let is_one = |entry: &(&IpNetwork, &Option<Unclaimed>)| *entry.1 == Some(Unclaimed::Unallocated);
        let pending = self.pending.iter().filter(is_one).map(|(network, _)| *network);
        self.service_cidrs.iter().copied().chain(pending)
    }

    pub fn is_written(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes the pending entries. Entries that fail stay pending.
    pub fn write(&mut self, maps: &mut impl LbMaps) -> Result<(), MapError> {
        let gone = self.pending.iter().filter(|(_, entry)| entry.is_none());
        for network in gone.map(|(network, _)| *network).collect::<Vec<_>>() {
            maps.remove_service_network(network)?;
            self.pending.remove(&network);
            self.written.remove(&network);
            self.service_cidrs.remove(&network);
        }
        loop {
            let set = self.pending.iter().filter_map(|(network, entry)| Some((*network, (*entry)?)));
            let next: Vec<_> = set.take(BATCH).collect();
            if next.is_empty() {
                return Ok(());
            }
            self.insert(maps, &next)?;
        }
    }

    fn insert(&mut self, maps: &mut impl LbMaps, next: &[(IpNetwork, Unclaimed)]) -> Result<(), MapError> {
        let result = maps.insert_service_networks(next);
        let count = result.as_ref().map_or_else(|failure| failure.inserted, |()| next.len());
        for (network, unclaimed) in next.iter().take(count) {
            self.pending.remove(network);
            self.written.insert(*network, *unclaimed);
            if *unclaimed == Unclaimed::Unallocated {
                self.service_cidrs.insert(*network);
            } else {
                self.service_cidrs.remove(network);
            }
        }
        result.map_err(|BatchError { error, .. }| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{Capacity, FakeMaps};

    const CAPACITY: Capacity =
        Capacity { frontends: 1, descriptors: 2, slots: 1, backends: 1, services: 2, source_ranges: 64 };

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn failed_entries_are_written_later_and_others_are_removed() {
        let mut maps = FakeMaps::new(CAPACITY);
        let mut networks = UnclaimedNetworks::adopt(&maps).unwrap();
        networks.set_all([
            (network("10.96.0.0/16"), Unclaimed::Unallocated),
            (network("10.96.0.1/32"), Unclaimed::UndefinedPort),
        ]);
        maps.calls_left = Some(1);
        assert!(networks.write(&mut maps).is_err() && !networks.is_written());
        assert_eq!(networks.service_cidrs().count(), 1, "a pending entry can be removed, too");
        maps.calls_left = None;
        networks.write(&mut maps).unwrap();
        networks.set(network("10.96.0.1/32"), None);
        networks.write(&mut maps).unwrap();
        assert_eq!(maps.service_networks().unwrap(), [(network("10.96.0.0/16"), Unclaimed::Unallocated)]);

        let mut successor = UnclaimedNetworks::adopt(&maps).unwrap();
        maps.calls_left = Some(0);
        successor.set_all([(network("10.96.0.0/16"), Unclaimed::Unallocated)]);
        successor.write(&mut maps).expect("no write is needed");
    }
}
