//! Admission of connections at the limits of their number.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::task::{AbortHandle, Id};

use crate::address::network;

/// Limits of the connections of one listener.
#[derive(Clone, Copy)]
pub struct Capacity {
    /// Connections from other hosts, and from pods.
    pub others: usize,
    /// Connections from the node's own addresses, such as the kubelet's probes.
    pub own: usize,
    /// Connections of one client from elsewhere: an IPv4 address or an IPv6 network of 64 bits.
    pub per_client: usize,
}

/// The state of one connection.
#[derive(Clone, Default)]
pub struct Activity(Arc<Mutex<State>>);

struct State {
    /// When the last request began; the start of the connection before the first one.
    since: Instant,
    is_in_request: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { since: Instant::now(), is_in_request: false }
    }
}

/// A request until its response is ready. A client that does not read the response waits like any other.
pub struct InRequest(Activity);

impl Activity {
    pub fn begin_request(&self) -> InRequest {
        *self.state() = State { since: Instant::now(), is_in_request: true };
        InRequest(self.clone())
    }

    /// The connection with the lowest rank is closed first.
    fn rank(&self) -> (bool, Instant) {
        let state = self.state();
        (state.is_in_request, state.since)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.state().is_in_request = false;
    }
}

/// The client of a connection, as far as limits distinguish clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Own,
    Other(IpAddr),
}

impl Client {
    fn of(address: IpAddr, is_own: bool) -> Self {
        if is_own { Self::Own } else { Self::Other(network(address)) }
    }
}

struct Connection {
    client: Client,
    activity: Activity,
    task: AbortHandle,
}

/// The open connections of one listener.
pub struct Admission {
    capacity: Capacity,
    open: HashMap<Id, Connection>,
}

impl Admission {
    pub fn new(capacity: Capacity) -> Self {
        Self { capacity, open: HashMap::new() }
    }

    /// Adds a connection. Closes another one at a limit.
    pub fn admit(&mut self, address: IpAddr, is_own: bool, activity: Activity, task: AbortHandle) {
        let client = Client::of(address, is_own);
        let Capacity { others, own, per_client } = self.capacity;
        if is_own {
            self.make_room(own, |other| other == Client::Own);
        } else {
            self.make_room(per_client, |other| other == client);
            self.make_room(others, |other| other != Client::Own);
        }
        self.open.insert(task.id(), Connection { client, activity, task });
    }

    /// Removes a connection that has ended.
    pub fn remove(&mut self, task: Id) {
        self.open.remove(&task);
    }

    /// Closes the connection of these clients that has waited longest without a request, if they have as many as
    /// the limit.
    fn make_room(&mut self, limit: usize, is_counted: impl Fn(Client) -> bool) {
        let counted = || self.open.iter().filter(|(_, connection)| is_counted(connection.client));
        if counted().count() < limit {
            return;
        }
        let longest = counted().min_by_key(|(_, connection)| connection.activity.rank()).map(|(id, _)| *id);
        if let Some(closed) = longest.and_then(|id| self.open.remove(&id)) {
            closed.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_client() {
        let client = |address: &str| Client::of(address.parse().unwrap(), false);
        assert!(client("2001:db8:0:1::1") == client("2001:db8:0:1:ffff::2"));
        assert!(client("2001:db8:0:1::1") != client("2001:db8:0:2::1"));
        assert!(client("192.0.2.1") != client("192.0.2.2"));
        assert!(Client::of("2001:db8::1".parse().unwrap(), true) == Client::Own);
    }

    #[test]
    fn the_connection_in_a_request_is_closed_last() {
        let (first, second) = (Activity::default(), Activity::default());
        assert!(first.rank() < second.rank());
        let in_request = first.begin_request();
        assert!(second.rank() < first.rank());
        // Also if the other one's request, which is over, began later.
        drop(second.begin_request());
        assert!(second.rank() < first.rank());
        drop(in_request);
        drop(first.begin_request());
        assert!(second.rank() < first.rank(), "its request is later");
    }
}
