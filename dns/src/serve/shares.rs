//! Shares of a limited resource, so that no client can exhaust it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::address::network;

/// A client may use one part in this many of the slots that others do not use.
const DIVISOR: usize = 4;
/// Every client may use so many slots while there are any.
const MIN_SHARE: usize = 16;

/// The slots in use, per client.
#[derive(Debug)]
pub struct Shares {
    capacity: usize,
    usage: Mutex<Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    total: usize,
    /// By client and by network.
    each: HashMap<Key, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Network(Ipv6Addr),
    Client(IpAddr),
}

/// A slot in use; dropping it releases the slot.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    client: IpAddr,
}

impl Shares {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, usage: Mutex::default() }
    }

    /// Acquires a slot. Returns `None` if the client uses its share: a quarter of the slots that others do not use. An
    /// IPv6 client has a quarter of the share of its /64, which the pods of a node often have in common.
    pub fn acquire(self: &Arc<Self>, client: IpAddr) -> Option<Share> {
        let mut usage = self.lock();
        if usage.total >= self.capacity {
            return None;
        }
        let (mut available, mut used) = (self.capacity, usage.total);
        for key in keys(client) {
            let own = usage.each.get(&key).copied().unwrap_or_default();
            let share = (available.saturating_sub(used - own) / DIVISOR).max(MIN_SHARE);
            if own >= share {
                return None;
            }
            (available, used) = (share, own);
        }
        usage.total += 1;
        keys(client).for_each(|key| *usage.each.entry(key).or_default() += 1);
        Some(Share { shares: Arc::clone(self), client })
    }

    fn release(&self, client: IpAddr) {
        let mut usage = self.lock();
        usage.total -= 1;
        for key in keys(client) {
            let own = usage.each.entry(key).or_default();
            *own -= 1;
            if *own == 0 {
                usage.each.remove(&key);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.release(self.client);
    }
}

/// The network of an IPv6 client, then the client.
fn keys(client: IpAddr) -> impl Iterator<Item = Key> {
    let network = match network(client) {
        IpAddr::V4(_) => None,
        IpAddr::V6(network) => Some(Key::Network(network)),
    };
    network.into_iter().chain([Key::Client(client)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(shares: &Arc<Shares>, client: &str) -> Vec<Share> {
        let client: IpAddr = client.parse().unwrap();
        std::iter::from_fn(|| shares.acquire(client)).collect()
    }

    #[test]
    fn a_client_gets_a_quarter_of_what_is_free() {
        let shares = Arc::new(Shares::new(1000));
        let first = take(&shares, "10.0.0.1");
        let second = take(&shares, "10.0.0.2");
        assert_eq!((first.len(), second.len()), (250, 187));
        drop(first);
        assert_eq!(take(&shares, "10.0.0.3").len(), 203, "of the 813 that the second leaves");
    }

    #[test]
    fn many_clients_together_leave_slots_for_others() {
        let shares = Arc::new(Shares::new(2048));
        let held: Vec<_> = (1..=8).map(|n| take(&shares, &format!("10.0.0.{n}"))).collect();
        assert!(held.iter().all(|held| held.len() > 50));
        assert!(take(&shares, "10.0.1.1").len() > 50);
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_its_clients_do_not_exhaust_its_share() {
        let shares = Arc::new(Shares::new(1000));
        assert_eq!(take(&shares, "fd00::1").len(), 62);
        let held: Vec<_> = (1..=200).flat_map(|n| take(&shares, &format!("fd00::{n:x}"))).collect();
        assert_eq!(held.len(), 250);
        assert!(!take(&shares, "fd00:0:0:1::1").is_empty());
        drop(held);
        assert!(shares.lock().each.is_empty());
    }

    #[test]
    fn a_small_resource_is_used_whole() {
        let shares = Arc::new(Shares::new(2));
        assert_eq!(take(&shares, "10.0.0.1").len(), 2);
    }
}
