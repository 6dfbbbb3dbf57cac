//! The network devices of the packet plane, and their roles.
//!
//! netlink → `Network` (links, addresses, routes) → `select_devices` → `Device`
//!
//! Selection is a function of plain values, so the role of a bond or a tunnel is a row in a table of tests.
//!
//! A pod device is the host's end of a veth pair whose peer is in another network namespace, or a bridge with
//! such ports. An external device leads to other machines: it has a default route, or an address that other
//! machines may use. Tunnels between nodes are external: replies from backends behind them come back through
//! them. The loopback device has a program wherever there is a packet plane: the node's connections to its own
//! addresses pass no other device.
//!
//! A node may itself be a network namespace whose uplink is the end of a veth pair (Kubernetes in
//! containers). Such an uplink has a default route or an address with neighbours; a pod's end has no address,
//! or one with a full prefix (/32, /128).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proxy_ebpf::abi::DeviceRole;

use crate::{
    config::{DeviceConfig, DeviceSelection},
    datapath::kernel::{Address, Link, LinkKind, Network, PeerNetns},
};

/// A device with a role in the packet plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub role: DeviceRole,
    /// Packets that enter here may have been seen at a port before.
    pub is_bridge: bool,
    /// Packets start with an Ethernet header; those of tunnels start with the IP header.
    pub has_link_header: bool,
    /// The destination MAC address of frames that are routed when they enter here.
    pub router: Option<[u8; 6]>,
    /// The masquerade address for packets that leave here.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Device {
    /// Whether packets that enter here were at no other hook of ours: the host's end of a pod's own device.
    pub fn is_first_hop(&self) -> bool {
        self.role == DeviceRole::Pod && !self.is_bridge
    }
}

/// The devices with a role, ordered by ifindex.
pub fn select_devices(network: &Network, config: &DeviceConfig) -> Vec<Device> {
    let mut devices: Vec<Device> = network
        .links
        .iter()
        .filter_map(|link| Some(device(network, link, role(network, config, link)?)))
        .collect();
    devices.sort_unstable_by_key(|device| device.index);
    devices
}

fn device(network: &Network, link: &Link, role: DeviceRole) -> Device {
    let sources = || sources(network, link.index);
    Device {
        index: link.index,
        name: link.name.clone(),
        role,
        is_bridge: link.kind == LinkKind::Bridge,
        has_link_header: link.has_link_header,
        router: router(network, link),
        v4: sources().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
        v6: sources().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
    }
}

/// A bridge port passes frames that are to be routed to its bridge.
fn router(network: &Network, link: &Link) -> Option<[u8; 6]> {
    let bridge = network.links.iter().find(|other| Some(other.index) == link.controller);
    bridge.unwrap_or(link).address
}

/// A name on the command line sets the role; the role of the other devices is detected.
fn role(network: &Network, config: &DeviceConfig, link: &Link) -> Option<DeviceRole> {
    if config.external.matches(&link.name) {
        return Some(DeviceRole::External);
    }
    if config.pod.matches(&link.name) {
        return Some(DeviceRole::Pod);
    }
    let role = detect_role(network, link)?;
    let is_selected = match role {
        DeviceRole::External => config.external == DeviceSelection::Auto,
        DeviceRole::Pod => config.pod == DeviceSelection::Auto,
        DeviceRole::Loopback => config.has_packet_plane(),
    };
    is_selected.then_some(role)
}

pub fn detect_role(network: &Network, link: &Link) -> Option<DeviceRole> {
    if is_external(network, link) {
        return Some(DeviceRole::External);
    }
    if link.kind == LinkKind::Loopback {
        return Some(DeviceRole::Loopback);
    }
    let is_pod = match link.kind {
        LinkKind::Veth(PeerNetns::Other) => true,
        LinkKind::Bridge => ports(network, link).any(|port| port.kind == LinkKind::Veth(PeerNetns::Other)),
        LinkKind::Loopback
        | LinkKind::Nic
        | LinkKind::Veth(PeerNetns::Same)
        | LinkKind::Tunnel
        | LinkKind::Vrf
        | LinkKind::Dummy => false,
    };
    is_pod.then_some(DeviceRole::Pod)
}

fn is_external(network: &Network, link: &Link) -> bool {
    let has_default_route = network.default_routes.contains(&link.index);
    let mut addresses = network.addresses.iter().filter(|address| address.device == link.index);
    match link.kind {
        // Packets that enter by a port show up at the bridge or the bond.
        _ if is_port(network, link) => false,
        LinkKind::Loopback | LinkKind::Dummy | LinkKind::Vrf => false,
        LinkKind::Nic | LinkKind::Tunnel => has_default_route || addresses.next().is_some(),
        LinkKind::Veth(PeerNetns::Other) => has_default_route || addresses.any(has_neighbours),
        // A pair within one host, unless a default route leads through it.
        LinkKind::Veth(PeerNetns::Same) => has_default_route,
        LinkKind::Bridge => {
            has_default_route || (addresses.next().is_some() && ports(network, link).any(is_uplink))
        }
    }
}

/// Ports of a VRF work like devices without a controller.
fn is_port(network: &Network, link: &Link) -> bool {
    let Some(controller) = link.controller else { return false };
    network.links.iter().all(|other| other.index != controller || other.kind != LinkKind::Vrf)
}

fn ports<'a>(network: &'a Network, bridge: &Link) -> impl Iterator<Item = &'a Link> {
    let index = bridge.index;
    network.links.iter().filter(move |link| link.controller == Some(index))
}

fn is_uplink(port: &Link) -> bool {
    port.kind == LinkKind::Nic
}

fn has_neighbours(address: &Address) -> bool {
    address.prefix < if address.ip.is_ipv4() { 32 } else { 128 }
}

/// Masquerade addresses in the kernel's order for MASQUERADE: an address of the device itself, else of
/// another device. Among the others a device with a default route is preferred, because replies come back
/// there.
fn sources(network: &Network, device: u32) -> impl Iterator<Item = IpAddr> {
    let of = move |wanted: fn(&Network, u32, u32) -> bool| {
        let addresses = network.addresses.iter().filter(|address| !address.is_secondary);
        addresses.filter(move |address| wanted(network, address.device, device)).map(|address| address.ip)
    };
    of(|_, owner, device| owner == device)
        .chain(of(|network, owner, _| network.default_routes.contains(&owner)))
        .chain(of(|_, _, _| true))
}

#[cfg(test)]
pub mod tests;
