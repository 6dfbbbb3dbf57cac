//! What becomes of packets to addresses of Services that no frontend claims: `SERVICE_NETWORKS_*`.

use std::collections::{BTreeMap, HashMap, HashSet};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::Unclaimed;

use super::maps::{LbMaps, MapError};

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
        let wanted: Vec<_> = wanted.into_iter().collect();
        let kept: HashSet<IpNetwork> = wanted.iter().map(|(network, _)| *network).collect();
        let gone: Vec<_> = self.written.keys().copied().filter(|network| !kept.contains(network)).collect();
        self.unwritten = gone.into_iter().map(|network| (network, None)).collect();
        wanted.into_iter().for_each(|(network, unclaimed)| self.want(network, Some(unclaimed)));
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

    /// The networks that are wholly a Service's.
    pub fn unallocated(&self) -> impl Iterator<Item = IpNetwork> {
        self.unallocated.iter().copied()
    }

    pub fn is_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Writes what is not as it is wanted. What fails stays to be tried again.
    pub fn write(&mut self, maps: &mut impl LbMaps) -> Result<(), MapError> {
        while let Some((network, unclaimed)) = self.unwritten.first_key_value() {
            let (network, unclaimed) = (*network, *unclaimed);
            match unclaimed {
                Some(unclaimed) => {
                    maps.insert_service_network(network, unclaimed)?;
                    self.written.insert(network, unclaimed);
                    if unclaimed == Unclaimed::Unallocated {
                        self.unallocated.insert(network);
                    } else {
                        self.unallocated.remove(&network);
                    }
                }
                None => {
                    maps.remove_service_network(network)?;
                    self.written.remove(&network);
                    self.unallocated.remove(&network);
                }
            }
            self.unwritten.remove(&network);
        }
        Ok(())
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
