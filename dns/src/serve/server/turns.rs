//! The order of requests over UDP: a client that sends many does not delay those of others.
//!
//! In each turn the first requests of every client are handled as they arrive. Those beyond wait, and are handled one at a
//! time, one client after another; before each, newer requests of others are received. A queue of the kernel alone would
//! make everybody wait for all requests of the client that sends most, and lose everybody's when it is full.
//!
//! A /64 of IPv6 is one client, which takes the turn of each of its addresses by chance: else an outside host would have any
//! number of turns. As the pods of a node often have one in common, its part is that of several addresses.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use super::socket::Datagram;
use crate::{
    address::network,
    serve::shares::{Share, Shares},
};

/// Requests of one client that are handled as they arrive, in each turn: a stub resolver sends two at a time.
const SHARE: usize = 4;
/// Those of one /64: an address has a quarter of it, as in [`Shares`].
const NETWORK_SHARE: usize = 4 * SHARE;
/// Addresses of a /64 of which a waiting request is handled in one slice.
const NETWORK_SLICE: usize = 4;
/// Waiting requests that are handled before others are received, while no others come.
const SLICE: usize = 8;
/// For so many slices after a request of another client, a slice is one request.
const SHARED: u32 = 1024;
/// Limits of the waiting requests: of one client, of all, and of clients with any.
const MAX_WAITING: usize = 256;
const MAX_WAITING_IN_ALL: usize = 64 * MAX_WAITING;
const MAX_CLIENTS: usize = 1024;

/// The requests of a socket that wait, and those of this turn.
#[derive(Debug)]
pub struct Turns {
    /// Requests of this turn, by client and by network.
    seen: Vec<(IpAddr, usize)>,
    /// By client. Never empty.
    waiting: HashMap<IpAddr, Queue>,
    /// The waiting clients of each network, the next one first. Never empty.
    networks: HashMap<IpAddr, VecDeque<IpAddr>>,
    /// The networks; the one whose turn it is is the first.
    order: VecDeque<IpAddr>,
    /// The number of waiting requests.
    total: usize,
    /// The places of waiting clients: one /64 has a part of them.
    places: Arc<Shares>,
    /// Slices left of one request each.
    shared: u32,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
}

/// The waiting requests of one client, in their order. Never empty.
#[derive(Debug)]
struct Queue {
    requests: VecDeque<Waiting>,
    _place: Share,
}

/// A request that waits.
#[derive(Debug)]
pub struct Waiting {
    pub datagram: Datagram,
    pub request: Vec<u8>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is to be handled now.
    Now,
    Waits,
    /// Its client has too many waiting ones, or too many clients wait, in all or in its /64.
    Dropped,
}

impl Default for Turns {
    fn default() -> Self {
        let places = Arc::new(Shares::new(MAX_CLIENTS));
        Self {
            seen: Vec::new(),
            waiting: HashMap::new(),
            networks: HashMap::new(),
            order: VecDeque::new(),
            total: 0,
            places,
            shared: 0,
            spare: Vec::new(),
        }
    }
}

