//! Flags that change the meaning of Services on a node. `run`, `plan` and `explain` share them, so that the model behaves
//! as the agent.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use ipnetwork::IpNetwork;

use crate::{
    kube_proxy_config::{KubeProxyConfiguration, Mode, Settings},
    model::{
        address::{IpFamily, PerFamily, parse_ip, parse_network},
        policy::{DetectLocal, NodePortAddresses, Policy},
    },
};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Policy")]
pub struct PolicyArgs {
    /// kube-proxy's configuration file; overrides the flags that kube-proxy has too. `run` exits when the file changes,
    /// to be restarted
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The name of this node: its endpoints are local, its Node object has the zone and addresses [default: the host
    /// name]
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME")]
    node_name: Option<String>,
    /// An address local to the node, repeatable; the first of a family is the primary [default: the Node object's]
    #[arg(long = "node-address", value_name = "IP", value_delimiter = ',', value_parser = address)]
    node_addresses: Vec<IpAddr>,
    /// The node's primary address of its family; 0.0.0.0 and :: have no effect
    #[arg(long, value_name = "IP", value_parser = address)]
    bind_address: Option<IpAddr>,
    /// The networks of all pods, one per family. Traffic from elsewhere to a ClusterIP is masqueraded. Without it, none
    /// is, and externalTrafficPolicy Local applies to pods too
    #[arg(long, value_name = "CIDRS", value_parser = cluster_cidrs)]
    cluster_cidr: Option<PerFamily<Option<IpNetwork>>>,
    /// How traffic of pods is recognised [default: ClusterCIDR]
    #[arg(long, value_enum, value_name = "MODE")]
    detect_local_mode: Option<DetectLocalMode>,
    /// The bridge of the pods, for --detect-local-mode BridgeInterface
    #[arg(long, value_name = "NAME")]
    pod_bridge_interface: Option<String>,
    /// Name prefix of the pods' interfaces, for --detect-local-mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// Local addresses that serve NodePorts: networks, `primary` for the node's own address in each family, `localhost`,
    /// or `all` [default: primary]
    #[arg(long, value_name = "LIST", value_parser = nodeport_addresses)]
    nodeport_addresses: Option<NodePortAddresses>,
    /// Serve NodePorts on 127.0.0.1 too; on ::1, over TCP, if --nodeport-addresses has `localhost` or `all` [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    localhost_nodeports: Option<bool>,
    /// Masquerade all traffic to ClusterIPs, also from pods
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    masquerade_all: Option<bool>,
    /// kube-proxy's mode. It only sets the default of --nodeport-addresses: all addresses in modes iptables and ipvs
    #[arg(long, value_name = "MODE", value_parser = Mode::parse)]
    proxy_mode: Option<Mode>,
    /// kube-proxy's name of --localhost-nodeports
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true,
          hide = true)]
    iptables_localhost_nodeports: Option<bool>,
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
    pub fn config_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The policy of the flags. A file overrides the flags that kube-proxy has too.
    pub fn policy(&self, file: Option<&Settings>) -> Result<Policy> {
        match file {
            Some(file) => self.policy_of_file(file),
            None => self.policy_of_flags(),
        }
    }

    fn policy_of_flags(&self) -> Result<Policy> {
        let mode = self.proxy_mode.map(Mode::default_nodeport_addresses);
        let nodeport_addresses = self.nodeport_addresses.clone().or(mode);
        let localhost_nodeports = self.localhost_nodeports.or(self.iptables_localhost_nodeports);
        Ok(Policy {
            node_name: self.node_name(None)?,
            node_addresses: self.node_addresses.clone(),
            bind_address: self.bind_address.filter(|address| !address.is_unspecified()),
            nodeport_addresses: nodeport_addresses.unwrap_or(NodePortAddresses::Primary),
            localhost_nodeports: localhost_nodeports.unwrap_or(true),
            cluster_cidrs: self.cluster_cidr.unwrap_or_default(),
            detect_local: self.detect_local_mode.map_or(DetectLocal::ClusterCidr, DetectLocal::from),
            pod_interface: self.pod_interface()?,
            masquerade_all: self.masquerade_all.unwrap_or_default(),
            external_ips: true,
            name_server: None,
        })
    }

    fn policy_of_file(&self, file: &Settings) -> Result<Policy> {
        Ok(Policy {
            node_name: self.node_name(file.node_name.as_deref())?,
            node_addresses: self.node_addresses.clone(),
            bind_address: file.bind_address,
            nodeport_addresses: file.nodeport_addresses.clone(),
            localhost_nodeports: self.localhost_nodeports.or(file.localhost_nodeports).unwrap_or(true),
            cluster_cidrs: file.cluster_cidrs,
            detect_local: file.detect_local,
            pod_interface: file.pod_interface.clone(),
            masquerade_all: file.masquerade_all,
            external_ips: file.external_ips,
            name_server: None,
        })
    }

    /// The interface or prefix that the mode needs. Errors: it is missing, so no traffic would count as a pod's.
    fn pod_interface(&self) -> Result<Option<String>> {
        let (flag, value) = match self.detect_local_mode {
            Some(DetectLocalMode::BridgeInterface) => ("--pod-bridge-interface", &self.pod_bridge_interface),
            Some(DetectLocalMode::InterfaceNamePrefix) => {
                ("--pod-interface-name-prefix", &self.pod_interface_name_prefix)
            }
            Some(DetectLocalMode::ClusterCidr | DetectLocalMode::NodeCidr) | None => return Ok(None),
        };
        let value = value.clone().filter(|name| !name.is_empty());
        value.map(Some).with_context(|| format!("this --detect-local-mode needs {flag}"))
    }

    /// Sets the fields of kube-proxy's file that settings outside of the policy depend on.
    pub fn overlay(&self, config: &mut KubeProxyConfiguration) {
        if let Some(address) = self.bind_address {
            config.bind_address = address.to_string();
        }
        if let Some(mode) = self.proxy_mode {
            mode.name().clone_into(&mut config.mode);
        }
        if let Some(mode) = self.detect_local_mode.as_ref().and_then(ValueEnum::to_possible_value) {
            mode.get_name().clone_into(&mut config.detect_local_mode);
        }
        if let Some(bridge) = &self.pod_bridge_interface {
            config.detect_local.bridge_interface.clone_from(bridge);
        }
        if let Some(prefix) = &self.pod_interface_name_prefix {
            config.detect_local.interface_name_prefix.clone_from(prefix);
        }
    }

    /// The given flags that a file overrides.
    pub fn overridden(&self) -> Vec<&'static str> {
        let flags = [
            ("--bind-address", self.bind_address.is_some()),
            ("--cluster-cidr", self.cluster_cidr.is_some()),
            ("--detect-local-mode", self.detect_local_mode.is_some()),
            ("--pod-bridge-interface", self.pod_bridge_interface.is_some()),
            ("--pod-interface-name-prefix", self.pod_interface_name_prefix.is_some()),
            ("--nodeport-addresses", self.nodeport_addresses.is_some()),
            ("--masquerade-all", self.masquerade_all.is_some()),
            ("--proxy-mode", self.proxy_mode.is_some()),
            ("--iptables-localhost-nodeports", self.iptables_localhost_nodeports.is_some()),
        ];
        flags.into_iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| flag).collect()
    }

    /// The node name in lower case, as Kubernetes requires.
    fn node_name(&self, of_file: Option<&str>) -> Result<String> {
        let name = match self.node_name.as_deref().or(of_file) {
            Some(name) => name.to_owned(),
            None => fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host name")?,
        };
        let name = name.trim().to_lowercase();
        anyhow::ensure!(!name.is_empty(), "the node name is empty: set --node-name");
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
            return Err(format!("more than one {family} network: only one per family is supported"));
        }
    }
    Ok(networks)
}

fn nodeport_addresses(text: &str) -> Result<NodePortAddresses, String> {
    if matches!(text.trim(), "" | "primary") {
        return Ok(NodePortAddresses::Primary);
    }
    NodePortAddresses::parse(text.split(','))
}
