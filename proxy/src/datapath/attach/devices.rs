//! The network devices that the packet plane works on, now and after every change.
//!
//! netlink → `Network` (what there is) → `choose` (which of it matters, and as what) → `Device`
//!
//! Reading is thin and choosing is a function of plain values, so what a bond or a tunnel is to us is a line in a table
//! of tests.
//!
//! A pod device is the host's end of a pair whose other end is in another network namespace, or a bridge that such ends
//! hang on. An external device leads to other machines: it carries a default route, or an address that others may use.
//! Tunnels between nodes are external ones: replies from backends behind them come back through them.
//!
//! A node may itself be a namespace whose uplink is the end of a pair (Kubernetes in containers). Such an uplink carries
//! a default route or an address with neighbours; a pod's end carries no address, or one with a full prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proxy_ebpf::abi::DeviceRole;

use crate::{
    config::{DeviceConfig, DeviceSelection},
    datapath::kernel::{Address, Link, LinkKind, Network, PeerNetns},
};

/// A device with work for the packet plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub role: DeviceRole,
    /// Packets begin with an Ethernet header; those of tunnels begin with the network's.
    pub has_link_header: bool,
    /// The Ethernet address under which what enters here is routed.
    pub router: Option<[u8; 6]>,
    /// Which address masquerading takes for packets that leave here.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// In the order of their indices.
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
        has_link_header: link.has_link_header,
        router: router(network, link),
        v4: sources().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
        v6: sources().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
    }
}

/// A port hands on to its bridge what is to be routed.
fn router(network: &Network, link: &Link) -> Option<[u8; 6]> {
    let bridge = network.links.iter().find(|other| Some(other.index) == link.controller);
    bridge.unwrap_or(link).address
}

/// A name on the command line says what a device is; what is left is judged by its looks.
fn role(network: &Network, config: &DeviceConfig, link: &Link) -> Option<DeviceRole> {
    if config.external.matches(&link.name) {
        return Some(DeviceRole::External);
    }
    if config.pod.matches(&link.name) {
        return Some(DeviceRole::Pod);
    }
    let role = detect_role(network, link)?;
    let selection = match role {
        DeviceRole::External => &config.external,
        DeviceRole::Pod => &config.pod,
    };
    (*selection == DeviceSelection::Auto).then_some(role)
}

fn detect_role(network: &Network, link: &Link) -> Option<DeviceRole> {
    if is_external(network, link) {
        return Some(DeviceRole::External);
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
        // What comes in through a port shows up at the bridge or the bond.
        _ if is_port(network, link) => false,
        LinkKind::Loopback | LinkKind::Dummy | LinkKind::Vrf => false,
        LinkKind::Nic | LinkKind::Tunnel => has_default_route || addresses.next().is_some(),
        LinkKind::Veth(PeerNetns::Other) => has_default_route || addresses.any(has_neighbours),
        // Plumbing of one host, unless somebody routes everything through it.
        LinkKind::Veth(PeerNetns::Same) => has_default_route,
        LinkKind::Bridge => {
            has_default_route || (addresses.next().is_some() && ports(network, link).any(is_uplink))
        }
    }
}

/// Devices of a routing domain work as if they were in none.
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

/// As the kernel chooses for MASQUERADE: an address of the device itself, else of another one. There a device with a
/// default route is preferred: the way back leads there.
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
mod tests;
