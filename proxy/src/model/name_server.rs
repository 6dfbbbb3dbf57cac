//! The node's own name server, and the Service that it serves in place of the Service's endpoints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{
    address::IpFamily,
    service::{ServiceInfo, ServiceKey},
};

/// The port of the frontends that the server serves; its own port may differ.
pub const PORT: u16 = 53;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// The cluster's DNS Service.
    pub service: ServiceKey,
    /// Listening addresses that are local and bound; `None`: port 53 of the node's primary addresses.
    pub listens: Option<Vec<SocketAddr>>,
    /// Addresses served as additional ClusterIPs of the Service, on this node only.
    pub local_addresses: Vec<IpAddr>,
    /// The networks of additional clients.
    pub allow: Vec<IpNetwork>,
}

impl NameServer {
    /// The address at which pods and the node reach it: the node's primary address of a family, if it listens
    /// there.
    pub fn address(&self, primary: IpAddr) -> Option<SocketAddr> {
        let family = IpFamily::of(primary);
        let Some(listens) = &self.listens else {
            return is_reachable(primary).then(|| SocketAddr::new(primary, PORT));
        };
        let mut reachable = listens
            .iter()
            .filter(|address| IpFamily::of(address.ip()) == family && is_reachable(address.ip()));
        let first = reachable.clone().next();
        reachable.find(|address| address.ip() == primary).or(first).copied()
    }

    /// Whether an endpoint of the Service is this server: both are alive or neither. `is_own` says whether the
    /// node has the endpoint's address.
    pub fn is_endpoint(&self, endpoint: SocketAddr, is_own: bool) -> bool {
        match &self.listens {
            Some(listens) => listens.contains(&endpoint),
            None => endpoint.port() == PORT && is_own,
        }
    }

    /// Adds the local addresses to the Service, if it is the one served.
    pub fn add_local_addresses(&self, service: &mut ServiceInfo) {
        if service.key == self.service {
            service.local_ips = self.local_addresses.clone().into();
        }
    }
}

/// Loopback and link-local addresses are not reachable from pods, which have their own.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && v4 != Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && v6 != Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_reached_at_the_primary_address_if_it_listens_there() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (listens, v4, v6) in [
            (None, Some("10.0.0.1:53"), Some("[fd00::1]:53")),
            (Some(&["10.0.0.9:53", "10.0.0.1:53"][..]), Some("10.0.0.1:53"), None),
            (Some(&["10.0.0.9:5353"]), Some("10.0.0.9:5353"), None),
            (
                Some(&["127.0.0.1:53", "169.254.20.10:53", "[fe80::1]:53", "[fd00::9]:53"]),
                None,
                Some("[fd00::9]:53"),
            ),
            (Some(&[]), None, None),
        ] {
            let listens = listens.map(|all| all.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
            let server = NameServer {
                service: ServiceKey::new("kube-system", "kube-dns"),
                listens: listens.clone(),
                local_addresses: Vec::new(),
                allow: Vec::new(),
            };
            for (primary, want) in [("10.0.0.1", v4), ("fd00::1", v6)] {
                let want = want.map(|text: &str| text.parse::<SocketAddr>().unwrap());
                assert_eq!(server.address(ip(primary)), want, "{listens:?} {primary}");
            }
        }
    }
}
