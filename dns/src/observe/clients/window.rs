//! The clients of one window: tables of fixed size, one for each worker that has counted queries.

use std::{net::IpAddr, sync::OnceLock, time::SystemTime};

use super::counters::{Counters, Counts};

/// The slots of one table: several times the pods of a large node.
pub const SLOTS: usize = 1024;
/// The slots that a client may hash to. More would make a full table slow.
const PROBES: usize = 16;

#[derive(Debug)]
pub struct Window {
    pub since: SystemTime,
    shards: Box<[OnceLock<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    slots: Box<[OnceLock<Box<Client>>]>,
    /// Clients without a slot.
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

    /// Visits every client of every table; a client of several workers is visited several times.
    pub fn each(&self, mut visit: impl FnMut(IpAddr, Counts)) {
        let slots = self.shards.iter().filter_map(OnceLock::get).flat_map(|shard| &shard.slots);
        slots.filter_map(OnceLock::get).for_each(|client| visit(client.address, client.counters.counts()));
    }

    pub fn others(&self) -> Counts {
        self.shards.iter().filter_map(OnceLock::get).map(|shard| shard.others.counts()).sum()
    }
}

impl Shard {
    fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| OnceLock::new()).collect(), others: Counters::default() }
    }

    /// The counters of a client. Takes a free slot for a new client, or returns `others` if there is none.
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

/// Spreads addresses that differ in any bits. It is not keyed: forged addresses can fill the table with any hash.
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
