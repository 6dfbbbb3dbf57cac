//! The addresses of this machine.

use std::{io, net::IpAddr};

/// Those of one interface, or of all.
pub fn addresses(interface: Option<&str>) -> io::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let mut addresses: Vec<IpAddr> = interfaces
        .filter(|present| interface.is_none_or(|name| present.interface_name == name))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}
