//! The policy of a node as JSON: with the objects it repeats what the agent decides.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::model::{
    address::{IpFamily, PerFamily, parse_network},
    name_server::NameServer,
    policy::{DetectLocal, NodePortAddresses, NodePortRange, Policy},
    service::ServiceKey,
};

/// Words and networks are as in the flags of `run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    pub node_name: String,
    pub node_addresses: Vec<IpAddr>,
    pub bind_address: Option<IpAddr>,
    pub nodeport_addresses: Vec<String>,
    pub localhost_nodeports: bool,
    pub cluster_cidrs: Vec<String>,
    pub detect_local: String,
    pub pod_interface: Option<String>,
    pub masquerade_all: bool,
    pub external_ips: bool,
    /// `None`: the agent serves no DNS.
    pub name_server: Option<NameServerRecord>,
    /// Whether the objects have those that only DNS uses.
    pub has_names: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameServerRecord {
    /// `NAMESPACE/NAME`.
    pub service: String,
    pub listens: Option<Vec<SocketAddr>>,
    pub local_addresses: Vec<IpAddr>,
    pub allow: Vec<String>,
}

const MODES: [(DetectLocal, &str); 4] = [
    (DetectLocal::ClusterCidr, "ClusterCIDR"),
    (DetectLocal::NodeCidr, "NodeCIDR"),
    (DetectLocal::BridgeInterface, "BridgeInterface"),
    (DetectLocal::InterfaceNamePrefix, "InterfaceNamePrefix"),
];

impl PolicyRecord {
    pub fn new(policy: &Policy, has_names: bool) -> Self {
        let mode = MODES.iter().find(|(mode, _)| *mode == policy.detect_local);
        let PerFamily { v4, v6 } = policy.cluster_cidrs;
        Self {
            node_name: policy.node_name.clone(),
            node_addresses: policy.node_addresses.clone(),
            bind_address: policy.bind_address,
            nodeport_addresses: words(&policy.nodeport_addresses),
            localhost_nodeports: policy.localhost_nodeports,
            cluster_cidrs: texts(&v4.into_iter().chain(v6).collect::<Vec<_>>()),
            detect_local: mode.map(|(_, name)| (*name).to_owned()).unwrap_or_default(),
            pod_interface: policy.pod_interface.clone(),
            masquerade_all: policy.masquerade_all,
            external_ips: policy.external_ips,
            name_server: policy.name_server.as_ref().map(NameServerRecord::new),
            has_names,
        }
    }

    /// Errors: a sentence about a value that is of another version.
    pub fn policy(self) -> Result<Policy, String> {
        let mode = MODES.iter().find(|(_, name)| *name == self.detect_local);
        let mut cluster_cidrs = PerFamily::default();
        for network in networks(&self.cluster_cidrs)? {
            *cluster_cidrs.get_mut(IpFamily::of(network.ip())) = Some(network);
        }
        Ok(Policy {
            node_name: self.node_name,
            node_addresses: self.node_addresses,
            bind_address: self.bind_address,
            nodeport_addresses: NodePortAddresses::parse(self.nodeport_addresses.iter().map(String::as_str))?,
            localhost_nodeports: self.localhost_nodeports,
            cluster_cidrs,
            detect_local: mode.ok_or_else(|| format!("`{}` is no mode of detection", self.detect_local))?.0,
            pod_interface: self.pod_interface,
            masquerade_all: self.masquerade_all,
            external_ips: self.external_ips,
            name_server: self.name_server.map(NameServerRecord::name_server).transpose()?,
        })
    }
}

impl NameServerRecord {
    fn new(server: &NameServer) -> Self {
        Self {
            service: server.service.to_string(),
            listens: server.listens.clone(),
            local_addresses: server.local_addresses.clone(),
            allow: texts(&server.allow),
        }
    }

    fn name_server(self) -> Result<NameServer, String> {
        let invalid = || format!("`{}` is not NAMESPACE/NAME", self.service);
        let (namespace, name) = self.service.split_once('/').ok_or_else(invalid)?;
        Ok(NameServer {
            service: ServiceKey::new(namespace, name),
            listens: self.listens,
            local_addresses: self.local_addresses,
            allow: networks(&self.allow)?,
        })
    }
}

fn words(addresses: &NodePortAddresses) -> Vec<String> {
    match addresses {
        NodePortAddresses::Primary => vec!["primary".to_owned()],
        NodePortAddresses::Cidrs(networks) => texts(networks),
        NodePortAddresses::List(ranges) => ranges.iter().map(word).collect(),
    }
}

fn word(range: &NodePortRange) -> String {
    match range {
        NodePortRange::Primary => "primary".to_owned(),
        NodePortRange::Localhost => "localhost".to_owned(),
        NodePortRange::Cidr(network) => network.to_string(),
    }
}

fn texts(networks: &[IpNetwork]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

fn networks(texts: &[String]) -> Result<Vec<IpNetwork>, String> {
    let network = |text: &String| parse_network(text).ok_or_else(|| format!("`{text}` is no network"));
    texts.iter().map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_comes_back_as_it_was() {
        let list = |words: &[&str]| NodePortAddresses::parse(words.iter().copied()).unwrap();
        let server = NameServer {
            service: ServiceKey::new("kube-system", "kube-dns"),
            listens: Some(vec!["[fd00::1]:53".parse().unwrap()]),
            local_addresses: vec!["169.254.20.10".parse().unwrap()],
            allow: vec!["10.0.0.0/8".parse().unwrap()],
        };
        for nodeport_addresses in [
            NodePortAddresses::Primary,
            NodePortAddresses::Cidrs(Vec::new()),
            list(&["10.0.0.0/8", "fd00::/8"]),
            list(&["all"]),
            list(&["primary", "localhost"]),
        ] {
            for (detect_local, _) in MODES {
                let policy = Policy {
                    node_name: "node-1".to_owned(),
                    node_addresses: vec!["192.0.2.1".parse().unwrap()],
                    bind_address: Some("fd00::1".parse().unwrap()),
                    nodeport_addresses: nodeport_addresses.clone(),
                    localhost_nodeports: false,
                    cluster_cidrs: PerFamily { v4: None, v6: Some("fd01::/48".parse().unwrap()) },
                    detect_local,
                    pod_interface: Some("cni0".to_owned()),
                    masquerade_all: true,
                    external_ips: false,
                    name_server: Some(server.clone()),
                };
                let text = serde_json::to_string(&PolicyRecord::new(&policy, true)).unwrap();
                let record: PolicyRecord = serde_json::from_str(&text).unwrap();
                assert_eq!(record.policy(), Ok(policy), "{text}");
            }
        }
    }
}
