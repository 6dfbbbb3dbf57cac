//! The network between a node, its pods and the other nodes, in the forms of network plugins.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;

use crate::lab::{
    addresses::{Addresses, NodeAddressing, Subnet},
    kernel::netns::{Mac, Netlink, Netns},
};

/// The bridge of a node's pods.
pub const POD_BRIDGE: &str = "pods";
/// The tunnel to other nodes.
const TUNNEL: &str = "tunnel0";
/// The MTU of pods behind a tunnel over links of 1500 bytes.
const TUNNELLED_MTU: u32 = 1450;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodNetwork {
    /// Pods on a bridge; routes to other nodes' pods via their nodes.
    #[default]
    Bridged,
    /// Each pod at a device of its own, with a route to it; routes to other nodes' pods via their nodes.
    Routed,
    /// Pods on a bridge; other nodes' pods through VXLAN. Only the nodes have routes to pods.
    Tunnelled,
}

impl PodNetwork {
    pub const ALL: [Self; 3] = [Self::Bridged, Self::Routed, Self::Tunnelled];

    /// Configures a node before its first pod.
    pub async fn prepare(self, node: &Netns, pods: &Subnet, underlay: Addresses) -> Result<()> {
        let netlink = node.netlink()?;
        match self {
            Self::Bridged | Self::Tunnelled => {
                netlink.bridge(POD_BRIDGE).await?;
                for address in pods.interface(pods.host(1))? {
                    netlink.address(POD_BRIDGE, address).await?;
                }
            }
            Self::Routed => {}
        }
        if self == Self::Tunnelled {
            netlink.vxlan(TUNNEL, underlay.v4, tunnel_mac(pods)).await?;
            for address in pods.host(0).both() {
                netlink.address(TUNNEL, host_prefix(address)?).await?;
            }
        }
        Ok(())
    }

    /// Connects a pod's `eth0` with its node.
    pub async fn plug(self, pod: &Netns, node: &Netns, pods: &Subnet, own: Addresses) -> Result<()> {
        let device = device_of(own);
        let (pod, host) = (pod.netlink()?, node.netlink()?);
        pod.veth("eth0", &device, &host).await?;
        match self {
            Self::Bridged => attach(&pod, &host, &device, pods, own).await,
            Self::Tunnelled => {
                pod.mtu("eth0", TUNNELLED_MTU).await?;
                host.mtu(&device, TUNNELLED_MTU).await?;
                attach(&pod, &host, &device, pods, own).await
            }
            Self::Routed => route(&pod, &host, &device, pods, own).await,
        }
    }

    /// Adds routes from a node to another one's pods.
    pub async fn connect(self, from: &Netns, to: &NodeAddressing) -> Result<()> {
        if self == Self::Tunnelled {
            return add_tunnel_routes(from, to).await;
        }
        add_pod_routes(from, to).await
    }

    /// Adds routes from the router to a node's pods, unless they are tunnelled.
    pub async fn announce(self, router: &Netns, node: &NodeAddressing) -> Result<()> {
        if self == Self::Tunnelled { Ok(()) } else { add_pod_routes(router, node).await }
    }

    /// The masquerade address of a node for a pod: one of the egress device.
    pub fn masquerade(self, from: NodeAddressing, pod_is_here: bool) -> Addresses {
        match (self, pod_is_here) {
            (_, true) => from.pods.host(1),
            (Self::Bridged | Self::Routed, false) => from.addresses,
            (Self::Tunnelled, false) => from.pods.host(0),
        }
    }
}

/// The node's end of a pod's veth pair.
pub fn device_of(pod: Addresses) -> String {
    format!("pod{}", pod.v4.octets()[3])
}

async fn attach(
    pod: &Netlink<'_>,
    host: &Netlink<'_>,
    device: &str,
    pods: &Subnet,
    own: Addresses,
) -> Result<()> {
    host.attach(device, POD_BRIDGE).await?;
    for address in pods.interface(own)? {
        pod.address("eth0", address).await?;
    }
    add_default_routes(pod, pods.host(1)).await?;
    pod.wait_for_neighbour_discovery("eth0").await?;
    host.wait_for_neighbour_discovery(POD_BRIDGE).await
}

/// The node has the gateway's address on every pod's device.
async fn route(
    pod: &Netlink<'_>,
    host: &Netlink<'_>,
    device: &str,
    pods: &Subnet,
    own: Addresses,
) -> Result<()> {
    for (own, gateway) in own.both().into_iter().zip(pods.host(1).both()) {
        host.address(device, host_prefix(gateway)?).await?;
        host.route_through(host_prefix(own)?, device).await?;
        pod.address("eth0", host_prefix(own)?).await?;
        pod.route_through(host_prefix(gateway)?, "eth0").await?;
    }
    add_default_routes(pod, pods.host(1)).await?;
    pod.wait_for_neighbour_discovery("eth0").await?;
    host.wait_for_neighbour_discovery(device).await
}

/// Default routes via `gateway`.
pub async fn add_default_routes(netlink: &Netlink<'_>, gateway: Addresses) -> Result<()> {
    for (anything, via) in [IpAddr::from([0; 4]), IpAddr::from([0; 16])].into_iter().zip(gateway.both()) {
        netlink.route(IpNetwork::new(anything, 0).context("a prefix out of range")?, via).await?;
    }
    Ok(())
}

async fn add_pod_routes(from: &Netns, to: &NodeAddressing) -> Result<()> {
    let netlink = from.netlink()?;
    for (pods, via) in to.pods.networks().into_iter().zip(to.addresses.both()) {
        netlink.route(pods, via).await?;
    }
    Ok(())
}

/// All entries for the other node are static; the tunnel does not learn.
async fn add_tunnel_routes(from: &Netns, to: &NodeAddressing) -> Result<()> {
    let netlink = from.netlink()?;
    let mac = tunnel_mac(&to.pods);
    netlink.forwarding_entry(TUNNEL, mac, to.addresses.v4.into()).await?;
    for (pods, end) in to.pods.networks().into_iter().zip(to.pods.host(0).both()) {
        netlink.neighbour(TUNNEL, end, mac).await?;
        netlink.route_beyond(pods, end, TUNNEL).await?;
    }
    Ok(())
}

/// The link-layer address of a node's end of the tunnel.
fn tunnel_mac(pods: &Subnet) -> Mac {
    let [_, _, node, _] = pods.v4.ip().octets();
    [0x02, 0, 0, 0, 0x01, node]
}

fn host_prefix(address: IpAddr) -> Result<IpNetwork> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    IpNetwork::new(address, bits).context("a prefix out of range")
}
