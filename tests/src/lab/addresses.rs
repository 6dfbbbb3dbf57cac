//! Addresses and networks of both families, with equal host numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// One address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Addresses {
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// A network of each family, with the same host numbers in both.
#[derive(Debug, Clone, Copy)]
pub struct Subnet {
    pub v4: Ipv4Network,
    pub v6: Ipv6Network,
}

impl Subnet {
    /// Panics on an invalid prefix: all are constants.
    pub fn new(v4: [u8; 4], v4_prefix: u8, v6: [u16; 8], v6_prefix: u8) -> Self {
        Self {
            v4: Ipv4Network::new(v4.into(), v4_prefix).expect("an IPv4 prefix has at most 32 bits"),
            v6: Ipv6Network::new(v6.into(), v6_prefix).expect("an IPv6 prefix has at most 128 bits"),
        }
    }

    pub fn host(&self, number: u16) -> Addresses {
        Addresses {
            v4: Ipv4Addr::from_bits(self.v4.ip().to_bits() + u32::from(number)),
            v6: Ipv6Addr::from_bits(self.v6.ip().to_bits() + u128::from(number)),
        }
    }

    /// The addresses of a host with the prefixes of their networks, as on an interface.
    pub fn interface(&self, host: Addresses) -> Result<[IpNetwork; 2]> {
        let v4 = IpNetwork::new(host.v4.into(), self.v4.prefix()).context("a prefix out of range")?;
        let v6 = IpNetwork::new(host.v6.into(), self.v6.prefix()).context("a prefix out of range")?;
        Ok([v4, v6])
    }

    pub fn networks(&self) -> [IpNetwork; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// Addresses of a node, and the network of its pods.
#[derive(Debug, Clone, Copy)]
pub struct NodeAddressing {
    pub addresses: Addresses,
    pub pods: Subnet,
}