impl Turns {
    pub fn begin(&mut self) {
        self.seen.clear();
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes a request, in the order of arrival.
    pub fn arrives(&mut self, client: IpAddr, datagram: &Datagram, request: &[u8]) -> Arrival {
        let is_full = self.total >= MAX_WAITING_IN_ALL;
        if let Some(queue) = self.waiting.get_mut(&client) {
            // Behind its earlier ones.
            if is_full || queue.requests.len() >= MAX_WAITING {
                return Arrival::Dropped;
            }
            queue.requests.push_back(copy(&mut self.spare, datagram, request));
            self.total += 1;
            return Arrival::Waits;
        }
        if self.is_within_share(client) {
            if self.has_waiting() {
                self.shared = SHARED;
            }
            return Arrival::Now;
        }
        let Some(place) = self.places.acquire(client).filter(|_| !is_full) else { return Arrival::Dropped };
        let first = copy(&mut self.spare, datagram, request);
        self.waiting.insert(client, Queue { requests: [first].into(), _place: place });
        self.total += 1;
        let network = network(client);
        match self.networks.entry(network) {
            Entry::Occupied(mut clients) => clients.get_mut().push_back(client),
            Entry::Vacant(vacant) => {
                vacant.insert([client].into());
                self.order.push_back(network);
            }
        }
        Arrival::Waits
    }

    fn is_within_share(&mut self, client: IpAddr) -> bool {
        let network = network(client);
        self.count(client) <= SHARE && (network == client || self.count(network) <= NETWORK_SHARE)
    }

    /// The requests of this client or network in this turn, with this one.
    fn count(&mut self, client: IpAddr) -> usize {
        // Mostly that of the request before.
        match self.seen.iter_mut().rev().find(|(other, _)| *other == client) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                self.seen.push((client, 1));
                1
            }
        }
    }

    /// Some waiting requests of the network whose turn it is.
    pub fn slice(&mut self) -> Vec<Waiting> {
        let Some(network) = self.order.pop_front() else { return Vec::new() };
        let Some(mut clients) = self.networks.remove(&network) else { return Vec::new() };
        let is_alone = self.shared == 0 && self.order.is_empty();
        self.shared = self.shared.saturating_sub(1);
        let size = if is_alone { SLICE } else { NETWORK_SLICE.min(clients.len()) };
        let mut slice = Vec::with_capacity(size);
        while slice.len() < size
            && let Some(client) = clients.pop_front()
        {
            let Entry::Occupied(mut queue) = self.waiting.entry(client) else { continue };
            slice.extend(queue.get_mut().requests.pop_front());
            if queue.get().requests.is_empty() {
                queue.remove();
            } else {
                clients.push_back(client);
            }
        }
        self.total -= slice.len();
        if !clients.is_empty() {
            self.networks.insert(network, clients);
            self.order.push_back(network);
        }
        slice
    }

    /// All waiting requests.
    pub fn rest(&mut self) -> Vec<Waiting> {
        let mut rest = Vec::with_capacity(self.total);
        while self.has_waiting() {
            rest.extend(self.slice());
        }
        rest
    }

    /// Takes a buffer back.
    pub fn recycle(&mut self, waiting: Waiting) {
        if self.spare.len() < MAX_WAITING {
            self.spare.push(waiting.request);
        }
    }
}

fn copy(spare: &mut Vec<Vec<u8>>, datagram: &Datagram, request: &[u8]) -> Waiting {
    let mut buffer = spare.pop().unwrap_or_default();
    buffer.clear();
    buffer.extend_from_slice(request);
    Waiting { datagram: *datagram, request: buffer }
}

#[cfg(test)]
mod tests {
    use std::{
        iter,
        net::{Ipv4Addr, Ipv6Addr},
    };

    use super::*;

