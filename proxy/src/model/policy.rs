//! The policies: what a Service asks for, and what this node was told on its command line.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{address::PerFamily, name_server::NameServer};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// On which local addresses NodePorts are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    Primary,
    /// A family without an entry is unrestricted, even when the other one has entries.
    Cidrs(Vec<IpNetwork>),
}

/// How the traffic of pods is told from other traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    ClusterCidr,
    NodeCidr,
    BridgeInterface,
    InterfaceNamePrefix,
}

impl DetectLocal {
    /// Modes that look at where a packet enters, which no address can tell.
    pub fn is_by_interface(self) -> bool {
        matches!(self, Self::BridgeInterface | Self::InterfaceNamePrefix)
    }
}

/// The flags that change what Services mean on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub node_name: String,
    /// Primary ones first; empty: take the Node object's.
    pub node_addresses: Vec<IpAddr>,
    /// Stands before all of them, whoever names them.
    pub bind_address: Option<IpAddr>,
    pub nodeport_addresses: NodePortAddresses,
    pub localhost_nodeports: bool,
    pub cluster_cidrs: PerFamily<Option<IpNetwork>>,
    pub detect_local: DetectLocal,
    /// The bridge, or the prefix, by which a mode that goes by interfaces tells pods.
    pub pod_interface: Option<String>,
    pub masquerade_all: bool,
    /// Whether externalIPs count at all.
    pub external_ips: bool,
    /// None: this node answers no names.
    pub name_server: Option<NameServer>,
}

impl Policy {
    /// Whether what enters through an interface, perhaps a port of a bridge, counts as a pod's (kube-proxy's rule F8).
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
