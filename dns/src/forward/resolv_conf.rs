//! The name servers of a file like `/etc/resolv.conf`.

use std::net::IpAddr;

/// Where systemd-resolved answers on a host; what it asks itself stands in [`RESOLVED`].
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 54))];
pub(super) const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Each name server once, in order. Search lists and options are the business of stub resolvers.
pub(super) fn name_servers(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone says which interface a link-local address belongs to, which no socket address here can express.
        let address = words.next().and_then(|word| word.parse().ok());
        servers.extend(address.filter(|address| !servers.contains(address)));
    }
    servers
}

/// A host's stub leads to whatever the host asks, possibly to this server again: what it asks is better asked directly.
pub(super) fn is_stub(address: &IpAddr) -> bool {
    STUBS.contains(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_order() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("nameserver 10.0.0.1\nnameserver 10.0.0.2\n", &["10.0.0.1", "10.0.0.2"]),
            ("# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nsearch nameserver 3.3.3.3\n", &[]),
            ("  nameserver\t fd00::1  # ours\noptions ndots:5", &["fd00::1"]),
            ("nameserver 10.0.0.1\nnameserver 10.0.0.1", &["10.0.0.1"]),
            ("nameserver fe80::1%eth0\nnameserver example.org\nnameserver", &[]),
        ];
        for (text, want) in cases {
            let got: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
            assert_eq!(got, *want, "{text:?}");
        }
    }
}
