//! This node: its addresses, the classification of sources, and the addresses that serve NodePorts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{
    address::{IpFamily, PerFamily, Protocol},
    policy::{DetectLocal, NodePortAddresses, NodePortRange, Policy},
    topology::Location,
};

/// The fields of this node's Node object that affect Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    pub name: String,
    /// Internal addresses first, then external ones.
    pub addresses: Vec<IpAddr>,
    pub zone: String,
    pub pod_cidrs: Vec<IpNetwork>,
    /// Neither deleted nor tainted by the cluster autoscaler for deletion: load balancers may send new traffic
    /// (KEP-3836).
    pub is_eligible: bool,
}

/// The class of a flow's source. An address that is both in the pod range and the node's is a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Pod,
    Node,
    Outside,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Outside => "outside",
        }
    }
}

/// Flags and Node object combined. Rebuilt when either changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    pub name: String,
    pub zone: String,
    pub addresses: Vec<IpAddr>,
    /// The addresses of pods; `None`: pods are not detected in this family.
    pub pod_range: PerFamily<Option<IpNetwork>>,
    pub detect_local: DetectLocal,
    /// Unrestricted if empty.
    nodeport_ranges: PerFamily<Vec<IpNetwork>>,
    localhost_nodeports: PerFamily<bool>,
}

impl LocalNode {
    pub fn new(policy: &Policy, node: Option<&NodeInfo>) -> Self {
        let addresses = node_addresses(policy, node);
        Self {
            name: policy.node_name.clone(),
            zone: node.map(|node| node.zone.clone()).unwrap_or_default(),
            pod_range: pod_range(policy, node),
            detect_local: policy.detect_local,
            nodeport_ranges: nodeport_ranges(policy, &addresses),
            localhost_nodeports: PerFamily { v4: serves_localhost(policy), v6: serves_localhost_v6(policy) },
            addresses,
        }
    }

    pub fn location(&self) -> Location<'_> {
        Location { node: &self.name, zone: &self.zone }
    }

    pub fn has_detector(&self, family: IpFamily) -> bool {
        self.detect_local.is_by_interface() || self.pod_range.get(family).is_some()
    }

    /// The node's primary address of a family; loopback while none is known.
    pub fn primary(&self, family: IpFamily) -> IpAddr {
        primary(&self.addresses, family).unwrap_or(match family {
            IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
            IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
        })
    }

    pub fn source(&self, address: IpAddr) -> Source {
        let family = IpFamily::of(address);
        if self.pod_range.get(family).is_some_and(|range| range.contains(address)) {
            Source::Pod
        } else if self.owns(address) {
            Source::Node
        } else {
            Source::Outside
        }
    }

    pub fn owns(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// Whether every local address of the family serves NodePorts.
    pub fn nodeports_are_unrestricted(&self, family: IpFamily) -> bool {
        let ranges = self.nodeport_ranges.get(family);
        ranges.is_empty() || ranges.iter().any(|range| range.prefix() == 0)
    }

    /// Whether an address of the node serves NodePorts.
    pub fn serves_nodeports(&self, address: IpAddr) -> bool {
        (address.is_loopback() || self.addresses.contains(&address)) && self.nodeports_include(address)
    }

    /// Whether the flow's destination serves NodePorts to the flow's source. Each network namespace has its own
    /// loopback: only a client on the node reaches the node's. ::1 serves TCP alone, as in kube-proxy 1.37.
    pub fn serves_nodeport_to(&self, address: IpAddr, source: IpAddr, protocol: Protocol) -> bool {
        let is_reached = match address {
            _ if !address.is_loopback() => true,
            IpAddr::V4(_) => self.owns(source),
            IpAddr::V6(_) => self.owns(source) && protocol == Protocol::Tcp,
        };
        is_reached && self.serves_nodeports(address)
    }

    /// The addresses of the node that serve NodePorts to a source.
    pub fn nodeport_addresses(&self, family: IpFamily, source: IpAddr) -> Vec<IpAddr> {
        let of_family = self.addresses.iter().copied().filter(|address| IpFamily::of(*address) == family);
        // The protocol matters at ::1 alone, which is none of these.
        of_family.filter(|address| self.serves_nodeport_to(*address, source, Protocol::Tcp)).collect()
    }

    /// Whether an address would serve NodePorts, given that it is local because an interface has it, even if
    /// the Node object does not list it.
    pub fn nodeports_include(&self, address: IpAddr) -> bool {
        if address.is_loopback() {
            return *self.localhost_nodeports.get(IpFamily::of(address));
        }
        let ranges = self.nodeport_ranges.get(IpFamily::of(address));
        ranges.is_empty() || ranges.iter().any(|range| range.contains(address))
    }
}

/// The addresses of the flags, or else of the Node object; the bind address comes first.
fn node_addresses(policy: &Policy, node: Option<&NodeInfo>) -> Vec<IpAddr> {
    let mut addresses = match node {
        Some(node) if policy.node_addresses.is_empty() => node.addresses.clone(),
        _ => policy.node_addresses.clone(),
    };
    if let Some(bind) = policy.bind_address {
        addresses.retain(|address| *address != bind);
        addresses.insert(0, bind);
    }
    addresses
}

fn primary(addresses: &[IpAddr], family: IpFamily) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| IpFamily::of(*address) == family && !address.is_loopback())
}

