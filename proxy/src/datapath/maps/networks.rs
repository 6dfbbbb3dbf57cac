//! The maps of networks: source ranges, networks of Services, pod ranges.

use std::{net::IpAddr, path::Path};

use aya::{
    Pod,
    maps::{Map, MapData, lpm_trie::Key, lpm_trie::LpmTrie},
};
use ipnetwork::IpNetwork;
use proxy_ebpf::abi::{PodRange, SourceRange, Unclaimed, map, mapped as as_mapped};

use super::{
    mmap_array::{Access, MmapArray},
    open::{OpenError, absent_is_fine, mapped, open_error, pinned, refused, unmapped_array, unwritten},
};
use crate::{
    model::address::{IpFamily, PerFamily},
    reconcile::MapError,
};

/// Bits of the set id that precede an address.
const SET_BITS: u32 = 32;

/// A pair of LPM tries, one for each family.
#[derive(Debug)]
pub struct Tries<K4: Pod, K6: Pod> {
    v4: LpmTrie<MapData, K4, u32>,
    v6: LpmTrie<MapData, K6, u32>,
    /// Of each.
    capacity: u32,
}

pub type SourceRanges = Tries<SourceRange<[u8; 4]>, SourceRange<[u8; 16]>>;
pub type ServiceNetworks = Tries<[u8; 4], [u8; 16]>;

impl<K4: Pod, K6: Pod> Tries<K4, K6> {
    /// Entries of each trie.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn open(dir: &Path, v4: &'static str, v6: &'static str) -> Result<Self, OpenError> {
        let ((v4, most_v4), (v6, most_v6)) = (trie(dir, v4)?, trie(dir, v6)?);
        Ok(Self { v4, v6, capacity: most_v4.min(most_v6) })
    }
}

impl SourceRanges {
    pub fn open_ranges(dir: &Path) -> Result<Self, OpenError> {
        Self::open(dir, map::SOURCE_RANGES_V4, map::SOURCE_RANGES_V6)
    }

    /// Every range with the id of its set.
    pub fn all(&self) -> Result<Vec<(u32, IpNetwork)>, MapError> {
        let mut ranges = Vec::new();
        for key in self.v4.keys() {
            let key = key.map_err(refused("read", map::SOURCE_RANGES_V4))?;
            let SourceRange { set, address } = key.data();
            ranges.extend(
                network(address.into(), key.prefix_len(), SET_BITS)
                    .map(|range| (u32::from_ne_bytes(set), range)),
            );
        }
        for key in self.v6.keys() {
            let key = key.map_err(refused("read", map::SOURCE_RANGES_V6))?;
            let SourceRange { set, address } = key.data();
            ranges.extend(
                network(address.into(), key.prefix_len(), SET_BITS)
                    .map(|range| (u32::from_ne_bytes(set), range)),
            );
        }
        Ok(ranges)
    }

    pub fn insert(&mut self, set: u32, range: IpNetwork) -> Result<(), MapError> {
        let (set, prefix) = (set.to_ne_bytes(), SET_BITS + u32::from(range.prefix()));
        match range.network() {
            IpAddr::V4(ip) => {
                let key = Key::new(prefix, SourceRange { set, address: ip.octets() });
                self.v4.insert(&key, 1, 0).map_err(unwritten(map::SOURCE_RANGES_V4, self.capacity))
            }
            IpAddr::V6(ip) => {
                let key = Key::new(prefix, SourceRange { set, address: ip.octets() });
                self.v6.insert(&key, 1, 0).map_err(unwritten(map::SOURCE_RANGES_V6, self.capacity))
            }
        }
    }

    pub fn remove(&mut self, set: u32, range: IpNetwork) -> Result<(), MapError> {
        let (set, prefix) = (set.to_ne_bytes(), SET_BITS + u32::from(range.prefix()));
        match range.network() {
            IpAddr::V4(ip) => {
                let key = Key::new(prefix, SourceRange { set, address: ip.octets() });
                absent_is_fine(self.v4.remove(&key), map::SOURCE_RANGES_V4)
            }
            IpAddr::V6(ip) => {
                let key = Key::new(prefix, SourceRange { set, address: ip.octets() });
                absent_is_fine(self.v6.remove(&key), map::SOURCE_RANGES_V6)
            }
        }
    }
}

/// The key of a network in the trie of its family.
pub enum NetworkKey {
    V4(Key<[u8; 4]>),
    V6(Key<[u8; 16]>),
}

pub fn network_key(network: IpNetwork) -> NetworkKey {
    let prefix = network.prefix().into();
    match network.network() {
        IpAddr::V4(ip) => NetworkKey::V4(Key::new(prefix, ip.octets())),
        IpAddr::V6(ip) => NetworkKey::V6(Key::new(prefix, ip.octets())),
    }
}

