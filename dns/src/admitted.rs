//! The clients that a server answers, changed while it runs as the networks of the cluster become known.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use ipnetwork::IpNetwork;

/// The present rule. Every clone sees a change.
#[derive(Clone, Debug, Default)]
pub struct Admitted(Arc<ArcSwap<Clients>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// As CoreDNS.
    #[default]
    All,
    Known(KnownClients),
}

/// Clients besides loopback, this machine as of the start of the server, and the addresses of Services and endpoints,
/// which are always known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownClients {
    pub networks: Vec<IpNetwork>,
    /// The addresses of this machine.
    pub own: BTreeSet<IpAddr>,
    /// Whether a client may be a pod with an address outside of `networks`.
    pub unknown_pods: UnknownPods,
}

/// The families in which not all networks of pods are known. In these, private addresses and the neighbours of
/// endpoints are admitted: a pod that gets no answer is worse than a neighbour that does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnknownPods {
    pub v4: bool,
    pub v6: bool,
}

impl Admitted {
    pub fn new(clients: Clients) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(clients)))
    }

    pub fn set(&self, clients: Clients) {
        self.0.store(Arc::new(clients));
    }

    pub fn load(&self) -> Guard<Arc<Clients>> {
        self.0.load()
    }
}

impl KnownClients {
    pub fn has(&self, client: IpAddr) -> bool {
        client.is_loopback()
            || self.networks.iter().any(|network| network.contains(client))
            || self.own.contains(&client)
    }
}

impl UnknownPods {
    pub const ALL: Self = Self { v4: true, v6: true };

    pub fn has_family_of(self, client: IpAddr) -> bool {
        if client.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// The first and the last address of the network that an endpoint and its neighbours share: /24 or /64.
pub fn neighbourhood(client: IpAddr) -> (IpAddr, IpAddr) {
    match client {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            (IpAddr::V4((bits & !0xff).into()), IpAddr::V4((bits | 0xff).into()))
        }
        IpAddr::V6(v6) => {
            let (bits, hosts) = (v6.to_bits(), u128::from(u64::MAX));
            (IpAddr::V6((bits & !hosts).into()), IpAddr::V6((bits | hosts).into()))
        }
    }
}

/// Whether an address is not routed in the internet: loopback, RFC 1918, RFC 6598, RFC 4193, link-local, unspecified.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            // RFC 6598: 100.64.0.0/10.
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            let is_local = v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_unspecified();
            is_local || is_shared
        }
        IpAddr::V6(v6) => {
            let is_local = v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified();
            is_local || v6.is_unique_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for (address, private) in [
            ("127.0.0.1", true),
            ("10.0.0.1", true),
            ("100.64.0.1", true),
            ("169.254.20.10", true),
            ("0.0.0.0", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::ffff:10.0.0.1", true),
            ("100.128.0.1", false),
            ("198.51.100.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
        }
    }

    #[test]
    fn neighbours_share_a_network() {
        for (address, first, last) in [
            ("198.51.100.7", "198.51.100.0", "198.51.100.255"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ] {
            let want = (first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(neighbourhood(address.parse().unwrap()), want, "{address}");
        }
    }
}
