//! The clients of a quarter of an hour: tables of fixed size, one for each worker that has anything to count.

use std::{net::IpAddr, sync::OnceLock, time::SystemTime};

use super::tally::{Counts, Tally};

/// As many clients find room in one table, and several times the pods of a large node.
pub const PLACES: usize = 1024;
/// How many places a client may have. More would make a full table slow.
const PROBES: usize = 16;

#[derive(Debug)]
pub struct Window {
    pub since: SystemTime,
    shards: Box<[OnceLock<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    places: Box<[OnceLock<Box<Client>>]>,
    /// Of those who found no place.
    others: Tally,
}

#[derive(Debug)]
struct Client {
    address: IpAddr,
    tally: Tally,
}

impl Window {
    pub fn new(shards: usize, since: SystemTime) -> Self {
        Self { since, shards: (0..shards).map(|_| OnceLock::new()).collect() }
    }

    pub fn tally(&self, shard: usize, client: IpAddr, add: impl FnOnce(&Tally)) {
        add(self.shards[shard].get_or_init(Shard::new).tally(client));
    }

    /// Every client of every table; who has several workers comes several times.
    pub fn each(&self, mut tell: impl FnMut(IpAddr, Counts)) {
        let places = self.shards.iter().filter_map(OnceLock::get).flat_map(|shard| &shard.places);
        places.filter_map(OnceLock::get).for_each(|client| tell(client.address, client.tally.counts()));
    }

    pub fn others(&self) -> Counts {
        self.shards.iter().filter_map(OnceLock::get).map(|shard| shard.others.counts()).sum()
    }
}

impl Shard {
    fn new() -> Self {
        Self { places: (0..PLACES).map(|_| OnceLock::new()).collect(), others: Tally::default() }
    }

    /// The client's own, from its first query on.
    fn tally(&self, address: IpAddr) -> &Tally {
        let first = hash(address);
        for step in 0..PROBES {
            let place = &self.places[first.wrapping_add(step) % PLACES];
            let client = place.get_or_init(|| Box::new(Client { address, tally: Tally::default() }));
            if client.address == address {
                return &client.tally;
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
    (mixed >> (u64::BITS - PLACES.ilog2())) as usize
}
