//! The policy of this node: the flags that change the meaning of Services.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{address::PerFamily, name_server::NameServer};

/// The local addresses on which NodePorts are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    Primary,
    /// A family without an entry is unrestricted, even if the other family has entries.
    Cidrs(Vec<IpNetwork>),
}

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