impl ServiceNetworks {
    pub fn open_networks(dir: &Path) -> Result<Self, OpenError> {
        Self::open(dir, map::SERVICE_NETWORKS_V4, map::SERVICE_NETWORKS_V6)
    }

    pub fn all(&self) -> Result<Vec<(IpNetwork, Unclaimed)>, MapError> {
        let mut networks = Vec::new();
        for entry in self.v4.iter() {
            let (key, value) = entry.map_err(refused("read", map::SERVICE_NETWORKS_V4))?;
            networks.extend(network(key.data().into(), key.prefix_len(), 0).zip(unclaimed(value)));
        }
        for entry in self.v6.iter() {
            let (key, value) = entry.map_err(refused("read", map::SERVICE_NETWORKS_V6))?;
            networks.extend(network(key.data().into(), key.prefix_len(), 0).zip(unclaimed(value)));
        }
        Ok(networks)
    }

    pub fn insert(&mut self, network: IpNetwork, unclaimed: Unclaimed) -> Result<(), MapError> {
        let value = unclaimed as u32;
        match network_key(network) {
            NetworkKey::V4(key) => {
                self.v4.insert(&key, value, 0).map_err(unwritten(map::SERVICE_NETWORKS_V4, self.capacity))
            }
            NetworkKey::V6(key) => {
                self.v6.insert(&key, value, 0).map_err(unwritten(map::SERVICE_NETWORKS_V6, self.capacity))
            }
        }
    }

    pub fn remove(&mut self, network: IpNetwork) -> Result<(), MapError> {
        match network_key(network) {
            NetworkKey::V4(key) => absent_is_fine(self.v4.remove(&key), map::SERVICE_NETWORKS_V4),
            NetworkKey::V6(key) => absent_is_fine(self.v6.remove(&key), map::SERVICE_NETWORKS_V6),
        }
    }
}

fn unclaimed(value: u32) -> Option<Unclaimed> {
    [Unclaimed::Unallocated, Unclaimed::UndefinedPort]
        .into_iter()
        .find(|unclaimed| *unclaimed as u32 == value)
}

/// Returns `None` for a key that no agent wrote.
fn network(address: IpAddr, prefix: u32, offset: u32) -> Option<IpNetwork> {
    IpNetwork::new(address, u8::try_from(prefix.checked_sub(offset)?).ok()?).ok()
}

/// A trie and its capacity.
fn trie<K: Pod>(dir: &Path, name: &'static str) -> Result<(LpmTrie<MapData, K, u32>, u32), OpenError> {
    let (data, capacity) = pinned(dir, name)?;
    let trie = LpmTrie::try_from(Map::LpmTrie(data)).map_err(open_error(&dir.join(name)))?;
    Ok((trie, capacity))
}

/// The source ranges of pods, one for each family.
#[derive(Debug)]
pub struct PodRanges(MmapArray<PodRange>);

impl PodRanges {
    pub fn open(dir: &Path, access: Access) -> Result<Self, OpenError> {
        mapped(dir, map::POD_RANGES, access).map(Self)
    }

    pub fn set(&mut self, ranges: &PerFamily<Option<IpNetwork>>) -> Result<(), MapError> {
        for (index, family) in (0..).zip(IpFamily::BOTH) {
            let range = ranges.get(family).map_or_else(PodRange::default, pod_range);
            self.0.write(index, range).map_err(unmapped_array(map::POD_RANGES))?;
        }
        Ok(())
    }
}

fn pod_range(range: IpNetwork) -> PodRange {
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => as_mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    };
    let mask = match range.mask() {
        // All bits before a mapped IPv4 address count.
        IpAddr::V4(mask) => (u128::MAX << 32 | u128::from(u32::from(mask))).to_be_bytes(),
        IpAddr::V6(mask) => mask.octets(),
    };
    PodRange { network: wide(range.network()), mask }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn pod_ranges_are_masked_where_the_address_is() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.1.2.3", "11.1.2.3"),
            ("10.244.1.0/24", "10.244.1.255", "10.244.2.0"),
            ("fd00:10::/64", "fd00:10::ffff", "fd00:10:0:1::1"),
        ] {
            let PodRange { network, mask } = pod_range(range.parse().unwrap());
            let holds = |ip: &str| {
                let ip: Ipv6Addr = match ip.parse().unwrap() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                ip.octets().iter().zip(mask).map(|(byte, mask)| byte & mask).eq(network)
            };
            assert!(holds(inside) && !holds(outside), "{range}");
        }
    }
}
