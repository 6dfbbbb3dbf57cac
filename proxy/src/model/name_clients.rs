//! The clients that the node's name server answers besides loopback, the node itself, and the addresses of Services and
//! endpoints: the networks of pods, and those that flags add.
//!
//! No source of pod networks is complete: a cluster CIDR may be unset, podCIDRs are unused by some network plugins, and
//! cloud plugins give pods addresses of the node's own network. So they are joined, and where the cluster CIDR of a
//! family is unknown, private addresses and the neighbours of endpoints are admitted, too. A pod without answers is worse
//! than a neighbour with some. `--dns-allow` replaces that guess.

use ipnetwork::IpNetwork;

use super::{address::PerFamily, node::NodeInfo, policy::Policy};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameClients {
    pub networks: Vec<IpNetwork>,
    /// The families in which pods may have other addresses.
    pub unknown_pods: PerFamily<bool>,
}

impl NameClients {
    /// `local_pods` are the networks that the node routes to its own pods.
    pub fn new(
        policy: &Policy,
        node: Option<&NodeInfo>,
        local_pods: impl Iterator<Item = IpNetwork>,
    ) -> Self {
        let allowed = policy.name_server.iter().flat_map(|server| &server.allow).copied();
        let PerFamily { v4, v6 } = policy.cluster_cidrs;
        let of_node = node.iter().flat_map(|node| &node.pod_cidrs).copied();
        let mut networks: Vec<_> = allowed.chain(v4).chain(v6).chain(of_node).chain(local_pods).collect();
        networks.sort_unstable();
        networks.dedup();
        let guesses = policy.name_server.as_ref().is_none_or(|server| server.allow.is_empty());
        let unknown_pods = PerFamily { v4: guesses && v4.is_none(), v6: guesses && v6.is_none() };
        Self { networks, unknown_pods }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{name_server::NameServer, service::ServiceKey};

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_networks_of_pods_are_joined() {
        struct Case {
            name: &'static str,
            cluster: Option<&'static str>,
            node: &'static [&'static str],
            routes: &'static [&'static str],
            allow: &'static [&'static str],
            want: &'static [&'static str],
            unknown: (bool, bool),
        }
        for case in [
            Case {
                name: "nothing is known",
                cluster: None,
                node: &[],
                routes: &[],
                allow: &[],
                want: &[],
                unknown: (true, true),
            },
            Case {
                name: "the cluster CIDR of one family",
                cluster: Some("10.244.0.0/16"),
                node: &["10.244.1.0/24"],
                routes: &["10.0.3.7/32"],
                allow: &[],
                want: &["10.0.3.7/32", "10.244.0.0/16", "10.244.1.0/24"],
                unknown: (false, true),
            },
            Case {
                name: "the podCIDR of this node says nothing of the others'",
                cluster: None,
                node: &["10.244.1.0/24"],
                routes: &["10.244.1.0/24"],
                allow: &[],
                want: &["10.244.1.0/24"],
                unknown: (true, true),
            },
            Case {
                name: "with --dns-allow nothing is guessed",
                cluster: None,
                node: &[],
                routes: &["10.0.3.7/32"],
                allow: &["192.168.0.0/24"],
                want: &["10.0.3.7/32", "192.168.0.0/24"],
                unknown: (false, false),
            },
        ] {
            let server = NameServer {
                service: ServiceKey::new("kube-system", "kube-dns"),
                listens: None,
                local_addresses: Vec::new(),
                allow: networks(case.allow),
            };
            let v4 = case.cluster.map(|text| text.parse().unwrap());
            let policy = Policy {
                cluster_cidrs: PerFamily { v4, v6: None },
                name_server: Some(server),
                ..Policy::default()
            };
            let node = NodeInfo { pod_cidrs: networks(case.node), ..NodeInfo::default() };
            let clients = NameClients::new(&policy, Some(&node), networks(case.routes).into_iter());
            assert_eq!(clients.networks, networks(case.want), "{}", case.name);
            assert_eq!((clients.unknown_pods.v4, clients.unknown_pods.v6), case.unknown, "{}", case.name);
        }
    }
}