fn pod_range(policy: &Policy, node: Option<&NodeInfo>) -> PerFamily<Option<IpNetwork>> {
    let of_node = PerFamily::first_of(node.iter().flat_map(|node| node.pod_cidrs.iter().copied()));
    let of_cluster = policy.cluster_cidrs;
    match policy.detect_local {
        DetectLocal::ClusterCidr => of_cluster,
        DetectLocal::NodeCidr => of_node,
        // An address does not show its interface: the pod ranges are the best approximation.
        DetectLocal::BridgeInterface | DetectLocal::InterfaceNamePrefix => {
            PerFamily { v4: of_node.v4.or(of_cluster.v4), v6: of_node.v6.or(of_cluster.v6) }
        }
    }
}

/// The ranges per family; an empty list means every local address.
fn nodeport_ranges(policy: &Policy, addresses: &[IpAddr]) -> PerFamily<Vec<IpNetwork>> {
    let primary =
        || IpFamily::BOTH.into_iter().filter_map(|family| primary(addresses, family)).map(IpNetwork::from);
    let ranges: Vec<IpNetwork> = match &policy.nodeport_addresses {
        NodePortAddresses::Cidrs(cidrs) => cidrs.clone(),
        NodePortAddresses::Primary => primary().collect(),
        NodePortAddresses::List(list) => list
            .iter()
            .flat_map(|range| match range {
                NodePortRange::Primary => primary().collect(),
                NodePortRange::Localhost => loopback().to_vec(),
                NodePortRange::Cidr(network) => vec![*network],
            })
            .collect(),
    };
    let (v4, v6) = ranges.into_iter().partition(IpNetwork::is_ipv4);
    PerFamily { v4, v6 }
}

fn loopback() -> [IpNetwork; 2] {
    [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].map(|address: IpAddr| address.into())
}

/// Loopback of IPv4. A list of ranges without loopback disables NodePorts on it, as in kube-proxy; `primary` alone does
/// not affect it.
fn serves_localhost(policy: &Policy) -> bool {
    let is_loopback = |network: &IpNetwork| network.contains(Ipv4Addr::LOCALHOST.into());
    policy.localhost_nodeports
        && match &policy.nodeport_addresses {
            NodePortAddresses::Primary => true,
            NodePortAddresses::Cidrs(cidrs) => {
                cidrs.iter().all(IpNetwork::is_ipv6) || cidrs.iter().any(is_loopback)
            }
            NodePortAddresses::List(list) => list.iter().any(|range| match range {
                NodePortRange::Localhost => true,
                NodePortRange::Cidr(network) => is_loopback(network),
                NodePortRange::Primary => false,
            }),
        }
}

/// Loopback of IPv6: only `localhost` and `all` mean it, as networks never did in kube-proxy.
fn serves_localhost_v6(policy: &Policy) -> bool {
    let NodePortAddresses::List(list) = &policy.nodeport_addresses else { return false };
    policy.localhost_nodeports && list.contains(&NodePortRange::Localhost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bind_address_is_the_primary_one_and_the_others_stay() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let info = NodeInfo { addresses: ["10.0.0.1", "fd00::1"].map(ip).into(), ..NodeInfo::default() };
        for (bind, v4, v6, first) in [
            (None, "10.0.0.1", "fd00::1", "10.0.0.1"),
            (Some("10.0.0.9"), "10.0.0.9", "fd00::1", "10.0.0.9"),
            (Some("fd00::1"), "10.0.0.1", "fd00::1", "fd00::1"),
        ] {
            let policy = Policy { bind_address: bind.map(ip), ..Policy::default() };
            let node = LocalNode::new(&policy, Some(&info));
            assert_eq!(node.primary(IpFamily::V4), ip(v4), "{bind:?}");
            assert_eq!(node.primary(IpFamily::V6), ip(v6), "{bind:?}");
            assert_eq!(node.addresses[0], ip(first), "{bind:?}");
            assert!(node.owns(ip("10.0.0.1")), "{bind:?}");
        }
    }

    #[test]
    fn j6_localhost_serves_nodeports_where_it_is_named() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let info = NodeInfo { addresses: ["10.0.0.1", "fd00::1"].map(ip).into(), ..NodeInfo::default() };
        for (list, own, v4, v6) in [
            ("primary", true, true, false),
            ("localhost", false, true, true),
            ("all", true, true, true),
            ("primary,localhost", true, true, true),
            ("primary,192.0.2.0/24", true, false, false),
            ("127.0.0.0/8", false, true, false),
            ("10.0.0.0/8", true, false, false),
        ] {
            let nodeport_addresses = NodePortAddresses::parse(list.split(',')).unwrap();
            let policy = Policy { nodeport_addresses, ..Policy::default() };
            let node = LocalNode::new(&policy, Some(&info));
            let serves = |address, protocol| node.serves_nodeport_to(ip(address), ip("10.0.0.1"), protocol);
            assert_eq!(serves("10.0.0.1", Protocol::Tcp), own, "{list}");
            assert_eq!(serves("127.0.0.1", Protocol::Tcp), v4, "{list}");
            assert_eq!(serves("127.0.0.1", Protocol::Udp), v4, "{list}");
            assert_eq!(serves("::1", Protocol::Tcp), v6, "{list}");
            assert!(!serves("::1", Protocol::Udp), "{list}");
            assert!(!node.serves_nodeport_to(ip("::1"), ip("fd00::9"), Protocol::Tcp), "{list}");
        }
    }
}
