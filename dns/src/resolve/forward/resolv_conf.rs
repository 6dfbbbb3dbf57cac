//! Parsing of `/etc/resolv.conf` and files like it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::net::if_::if_nametoindex;

use crate::config::DNS_PORT;

/// The stub addresses of systemd-resolved; its own upstreams are in [`RESOLVED`].
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 54))];
pub(super) const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The name servers in order, without duplicates. Search lists and options only concern stub resolvers.
pub(super) fn name_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let server = words.next().and_then(server);
        servers.extend(server.filter(|server| !servers.contains(server)));
    }
    servers
}

/// Parses an address. A link-local one carries its interface: `fe80::1%eth0`.
fn server(word: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = word.split_once('%') else {
        return Some((word.parse::<IpAddr>().ok()?, DNS_PORT).into());
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = interface.parse().ok().or_else(|| if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(address, DNS_PORT, 0, scope).into())
}

/// Whether a server is the host's stub. The stub may forward to this server again, so its own upstreams are used
/// directly.
pub(super) fn is_stub(server: &SocketAddr) -> bool {
    STUBS.contains(&server.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_order() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("nameserver 10.0.0.1\nnameserver 10.0.0.2\n", &["10.0.0.1:53", "10.0.0.2:53"]),
            ("# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nsearch nameserver 3.3.3.3\n", &[]),
            ("  nameserver\t fd00::1  # ours\noptions ndots:5", &["[fd00::1]:53"]),
            ("nameserver 10.0.0.1\nnameserver 10.0.0.1", &["10.0.0.1:53"]),
            ("nameserver fe80::1%lo\nnameserver fe80::2%7", &["[fe80::1%1]:53", "[fe80::2%7]:53"]),
            ("nameserver fe80::1%nowhere\nnameserver 10.0.0.1%lo\nnameserver example.org\nnameserver", &[]),
        ];
        for (text, want) in cases {
            let got: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
            assert_eq!(got, *want, "{text:?}");
        }
    }
}
