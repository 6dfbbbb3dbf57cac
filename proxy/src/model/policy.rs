//! The policy of this node: the flags that change the meaning of Services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{
    address::{PerFamily, parse_network},
    name_server::NameServer,
};

/// The local addresses on which NodePorts are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    Primary,
    /// A family without an entry is unrestricted, even if the other family has entries.
    Cidrs(Vec<IpNetwork>),
    /// With words among the networks, as of kube-proxy 1.37.
    List(Vec<NodePortRange>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortRange {
    /// The node's primary address of each family.
    Primary,
    /// Loopback of both families.
    Localhost,
    Cidr(IpNetwork),
}

impl NodePortAddresses {
    /// Parses the elements of a list that is not empty: `primary`, `localhost`, `all`, networks.
    pub fn parse<'a>(list: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut ranges = Vec::new();
        for text in list {
            match text.trim() {
                "primary" => ranges.push(NodePortRange::Primary),
                "localhost" => ranges.push(NodePortRange::Localhost),
                "all" => {
                    ranges.extend([IpNetwork::V4(ALL_V4), IpNetwork::V6(ALL_V6)].map(NodePortRange::Cidr));
                    ranges.push(NodePortRange::Localhost);
                }
                text => ranges.push(NodePortRange::Cidr(parse_network(text).ok_or_else(|| {
                    format!("`{text}` is not `primary`, `localhost`, `all` or a network in CIDR notation")
                })?)),
            }
        }
        if ranges == [NodePortRange::Primary] {
            return Ok(Self::Primary);
        }
        let networks = ranges.iter().map(|range| match range {
            NodePortRange::Cidr(network) => Some(*network),
            NodePortRange::Primary | NodePortRange::Localhost => None,
        });
        let only_networks: Option<Vec<_>> = networks.collect();
        Ok(only_networks.map_or(Self::List(ranges), Self::Cidrs))
    }
}

const ALL_V4: Ipv4Network = match Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0) {
    Some(network) => network,
    None => panic!("0.0.0.0/0 is a network"),
};
const ALL_V6: Ipv6Network = match Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0) {
    Some(network) => network,
    None => panic!("::/0 is a network"),
};

/// How traffic from pods is detected (`--detect-local-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    ClusterCidr,
    NodeCidr,
    BridgeInterface,
    InterfaceNamePrefix,
}

impl DetectLocal {
    /// Whether pods are detected by the interface that a packet enters, which no address shows.
    pub fn is_by_interface(self) -> bool {
        matches!(self, Self::BridgeInterface | Self::InterfaceNamePrefix)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub node_name: String,
    /// Primary addresses first; empty: those of the Node object.
    pub node_addresses: Vec<IpAddr>,
    /// The primary address of its family, before those of the flags or the Node object.
    pub bind_address: Option<IpAddr>,
    pub nodeport_addresses: NodePortAddresses,
    pub localhost_nodeports: bool,
    pub cluster_cidrs: PerFamily<Option<IpNetwork>>,
    pub detect_local: DetectLocal,
    /// The bridge, or the name prefix, for the modes that detect pods by interface.
    pub pod_interface: Option<String>,
    pub masquerade_all: bool,
    /// Whether externalIPs are served.
    pub external_ips: bool,
    /// `None` if this node serves no DNS.
    pub name_server: Option<NameServer>,
}

impl Policy {
    /// Whether packets that enter through an interface, or through a port of `bridge`, are from pods
    /// (kube-proxy's rule F8).
    pub fn is_pod_interface(&self, name: &str, bridge: Option<&str>) -> bool {
        let Some(wanted) = self.pod_interface.as_deref() else { return false };
        match self.detect_local {
            DetectLocal::BridgeInterface => name == wanted || bridge == Some(wanted),
            DetectLocal::InterfaceNamePrefix => {
                name.starts_with(wanted) || bridge.is_some_and(|bridge| bridge.starts_with(wanted))
            }
            DetectLocal::ClusterCidr | DetectLocal::NodeCidr => false,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            node_addresses: Vec::new(),
            bind_address: None,
            nodeport_addresses: NodePortAddresses::Primary,
            localhost_nodeports: true,
            cluster_cidrs: PerFamily::default(),
            detect_local: DetectLocal::ClusterCidr,
            pod_interface: None,
            masquerade_all: false,
            external_ips: true,
            name_server: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_networks_may_be_mixed() {
        let cidr = |text: &str| text.parse::<IpNetwork>().unwrap();
        let network = NodePortRange::Cidr(cidr("10.0.0.0/8"));
        for (list, want) in [
            (&["primary"][..], Some(NodePortAddresses::Primary)),
            (&["10.0.0.0/8"], Some(NodePortAddresses::Cidrs(vec![cidr("10.0.0.0/8")]))),
            (
                &["all"],
                Some(NodePortAddresses::List(vec![
                    NodePortRange::Cidr(cidr("0.0.0.0/0")),
                    NodePortRange::Cidr(cidr("::/0")),
                    NodePortRange::Localhost,
                ])),
            ),
            (&["localhost"], Some(NodePortAddresses::List(vec![NodePortRange::Localhost]))),
            (
                &["primary", "10.0.0.0/8", "localhost"],
                Some(NodePortAddresses::List(vec![
                    NodePortRange::Primary,
                    network,
                    NodePortRange::Localhost,
                ])),
            ),
            (&["secondary"], None),
            (&["primary", ""], None),
        ] {
            assert_eq!(NodePortAddresses::parse(list.iter().copied()).ok(), want, "{list:?}");
        }
    }
}
