//! Limits of TCP connections, per client and of all clients together.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use crate::{
    observe::metrics::{Loss, Losses},
    serve::shares::{Share, Shares},
};

const MAX_CONNECTIONS: usize = 2048;
const MAX_PER_CLIENT: usize = 256;
/// Limit of the octets of unwritten replies. A client above the limit does not read, and its connection is closed:
/// a few connections with large answers would fill the memory of the node.
const MAX_UNREAD: usize = 64 << 20;
const MAX_UNREAD_PER_CLIENT: usize = 4 << 20;

/// The connections, unwritten octets and turns per client, so that no client can exhaust them.
#[derive(Debug)]
pub struct Connections {
    clients: Mutex<HashMap<IpAddr, ClientUsage>>,
    shares: Arc<Shares>,
    /// Permits for unwritten octets, of all clients together.
    permits: Arc<Semaphore>,
}

/// The usage of one client.
#[derive(Debug)]
struct ClientUsage {
    connections: usize,
    permits: Arc<Semaphore>,
    turns: Arc<Semaphore>,
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
        let usage = clients.entry(client).or_insert_with(|| ClientUsage {
            connections: 0,
            permits: Arc::new(Semaphore::new(MAX_UNREAD_PER_CLIENT)),
            turns: Arc::new(Semaphore::new(1)),
        });
        if usage.connections >= MAX_PER_CLIENT {
            return None;
        }
        usage.connections += 1;
        let (permits, turns) = (usage.permits.clone(), usage.turns.clone());
        Some(ConnectionSlot { connections: self.clone(), client, permits, turns, _share: share })
    }

    fn remove(&self, client: IpAddr) {
        let mut clients = self.lock();
        let Entry::Occupied(mut usage) = clients.entry(client) else { return };
        usage.get_mut().connections -= 1;
        if usage.get().connections == 0 {
            usage.remove();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, ClientUsage>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted connection; dropping it releases the slot.
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    pub client: IpAddr,
    permits: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    _share: Share,
}

impl ConnectionSlot {
    /// Waits for the client's turn, which its connections have one after another: a client with many connections waits
    /// for itself, and others wait for one turn of it. Not to be held while the client is waited for.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        self.turns.clone().acquire_owned().await.ok()
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
        let own = self.permits.clone().acquire_many_owned(octets).await.ok()?;
        let shared = self.connections.permits.clone().acquire_many_owned(octets).await.ok()?;
        Some(QueuedReply { reply, permits: [own, shared] })
    }

    pub fn acquire(&self, octets: usize) -> Option<BufferPermits> {
        let octets = u32::try_from(octets).ok()?;
        let own = self.permits.clone().try_acquire_many_owned(octets).ok()?;
        let shared = self.connections.permits.clone().try_acquire_many_owned(octets).ok()?;
        Some([own, shared])
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

/// The client's own permits, and the shared ones.
pub type BufferPermits = [OwnedSemaphorePermit; 2];

#[cfg(test)]
mod tests {
    use std::{iter, net::Ipv4Addr};

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
}
