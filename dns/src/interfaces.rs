//! The addresses of this machine, and the networks of its pods.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use ipnetwork::IpNetwork;
use nix::sys::socket::SockaddrStorage;

/// The networks of this node's pods, as far as its Node object states them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LocalNetworks(Arc<ArcSwap<Vec<IpNetwork>>>);

impl LocalNetworks {
    pub fn set(&self, networks: Vec<IpNetwork>) {
        self.0.store(Arc::new(networks));
    }

    pub fn contain(&self, client: IpAddr) -> bool {
        self.0.load().iter().any(|network| network.contains(client))
    }
}

/// All addresses, without duplicates.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<_> = interface_addresses()?.map(|(_, address)| address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// The addresses of one interface, with port 0. Link-local ones carry the scope of the interface, as `bind`
/// requires.
pub fn addresses_of(interface: &str) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<_> =
        interface_addresses()?.filter(|(name, _)| name == interface).map(|(_, address)| address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn interface_addresses() -> io::Result<impl Iterator<Item = (String, SocketAddr)>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    Ok(interfaces.filter_map(|interface| {
        let address = socket_address(interface.address.as_ref()?)?;
        Some((interface.interface_name, address))
    }))
}

/// Returns `None` for a family other than IP.
pub fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::serve::server::Listener;

    #[tokio::test]
    async fn every_address_of_an_interface_can_be_bound() {
        let names: BTreeSet<String> = interface_addresses().unwrap().map(|(name, _)| name).collect();
        let addresses: Vec<_> = names.iter().flat_map(|name| addresses_of(name).unwrap()).collect();
        for address in &addresses {
            let bound = Listener::bind(*address, 1).unwrap_or_else(|error| panic!("{error}: {error:?}"));
            assert_eq!(bound.address.ip(), address.ip());
        }
        let all = addresses.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>();
        assert!(all.contains(&IpAddr::from([127, 0, 0, 1])), "{all:?}");
    }
}
