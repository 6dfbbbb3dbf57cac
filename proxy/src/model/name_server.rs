//! The node's own name server, and the Service in whose place it answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    address::{IpFamily, Protocol},
    frontend::{FrontendKey, FrontendKind},
    node::LocalNode,
    service::{ServiceInfo, ServiceKey},
};

/// The port that names are asked at, whatever port the server has.
pub const PORT: u16 = 53;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// The cluster's DNS Service.
    pub service: ServiceKey,
    /// Where it listens; nothing: at port 53 of the node's primary addresses.
    pub listens: Option<Vec<SocketAddr>>,
    /// What is served as if it were a ClusterIP of that Service, too.
    pub local_addresses: Vec<IpAddr>,
}

impl NameServer {
    /// Whether a frontend is one that this server answers for. Clients outside have other kinds of them.
    pub fn answers(&self, key: &FrontendKey, kind: FrontendKind, service: &ServiceKey) -> bool {
        kind == FrontendKind::ClusterIp
            && key.port == PORT
            && key.protocol != Protocol::Sctp
            && *service == self.service
    }

    /// Where pods and the node reach it: at the node's primary address, if it listens there.
    pub fn address(&self, family: IpFamily, node: &LocalNode) -> Option<SocketAddr> {
        let primary = node.primary(family);
        let Some(listens) = &self.listens else {
            return is_reachable(primary).then(|| SocketAddr::new(primary, PORT));
        };
        let mut reachable = listens
            .iter()
            .filter(|address| IpFamily::of(address.ip()) == family && is_reachable(address.ip()));
        let first = reachable.clone().next();
        reachable.find(|address| address.ip() == primary).or(first).copied()
    }

    /// Whether an endpoint of the Service is this very server: when it is gone, so is that.
    pub fn is_at(&self, endpoint: SocketAddr, node: &LocalNode) -> bool {
        match &self.listens {
            Some(listens) => listens.contains(&endpoint),
            None => endpoint.port() == PORT && node.owns(endpoint.ip()),
        }
    }

    /// Gives its Service the addresses that are wanted besides.
    pub fn extend(&self, service: &mut ServiceInfo) {
        if service.key == self.service {
            service.local_ips = self.local_addresses.clone().into();
        }
    }
}

/// Every pod has a loopback and link-local addresses of its own.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && v4 != Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && v6 != Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::Policy;

    #[test]
    fn it_is_reached_at_the_primary_address_if_it_listens_there() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let policy = Policy { node_addresses: ["10.0.0.1", "fd00::1"].map(ip).into(), ..Policy::default() };
        let node = LocalNode::new(&policy, None);
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
            };
            for (family, want) in [(IpFamily::V4, v4), (IpFamily::V6, v6)] {
                let want = want.map(|text: &str| text.parse::<SocketAddr>().unwrap());
                assert_eq!(server.address(family, &node), want, "{listens:?} {family}");
            }
        }
    }
}
