//! What becomes of packets to addresses of Services that no frontend claims: `SERVICE_NETWORKS_*`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::Unclaimed;

use super::maps::{Interrupted, LbMaps, MapError};

/// Entries that are written at a time.
const BATCH: usize = 1024;

/// The entries as they are wanted, and those that are not as they are wanted yet.
#[derive(Debug, Default)]
pub struct Networks {
    written: HashMap<IpNetwork, Unclaimed>,
    /// Those of them that are ServiceCIDRs: few, and asked for often.
    unallocated: HashSet<IpNetwork>,
    unwritten: BTreeMap<IpNetwork, Option<Unclaimed>>,
}

impl Networks {
    /// What an earlier agent left.
    pub fn adopt(maps: &impl LbMaps) -> Result<Self, MapError> {
        let written: HashMap<_, _> = maps.service_networks()?.into_iter().collect();
        let is_unallocated = |entry: &(&IpNetwork, &Unclaimed)| *entry.1 == Unclaimed::Unallocated;
        let unallocated = written.iter().filter(is_unallocated).map(|(network, _)| *network).collect();
        Ok(Self { written, unallocated, unwritten: BTreeMap::new() })
    }

    /// Makes these the only entries, once `write` is called.
    pub fn want_only(&mut self, wanted: impl IntoIterator<Item = (IpNetwork, Unclaimed)>) {
        let mut gone: BTreeSet<IpNetwork> = self.written.keys().copied().collect();
        self.unwritten.clear();
        for (network, unclaimed) in wanted {
            gone.remove(&network);
            self.want(network, Some(unclaimed));
        }
        self.unwritten.extend(gone.into_iter().map(|network| (network, None)));
    }

    pub fn want(&mut self, network: IpNetwork, unclaimed: Option<Unclaimed>) {
        if self.written.get(&network).copied() == unclaimed {
            self.unwritten.remove(&network);
        } else {
            self.unwritten.insert(network, unclaimed);
        }
    }

    /// Whether there is an entry for the network.
    pub fn has(&self, network: IpNetwork) -> bool {
        self.written.contains_key(&network) || self.unwritten.contains_key(&network)
    }

    /// The ServiceCIDRs, as they are written or wanted.
    pub fn unallocated(&self) -> impl Iterator<Item = IpNetwork> {
        let is_one = |entry: &(&IpNetwork, &Option<Unclaimed>)| *entry.1 == Some(Unclaimed::Unallocated);
        let unwritten = self.unwritten.iter().filter(is_one).map(|(network, _)| *network);
        self.unallocated.iter().copied().chain(unwritten)
    }

    pub fn is_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Writes what is not as it is wanted. What fails stays to be tried again.
    pub fn write(&mut self, maps: &mut impl LbMaps) -> Result<(), MapError> {
        let gone = self.unwritten.iter().filter(|(_, wanted)| wanted.is_none());
        for network in gone.map(|(network, _)| *network).collect::<Vec<_>>() {
            maps.remove_service_network(network)?;
            self.unwritten.remove(&network);
            self.written.remove(&network);
            self.unallocated.remove(&network);
        }
        loop {
            let wanted = self.unwritten.iter().filter_map(|(network, wanted)| Some((*network, (*wanted)?)));
            let next: Vec<_> = wanted.take(BATCH).collect();
            if next.is_empty() {
                return Ok(());
            }
            self.insert(maps, &next)?;
        }
    }

    fn insert(&mut self, maps: &mut impl LbMaps, next: &[(IpNetwork, Unclaimed)]) -> Result<(), MapError> {
        let result = maps.insert_service_networks(next);
        let count = result.as_ref().map_or_else(|interrupted| interrupted.inserted, |()| next.len());
        for (network, unclaimed) in next.iter().take(count) {
            self.unwritten.remove(network);
            self.written.insert(*network, *unclaimed);
            if *unclaimed == Unclaimed::Unallocated {
                self.unallocated.insert(*network);
            } else {
                self.unallocated.remove(network);
            }
        }
        result.map_err(|Interrupted { error, .. }| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{Capacity, FakeMaps};

    const CAPACITY: Capacity = Capacity { frontends: 1, descriptors: 2, slots: 1, backends: 1, services: 2 };

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn what_fails_is_written_later_and_what_is_not_wanted_goes() {
        let mut maps = FakeMaps::new(CAPACITY);
        let mut networks = Networks::adopt(&maps).unwrap();
        networks.want_only([
            (network("10.96.0.0/16"), Unclaimed::Unallocated),
            (network("10.96.0.1/32"), Unclaimed::UndefinedPort),
        ]);
        maps.calls_left = Some(1);
        assert!(networks.write(&mut maps).is_err() && !networks.is_written());
        assert_eq!(networks.unallocated().count(), 1, "one that was only wanted can be given up, too");
        maps.calls_left = None;
        networks.write(&mut maps).unwrap();
        networks.want(network("10.96.0.1/32"), None);
        networks.write(&mut maps).unwrap();
        assert_eq!(maps.service_networks().unwrap(), [(network("10.96.0.0/16"), Unclaimed::Unallocated)]);

        let mut successor = Networks::adopt(&maps).unwrap();
        maps.calls_left = Some(0);
        successor.want_only([(network("10.96.0.0/16"), Unclaimed::Unallocated)]);
        successor.write(&mut maps).expect("nothing to write");
    }
}
