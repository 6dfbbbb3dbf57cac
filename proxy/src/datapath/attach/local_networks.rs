//! The addresses at which the node's name server listens, and the networks of the node's own pods, from its network
//! state. Both are functions of plain values.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::DeviceRole;

use super::devices::detect_role;
use crate::datapath::kernel::{Address, Link, LinkKind, Network, Routes};

/// The primary addresses of the node: the first of each family on each device that leads to other machines, and those
/// that the Node object or a flag names, as far as they are local. Not those of tunnels, and not the VIPs that dummy
/// devices have (kube-ipvs0).
pub fn primary_addresses(network: &Network, named: &[IpAddr]) -> Vec<IpAddr> {
    let external = network.links.iter().filter(|link| leads_to_machines(network, link));
    let mut found: Vec<IpAddr> = external
        .flat_map(|link| {
            let first = |wants_v4: bool| {
                let mut own = network.addresses.iter().filter(|address| is_primary_of(link, address));
                own.find(|address| address.ip.is_ipv4() == wants_v4).map(|address| address.ip)
            };
            [first(true), first(false)].into_iter().flatten()
        })
        .collect();
    found.extend(named.iter().filter(|ip| network.addresses.iter().any(|address| address.ip == **ip)));
    found.sort_unstable();
    found.dedup();
    found
}

fn leads_to_machines(network: &Network, link: &Link) -> bool {
    let is_tunnel = link.kind == LinkKind::Tunnel && !network.default_routes.contains(&link.index);
    !is_tunnel && detect_role(network, link) == Some(DeviceRole::External)
}

fn is_primary_of(link: &Link, address: &Address) -> bool {
    address.device == link.index && !address.is_secondary
}

/// The networks that lead to pods of this node: routed to a pod's device or to a bridge of pods, or via an address of
/// the node itself, as Cilium does.
pub fn local_pod_networks<'a>(
    network: &'a Network,
    routes: &'a Routes,
) -> impl Iterator<Item = IpNetwork> + 'a {
    let is_own = |ip: IpAddr| network.addresses.iter().any(|address| address.ip == ip);
    let is_pod_device = |index: u32| {
        let link = network.links.iter().find(|link| link.index == index);
        link.is_some_and(|link| detect_role(network, link) == Some(DeviceRole::Pod))
    };
    let leads_here = move |gateway: Option<IpAddr>, device: u32| match gateway {
        Some(gateway) => is_own(gateway),
        None => is_pod_device(device),
    };
    let routes = routes.0.iter().filter(|route| !is_link_local(route.to.ip()));
    routes.filter(move |route| leads_here(route.gateway, route.device)).map(|route| route.to)
}

/// Every IPv6 device has a route to fe80::/64, also those of clients outside.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{attach::devices::tests::network, kernel::Route};

    const NODE: &str = "lo lo 127.0.0.1/8 10.9.9.9/32
                        eth0 nic default 192.0.2.1/24 ~192.0.2.2/24 2001:db8::1/64
                        eth1 nic 192.0.3.1/24 192.0.3.100/32
                        kube-ipvs0 dummy 10.96.0.10/32
                        flannel.1 tunnel 10.244.1.0/32
                        cni0 bridge 10.244.1.1/24
                        veth1 pod in=cni0
                        cali1 pod
                        cilium_host veth 10.0.1.5/32";

    #[test]
    fn only_primary_addresses_of_the_node_are_listened_at() {
        let network = network(NODE);
        let check = |named: &[&str], want: &[&str]| {
            let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
            assert_eq!(primary_addresses(&network, &parsed(named)), parsed(want), "{named:?}");
        };
        check(&[], &["192.0.2.1", "192.0.3.1", "2001:db8::1"]);
        check(&["192.0.2.1", "203.0.113.1"], &["192.0.2.1", "192.0.3.1", "2001:db8::1"]);
        check(&["10.9.9.9"], &["10.9.9.9", "192.0.2.1", "192.0.3.1", "2001:db8::1"]);
    }

    #[test]
    fn routes_tell_the_networks_of_local_pods() {
        let network = network(NODE);
        let device = |name: &str| network.links.iter().find(|link| link.name == name).unwrap().index;
        for (to, via, gateway, is_pods) in [
            ("10.244.1.0/24", "cni0", None, true),
            ("203.0.113.7/32", "cali1", None, true),
            ("10.0.1.0/24", "cilium_host", Some("10.0.1.5"), true),
            ("10.244.2.0/24", "flannel.1", Some("10.244.2.0"), false),
            ("192.0.2.0/24", "eth0", None, false),
            ("10.7.0.0/16", "eth0", Some("192.0.2.254"), false),
            ("fe80::/64", "cali1", None, false),
        ] {
            let gateway = gateway.map(|text: &str| text.parse().unwrap());
            let route = Route { to: to.parse().unwrap(), device: device(via), gateway };
            let routes = Routes([route].into());
            assert_eq!(local_pod_networks(&network, &routes).count(), usize::from(is_pods), "{to}");
        }
    }
}