    fn client(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    fn arrives(turns: &mut Turns, number: u8) -> Arrival {
        arrives_from(turns, client(number), number)
    }

    fn arrives_from(turns: &mut Turns, client: IpAddr, content: u8) -> Arrival {
        let datagram = Datagram { len: 1, client: (client, 1).into(), to: None, overflows: 0 };
        turns.arrives(client, &datagram, &[content])
    }

    /// Whether a client that sends more than its share in a turn gets a place.
    fn gets_place(turns: &mut Turns, client: IpAddr) -> bool {
        let arrivals = iter::repeat_with(|| arrives_from(turns, client, 0)).take(SHARE + 1);
        arrivals.last() == Some(Arrival::Waits)
    }

    #[test]
    fn requests_beyond_a_share_wait_and_those_of_others_do_not() {
        let mut turns = Turns::default();
        turns.begin();
        let first: Vec<_> = iter::repeat_with(|| arrives(&mut turns, 1)).take(40).collect();
        assert!(first[..SHARE].iter().all(|arrival| *arrival == Arrival::Now));
        assert!(first[SHARE..].iter().all(|arrival| *arrival == Arrival::Waits));
        assert_eq!(turns.slice().len(), SLICE, "no others are there");
        assert_eq!(arrives(&mut turns, 2), Arrival::Now);
        assert_eq!(turns.slice().len(), 1, "others are there");
        turns.begin();
        assert_eq!(arrives(&mut turns, 1), Arrival::Waits, "behind its earlier ones");
        assert_eq!(arrives(&mut turns, 2), Arrival::Now);
    }

    #[test]
    fn clients_with_waiting_requests_take_turns() {
        let mut turns = Turns::default();
        turns.begin();
        for number in [1, 2] {
            iter::repeat_with(|| arrives(&mut turns, number)).take(SHARE + 3).for_each(drop);
        }
        let mut order = Vec::new();
        while turns.has_waiting() {
            for waiting in turns.slice() {
                order.push(waiting.request[0]);
                turns.recycle(waiting);
            }
        }
        assert_eq!(order, [1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn waiting_requests_are_limited() {
        let mut turns = Turns::default();
        turns.begin();
        let arrivals: Vec<_> = iter::repeat_with(|| arrives(&mut turns, 1)).take(1000).collect();
        let waiting = arrivals.iter().filter(|arrival| **arrival == Arrival::Waits).count();
        assert_eq!((waiting, arrivals.last()), (MAX_WAITING, Some(&Arrival::Dropped)));
        let client = |number: u32| Ipv4Addr::from_bits(0x0a01_0000 + number).into();
        for number in 1..=10_000 {
            gets_place(&mut turns, client(number));
        }
        assert_eq!(turns.waiting.len(), MAX_CLIENTS);
        assert_eq!(turns.total, MAX_WAITING + MAX_CLIENTS - 1);
        for number in (1..=10_000).cycle().take(1_000_000) {
            arrives_from(&mut turns, client(number), 0);
        }
        assert_eq!(turns.total, MAX_WAITING_IN_ALL);
        assert_eq!(turns.rest().len(), MAX_WAITING_IN_ALL);
        assert!(turns.total == 0 && turns.waiting.is_empty() && turns.networks.is_empty());
    }

    /// The first address of a network of many, and those of others, get their part of the turns whatever it does.
    #[test]
    fn a_network_has_the_turns_of_one_client() {
        let mut turns = Turns::default();
        turns.begin();
        let address = |network: u16, host: u16| Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host).into();
        let arrivals: Vec<Arrival> =
            (1..=200).map(|host| arrives_from(&mut turns, address(1, host), 1)).collect();
        let now = arrivals.iter().filter(|arrival| **arrival == Arrival::Now).count();
        assert_eq!(now, NETWORK_SHARE, "of one request each");
        assert!(!arrivals.contains(&Arrival::Dropped), "the pods of a node");
        assert_eq!(arrives_from(&mut turns, address(2, 1), 2), Arrival::Now, "another network");
        assert_eq!(arrives(&mut turns, 3), Arrival::Now, "IPv4");
        assert!(gets_place(&mut turns, address(2, 1)) && gets_place(&mut turns, client(3)));
        let order: Vec<Vec<u8>> = iter::repeat_with(|| turns.slice())
            .take(3)
            .map(|slice| slice.iter().map(|waiting| waiting.request[0]).collect())
            .collect();
        assert_eq!(order, [vec![1; NETWORK_SLICE], vec![0], vec![0]], "they take turns");
        // Each address of a network has its part of these: the one that sends most does not delay its neighbours.
        for _ in 0..100 {
            arrives_from(&mut turns, address(1, 20), 4);
        }
        let handled: Vec<u8> = turns.rest().iter().map(|waiting| waiting.request[0]).collect();
        let last = handled.iter().rposition(|content| *content == 1).unwrap();
        let before = handled[..last].iter().filter(|content| **content == 4).count();
        assert!(before <= 1, "{before} of one address");
    }

    #[test]
    fn a_client_with_many_addresses_of_one_network_leaves_places_to_others() {
        let mut turns = Turns::default();
        turns.begin();
        let address = |network: u16, host: u16| Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host).into();
        let taken = (1..=200).filter(|host| gets_place(&mut turns, address(1, *host))).count();
        assert_eq!(taken, 200, "as many as a node has pods");
        let taken = taken + (201..=999).filter(|host| gets_place(&mut turns, address(1, *host))).count();
        assert_eq!(taken, MAX_CLIENTS / 4);
        assert!(gets_place(&mut turns, address(2, 1)), "another network");
        assert!(gets_place(&mut turns, client(1)), "IPv4");
        // A place is free again when its requests are handled.
        turns.rest();
        turns.begin();
        assert!(gets_place(&mut turns, address(1, 9999)));
    }
}
