//! The three kinds of external frontends of a Service, numbered so that stories can have many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::lab::addresses::Addresses;

/// The port of every Service at its own addresses.
pub const PORT: u16 = 80;
const FIRST_NODE_PORT: u16 = 30_100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NodePort,
    LoadBalancer,
    ExternalIp,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::NodePort, Self::LoadBalancer, Self::ExternalIp];
}

/// The frontends of the Service with this number.
#[derive(Debug, Clone, Copy)]
pub struct Frontends {
    pub node_port: u16,
    pub load_balancer: Addresses,
    pub external: Addresses,
}

impl Frontends {
    pub fn new(number: u8) -> Self {
        let addresses = |v4: [u8; 3], v6: u16| Addresses {
            v4: Ipv4Addr::new(v4[0], v4[1], v4[2], 10 + number),
            v6: Ipv6Addr::new(0x2001, 0xdb8, v6, 0, 0, 0, 0, 0x10 + u16::from(number)),
        };
        Self {
            node_port: FIRST_NODE_PORT + u16::from(number),
            load_balancer: addresses([203, 0, 113], 0x113),
            external: addresses([192, 0, 2], 0x2),
        }
    }

    /// Addresses that no interface owns; a router must have routes to a node for them.
    pub fn routed(self) -> impl Iterator<Item = IpAddr> {
        self.load_balancer.both().into_iter().chain(self.external.both())
    }

    /// The frontends of both families; a NodePort at a node with these addresses.
    pub fn dialled(self, kind: Kind, node: Addresses) -> [SocketAddr; 2] {
        let (addresses, port) = match kind {
            Kind::NodePort => (node, self.node_port),
            Kind::LoadBalancer => (self.load_balancer, PORT),
            Kind::ExternalIp => (self.external, PORT),
        };
        addresses.both().map(|ip| SocketAddr::new(ip, port))
    }
}
