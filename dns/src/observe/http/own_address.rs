//! Addresses of this node, for the places that are kept for its own connections.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::interfaces;

/// How long a list of addresses is used.
const MAX_AGE: Duration = Duration::from_secs(5);

struct Known {
    addresses: HashSet<IpAddr>,
    read: Instant,
}

static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

/// Whether the client that connected to `to` is on this node. Pods are not: their addresses are in other network
/// namespaces.
pub fn is_own(client: IpAddr, to: IpAddr) -> bool {
    // The kernel takes the same address for both ends unless the client asks for another one.
    client.is_loopback() || client == to || is_local(client)
}

fn is_local(client: IpAddr) -> bool {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.as_ref().is_none_or(|known| known.read.elapsed() > MAX_AGE) {
        let addresses = interfaces::addresses().unwrap_or_default().into_iter().collect();
        *known = Some(Known { addresses, read: Instant::now() });
    }
    known.as_ref().is_some_and(|known| known.addresses.contains(&client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_local_addresses_are_own() {
        let documentation: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(is_own("127.0.0.9".parse().unwrap(), documentation));
        assert!(is_own(documentation, documentation));
        assert!(!is_own("198.51.100.7".parse().unwrap(), documentation));
        for address in interfaces::addresses().unwrap() {
            assert!(is_own(address, documentation), "{address}");
        }
    }
}
