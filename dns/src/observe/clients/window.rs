//! The clients of a quarter of an hour: tables of fixed size, one for each worker that has anything to count.

use std::{net::IpAddr, sync::OnceLock, time::SystemTime};

use super::counters::{Counters, Counts};

/// As many clients find room in one table, and several times the pods of a large node.
pub const SLOTS: usize = 1024;
/// How many places a client may have. More would make a full table slow.
const PROBES: usize = 16;

#[derive(Debug)]
pub struct Window {
    pub since: SystemTime,
    shards: Box<[OnceLock<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    slots: Box<[OnceLock<Box<Client>>]>,
    /// Of those who found no place.
    others: Counters,
}

#[derive(Debug)]
struct Client {
    address: IpAddr,
    counters: Counters,
}

impl Window {
    pub fn new(shards: usize, since: SystemTime) -> Self {
        Self { since, shards: (0..shards).map(|_| OnceLock::new()).collect() }
    }

    pub fn counters(&self, shard: usize, client: IpAddr, add: impl FnOnce(&Counters)) {
        add(self.shards[shard].get_or_init(Shard::new).counters(client));
    }

    /// Every client of every table; who has several workers comes several times.
    pub fn each(&self, mut tell: impl FnMut(IpAddr, Counts)) {
        let slots = self.shards.iter().filter_map(OnceLock::get).flat_map(|shard| &shard.slots);
        slots.filter_map(OnceLock::get).for_each(|client| tell(client.address, client.counters.counts()));
    }

    pub fn others(&self) -> Counts {
        self.shards.iter().filter_map(OnceLock::get).map(|shard| shard.others.counts()).sum()
    }
}

impl Shard {
    fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| OnceLock::new()).collect(), others: Counters::default() }
    }

    /// The client's own, from its first query on.
    fn counters(&self, address: IpAddr) -> &Counters {
        let first = hash(address);
        for step in 0..PROBES {
            let slot = &self.slots[first.wrapping_add(step) % SLOTS];
            let client = slot.get_or_init(|| Box::new(Client { address, counters: Counters::default() }));
            if client.address == address {
                return &client.counters;
            }
        }
        &self.others
    }
}

/// Spreads addresses that differ anywhere. Who makes up addresses to fill the table hides who comes later, whatever the
/// hash.
fn hash(address: IpAddr) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (upper, lower) = match address {
        IpAddr::V4(v4) => (0, u64::from(u32::from(v4))),
        IpAddr::V6(v6) => ((u128::from(v6) >> 64) as u64, u128::from(v6) as u64),
    };
    let mixed = (upper.wrapping_mul(ODD).rotate_left(32) ^ lower).wrapping_mul(ODD);
    // The upper bits depend on all of them.
    (mixed >> (u64::BITS - SLOTS.ilog2())) as usize
}
