//! The order of requests over UDP: a client that sends many does not delay those of others.
//!
//! In each turn the first requests of every client are handled as they arrive. Those beyond wait, and are handled one at a
//! time, one client after another; before each, newer requests of others are received. A queue of the kernel alone would
//! make everybody wait for all requests of the client that sends most, and lose everybody's when it is full.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use super::socket::Datagram;
use crate::serve::shares::{Share, Shares};

/// Requests of one client that are handled as they arrive, in each turn: a stub resolver sends two at a time.
const SHARE: usize = 4;
/// Waiting requests that are handled before others are received, while no others come.
const SLICE: usize = 8;
/// For so many slices after a request of another client, a slice is one request.
const SHARED: u32 = 1024;
/// Limits of the waiting requests: of one client, and of clients with any.
const MAX_WAITING: usize = 256;
const MAX_CLIENTS: usize = 64;

/// The requests of a socket that wait, and those of this turn.
#[derive(Debug)]
pub struct Turns {
    /// Requests of this turn, by client.
    seen: Vec<(IpAddr, usize)>,
    /// By client; the next one to be handled is the first.
    waiting: VecDeque<Queue>,
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
    client: IpAddr,
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
        Self { seen: Vec::new(), waiting: VecDeque::new(), places, shared: 0, spare: Vec::new() }
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
        if let Some(queue) = self.waiting.iter_mut().find(|queue| queue.client == client) {
            // Behind its earlier ones.
            if queue.requests.len() >= MAX_WAITING {
                return Arrival::Dropped;
            }
            queue.requests.push_back(copy(&mut self.spare, datagram, request));
            return Arrival::Waits;
        }
        if self.count(client) <= SHARE {
            if self.has_waiting() {
                self.shared = SHARED;
            }
            return Arrival::Now;
        }
        let Some(place) = self.places.acquire(client) else { return Arrival::Dropped };
        let first = copy(&mut self.spare, datagram, request);
        self.waiting.push_back(Queue { client, requests: [first].into(), _place: place });
        Arrival::Waits
    }

    /// The requests of this client in this turn, with this one.
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

    /// Some waiting requests of the client whose turn it is.
    pub fn slice(&mut self) -> Vec<Waiting> {
        let Some(mut queue) = self.waiting.pop_front() else { return Vec::new() };
        let size = if self.shared > 0 || !self.waiting.is_empty() { 1 } else { SLICE };
        self.shared = self.shared.saturating_sub(1);
        let slice = queue.requests.drain(..queue.requests.len().min(size)).collect();
        if !queue.requests.is_empty() {
            self.waiting.push_back(queue);
        }
        slice
    }

    /// All waiting requests.
    pub fn rest(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting).into_iter().flat_map(|queue| queue.requests).collect()
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
        for number in 2..=200 {
            iter::repeat_with(|| arrives(&mut turns, number)).take(SHARE + 1).for_each(drop);
        }
        assert_eq!(turns.waiting.len(), MAX_CLIENTS);
        assert_eq!(turns.rest().len(), MAX_WAITING + MAX_CLIENTS - 1);
    }

    #[test]
    fn a_client_with_many_addresses_of_one_network_leaves_places_to_others() {
        let mut turns = Turns::default();
        turns.begin();
        let address = |network: u16, host: u16| Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host).into();
        let taken = (1..=200).filter(|host| gets_place(&mut turns, address(1, *host))).count();
        assert_eq!(taken, MAX_CLIENTS / 4);
        assert!(gets_place(&mut turns, address(2, 1)), "another network");
        assert!(gets_place(&mut turns, client(1)), "IPv4");
        // A place is free again when its requests are handled.
        turns.rest();
        turns.begin();
        assert!(gets_place(&mut turns, address(1, 999)));
    }
}
