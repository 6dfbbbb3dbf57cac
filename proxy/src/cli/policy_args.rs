//! The flags that change what Services mean on a node. `run`, `plan` and `explain` share them, so that a question is
//! answered as the agent would act.

use std::{fs, net::IpAddr};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use ipnetwork::IpNetwork;

use crate::model::{
    address::{IpFamily, PerFamily, parse_ip, parse_network},
    policy::{DetectLocal, NodePortAddresses, Policy},
};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Policy")]
pub struct PolicyArgs {
    /// The node whose view is taken: its endpoints are local, its Node object tells zone and addresses
    /// [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// An address local to the node, repeatable; the first of a family is the primary [default: the Node object's]
    #[arg(long = "node-address", value_name = "IP", value_delimiter = ',', value_parser = address)]
    pub node_addresses: Vec<IpAddr>,
    /// The networks of all pods, one per family; traffic from elsewhere to a ClusterIP is masqueraded. Without it
    /// nothing is, and pods get no special way past externalTrafficPolicy Local
    #[arg(long, value_name = "CIDRS", default_value = "", value_parser = cluster_cidrs)]
    pub cluster_cidr: PerFamily<Option<IpNetwork>>,
    /// How traffic of pods is told from other traffic
    #[arg(long, value_enum, value_name = "MODE", default_value = "ClusterCIDR")]
    pub detect_local_mode: DetectLocalMode,
    /// Local addresses that serve NodePorts: networks, or `primary` for the node's own address in each family
    #[arg(long, value_name = "CIDRS|primary", default_value = "primary", value_parser = nodeport_addresses)]
    pub nodeport_addresses: NodePortAddresses,
    /// Serve NodePorts on 127.0.0.1 too; ::1 never serves them
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    pub localhost_nodeports: bool,
    /// Masquerade everything that goes to a ClusterIP, also from pods
    #[arg(long, value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true",
          require_equals = true, action = clap::ArgAction::Set)]
    pub masquerade_all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DetectLocalMode {
    /// From --cluster-cidr
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// From the pod networks of this node's Node object
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// Entered through the bridge of the pods
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// Entered through an interface of a pod
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

impl PolicyArgs {
    pub fn policy(&self) -> Result<Policy> {
        Ok(Policy {
            node_name: self.node_name()?,
            node_addresses: self.node_addresses.clone(),
            nodeport_addresses: self.nodeport_addresses.clone(),
            localhost_nodeports: self.localhost_nodeports,
            cluster_cidrs: self.cluster_cidr,
            detect_local: self.detect_local_mode.into(),
            masquerade_all: self.masquerade_all,
        })
    }

    /// Nodes are named in lower case, whatever the host calls itself.
    fn node_name(&self) -> Result<String> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host name")?,
        };
        let name = name.trim().to_lowercase();
        anyhow::ensure!(!name.is_empty(), "the node name is empty: give one with --node-name");
        Ok(name)
    }
}

impl From<DetectLocalMode> for DetectLocal {
    fn from(mode: DetectLocalMode) -> Self {
        match mode {
            DetectLocalMode::ClusterCidr => Self::ClusterCidr,
            DetectLocalMode::NodeCidr => Self::NodeCidr,
            DetectLocalMode::BridgeInterface => Self::BridgeInterface,
            DetectLocalMode::InterfaceNamePrefix => Self::InterfaceNamePrefix,
        }
    }
}

pub fn address(text: &str) -> Result<IpAddr, String> {
    parse_ip(text.trim()).ok_or_else(|| format!("`{text}` is not an IP address"))
}

fn network(text: &str) -> Result<IpNetwork, String> {
    parse_network(text.trim()).ok_or_else(|| format!("`{text}` is not a network in CIDR notation"))
}

fn cluster_cidrs(text: &str) -> Result<PerFamily<Option<IpNetwork>>, String> {
    if text.trim().is_empty() {
        return Ok(PerFamily::default());
    }
    let mut networks = PerFamily::<Option<IpNetwork>>::default();
    for part in text.split(',') {
        let network = network(part)?;
        let family = IpFamily::of(network.ip());
        if networks.get_mut(family).replace(network).is_some() {
            return Err(format!(
                "more than one {family} network: one per family is all that can be told apart"
            ));
        }
    }
    Ok(networks)
}

fn nodeport_addresses(text: &str) -> Result<NodePortAddresses, String> {
    if matches!(text.trim(), "" | "primary") {
        return Ok(NodePortAddresses::Primary);
    }
    text.split(',').map(network).collect::<Result<_, _>>().map(NodePortAddresses::Cidrs)
}
