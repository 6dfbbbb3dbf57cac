//! Limits of TCP connections, per client and of all clients together.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use crate::{
    address::network,
    observe::metrics::{Loss, Losses},
    serve::shares::{Share, Shares},
};

const MAX_CONNECTIONS: usize = 2048;
const MAX_PER_CLIENT: usize = 256;
/// Limit of the octets of unwritten replies. A client above the limit does not read, and its connection is closed:
/// a few connections with large answers would fill the memory of the node.
const MAX_UNREAD: usize = 64 << 20;
const MAX_UNREAD_PER_NETWORK: usize = MAX_UNREAD / 4;
const MAX_UNREAD_PER_CLIENT: usize = MAX_UNREAD_PER_NETWORK / 4;

/// The connections, unwritten octets and turns per client and per network, so that none can exhaust them. The clients of an
/// IPv6 network, which the pods of a node often have in common, have its turns one after another.
#[derive(Debug)]
pub struct Connections {
    clients: Mutex<HashMap<Key, ClientUsage>>,
    shares: Arc<Shares>,
    /// Permits for unwritten octets, of all clients together.
    permits: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Client(IpAddr),
    Network(IpAddr),
}

/// The usage of one client or network.
#[derive(Debug)]
struct ClientUsage {
    connections: usize,
    queues: Queues,
}

/// Its unwritten octets and its turns.
#[derive(Debug, Clone)]
struct Queues {
    permits: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Queues {
    fn new(octets: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(octets)), turns: Arc::new(Semaphore::new(1)) }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            clients: Mutex::default(),
            shares: Arc::new(Shares::new(MAX_CONNECTIONS)),
            permits: Arc::new(Semaphore::new(MAX_UNREAD)),
        }
    }
}

impl Connections {
    pub fn admit(self: &Arc<Self>, client: IpAddr) -> Option<ConnectionSlot> {
        let share = self.shares.acquire(client)?;
        let mut clients = self.lock();
        let known = clients.get(&Key::Client(client));
        if known.is_some_and(|usage| usage.connections >= MAX_PER_CLIENT) {
            return None;
        }
        let [own, network] = keys(client).map(|(key, octets)| {
            let new = || ClientUsage { connections: 0, queues: Queues::new(octets) };
            let usage = clients.entry(key).or_insert_with(new);
            usage.connections += 1;
            usage.queues.clone()
        });
        Some(ConnectionSlot { connections: self.clone(), client, own, network, _share: share })
    }

    fn remove(&self, client: IpAddr) {
        let mut clients = self.lock();
        for (key, _) in keys(client) {
            let Entry::Occupied(mut usage) = clients.entry(key) else { continue };
            usage.get_mut().connections -= 1;
            if usage.get().connections == 0 {
                usage.remove();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, ClientUsage>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client and its network, with the limits of their unwritten octets.
fn keys(client: IpAddr) -> [(Key, usize); 2] {
    [(Key::Client(client), MAX_UNREAD_PER_CLIENT), (Key::Network(network(client)), MAX_UNREAD_PER_NETWORK)]
}

/// A counted connection; dropping it releases the slot.
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    pub client: IpAddr,
    own: Queues,
    network: Queues,
    _share: Share,
}

impl ConnectionSlot {
    /// Waits for the client's turn, which its connections have one after another, and for that of its network: a client
    /// with many connections or addresses waits for itself, and others wait for one turn of it. Not to be held while the
    /// client is waited for.
    pub async fn turn(&self) -> Option<Turn> {
        // Never closed.
        let own = self.own.turns.clone().acquire_owned().await.ok()?;
        let network = self.network.turns.clone().acquire_owned().await.ok()?;
        Some([own, network])
    }

    /// Reserves buffer for a reply. Returns `None` at the limit of unwritten octets; the connection is then closed.
    pub fn reserve(&self, reply: Vec<u8>, losses: &Losses) -> Option<QueuedReply> {
        let permits = self.acquire(reply.len());
        if permits.is_none() {
            debug!(client = %self.client, "connection closed, its replies are not read");
            losses.count(Loss::Unread, 1);
        }
        permits.map(|permits| QueuedReply { reply, permits })
    }

    /// Reserves buffer for a message of a transfer, when there is some: the client is sent as much as it reads. Returns
    /// `None` for a message that is larger than the buffer.
    pub async fn reserve_when_free(&self, reply: Vec<u8>) -> Option<QueuedReply> {
        let octets = u32::try_from(reply.len()).ok().filter(|_| reply.len() <= MAX_UNREAD_PER_CLIENT)?;
        let own = self.own.permits.clone().acquire_many_owned(octets).await.ok()?;
        let network = self.network.permits.clone().acquire_many_owned(octets).await.ok()?;
        let shared = self.connections.permits.clone().acquire_many_owned(octets).await.ok()?;
        Some(QueuedReply { reply, permits: [own, network, shared] })
    }

    pub fn acquire(&self, octets: usize) -> Option<BufferPermits> {
        let octets = u32::try_from(octets).ok()?;
        let own = self.own.permits.clone().try_acquire_many_owned(octets).ok()?;
        let network = self.network.permits.clone().try_acquire_many_owned(octets).ok()?;
        let shared = self.connections.permits.clone().try_acquire_many_owned(octets).ok()?;
        Some([own, network, shared])
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.remove(self.client);
    }
}

/// A reply to be written, with the permits for its octets.
pub struct QueuedReply {
    pub reply: Vec<u8>,
    pub permits: BufferPermits,
}

/// The client's own permits, those of its network, and the shared ones.
pub type BufferPermits = [OwnedSemaphorePermit; 3];

/// The turn of a client, and that of its network.
pub type Turn = [OwnedSemaphorePermit; 2];

#[cfg(test)]
mod tests {
    use std::{
        iter,
        net::{Ipv4Addr, Ipv6Addr},
    };

    use super::*;

    #[test]
    fn clients_with_many_connections_leave_some_to_others() {
        let connections = Arc::<Connections>::default();
        let connect = |last: u8| {
            let admitted = iter::from_fn(|| connections.admit(Ipv4Addr::new(10, 0, 0, last).into()));
            admitted.collect::<Vec<_>>()
        };
        let first = connect(1);
        assert_eq!(first.len(), MAX_PER_CLIENT);
        let others: Vec<_> = (2..=8).map(connect).collect();
        assert!(others.iter().all(|own| own.len() > 50));
        assert!(connect(9).len() > 50, "eight clients have taken all connections");
        drop(first);
        assert!(connect(9).len() > 100, "a closed connection is free again");
    }

    #[test]
    fn an_ipv6_network_leaves_room_for_unread_replies_of_others() {
        const PIECE: usize = 1 << 20;
        let connections = Arc::<Connections>::default();
        let connect = |network: u16, host: u16| {
            connections.admit(Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host).into()).unwrap()
        };
        let slots: Vec<_> = (1..=32).map(|host| connect(1, host)).collect();
        let held: Vec<_> =
            slots.iter().flat_map(|slot| iter::from_fn(|| slot.acquire(PIECE)).collect::<Vec<_>>()).collect();
        assert_eq!(held.len() * PIECE, MAX_UNREAD_PER_NETWORK);
        let own = iter::from_fn(|| slots[0].acquire(PIECE)).count();
        assert_eq!(own, 0, "the network has its part");
        let other = connect(2, 1);
        let others: Vec<_> = iter::from_fn(|| other.acquire(PIECE)).collect();
        assert_eq!(others.len() * PIECE, MAX_UNREAD_PER_CLIENT);
        drop((held, slots, others, other));
        assert!(connections.lock().is_empty());
    }
}
