//! Links, addresses and default routes as netlink reports them, reduced to the input of device selection.

use std::{collections::BTreeSet, net::IpAddr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        route::{RouteAttribute, RouteMessage, RouteType},
    },
};
use tokio::sync::watch;

use super::{
    addresses::own_address,
    netlink::{NetlinkError, NetlinkState, watch_state},
};

/// The network state of this namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub links: Vec<Link>,
    /// In the kernel's order, which is its order of preference within a device.
    pub addresses: Vec<Address>,
    /// Devices with a default route in any routing table.
    pub default_routes: BTreeSet<u32>,
}

impl Network {
    /// The name of the controller of a device: its bridge, bond or VRF.
    pub fn bridge_of(&self, index: u32) -> Option<&str> {
        let controller = self.links.iter().find(|link| link.index == index)?.controller?;
        self.links.iter().find(|link| link.index == controller).map(|link| link.name.as_str())
    }
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: LinkKind,
    /// The ifindex of the bridge, bond or VRF that this is a port of.
    pub controller: Option<u32>,
    pub has_link_header: bool,
    /// The MAC address.
    pub address: Option<[u8; 6]>,
    /// For a VLAN device, the ifindex of the device below.
    pub vlan_parent: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Loopback,
    /// A NIC, or a device that the kernel reports like one: a bond, a VLAN, a macvlan.
    Nic,
    Bridge,
    /// One end of a veth pair, and the network namespace of its peer.
    Veth(PeerNetns),
    /// An encapsulating device: VXLAN, WireGuard, IP in IP.
    Tunnel,
    /// A VRF: a routing domain of its ports.
    Vrf,
    /// A device that receives no packets from outside: dummy, ifb.
    Dummy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerNetns {
    Same,
    /// The peer is in another network namespace, as those of pods are.
    Other,
}

/// An address that other machines may use: neither link-local nor loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub device: u32,
    pub ip: IpAddr,
    pub prefix: u8,
    /// A secondary or deprecated address: no source of new connections.
    pub is_secondary: bool,
}

/// Watches the network state of this namespace. The receiver may miss a state that was replaced at once.
pub async fn watch_network() -> Result<watch::Receiver<Network>, NetlinkError> {
    watch_state().await
}

impl NetlinkState for Network {
    const GROUPS: &'static [MulticastGroup] = &[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];

    /// In sequence: a socket carries one dump at a time.
    async fn read(handle: &Handle) -> Result<Self, NetlinkError> {
        let failed = |objects| move |source| NetlinkError::List { objects, source };
        Ok(Self {
            links: links(handle).await.map_err(failed("devices"))?,
            addresses: addresses(handle).await.map_err(failed("addresses"))?,
            default_routes: default_routes(handle).await.map_err(failed("routes"))?,
        })
    }

    /// The routing table of a router may change all the time; only default routes matter here.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is open; the groups hold links, addresses, routes"
    )]
    fn is_affected_by(notice: &RouteNetlinkMessage) -> bool {
        match notice {
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => is_default(route),
            _ => true,
        }
    }
}

/// Converts a message, as a read does.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open, and other messages are not read")]
pub fn convert(message: &RouteNetlinkMessage) {
    match message {
        RouteNetlinkMessage::NewLink(message) => drop(link(message)),
        RouteNetlinkMessage::NewAddress(message) => drop(address(message)),
        RouteNetlinkMessage::NewRoute(message) => drop(output_devices(message)),
        _ => {}
    }
}

async fn links(handle: &Handle) -> Result<Vec<Link>, rtnetlink::Error> {
    let request = handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    request.execute().map_ok(|message| link(&message)).try_collect().await
}

async fn addresses(handle: &Handle) -> Result<Vec<Address>, rtnetlink::Error> {
    let messages = handle.address().get().execute();
    messages.try_filter_map(async |message| Ok(address(&message))).try_collect().await
}

async fn default_routes(handle: &Handle) -> Result<BTreeSet<u32>, rtnetlink::Error> {
    let mut devices = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let mut routes = handle.route().get(question).execute();
        while let Some(route) = routes.try_next().await? {
            if is_default(&route) {
                devices.extend(output_devices(&route));
            }
        }
    }
    Ok(devices)
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
}

/// The output devices of a route; several for a multipath route.
#[expect(clippy::wildcard_enum_match_arm, reason = "a route has forty other attributes")]
fn output_devices(route: &RouteMessage) -> Vec<u32> {
    let devices = route.attributes.iter().map(|attribute| match attribute {
        RouteAttribute::Oif(device) => vec![*device],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    devices.flatten().collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a device has sixty other attributes")]
fn link(message: &LinkMessage) -> Link {
    let (mut name, mut info, mut controller, mut peer) = (String::new(), None, None, PeerNetns::Same);
    let (mut address, mut below) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Address(bytes) => address = bytes.as_slice().try_into().ok(),
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::Controller(index) => controller = Some(*index),
            LinkAttribute::LinkNetNsId(_) => peer = PeerNetns::Other,
            LinkAttribute::LinkInfo(infos) => info = infos.iter().find_map(info_kind),
            _ => {}
        }
    }
    let is_loopback = message.header.flags.contains(LinkFlags::Loopback);
    Link {
        index: message.header.index,
        name,
        kind: if is_loopback { LinkKind::Loopback } else { kind(info, peer) },
        controller,
        has_link_header: message.header.link_layer_type == LinkLayerType::Ether || is_loopback,
        address,
        vlan_parent: below.filter(|_| info == Some(&InfoKind::Vlan)),
    }
}

fn info_kind(info: &LinkInfo) -> Option<&InfoKind> {
    if let LinkInfo::Kind(kind) = info { Some(kind) } else { None }
}

/// `peer`: the network namespace of the device below, or of the other end.
fn kind(info: Option<&InfoKind>, peer: PeerNetns) -> LinkKind {
    use InfoKind as I;
    match info {
        None => LinkKind::Nic,
        Some(I::Veth | I::Netkit | I::Vxcan) => LinkKind::Veth(peer),
        Some(I::Bridge) => LinkKind::Bridge,
        Some(I::Vrf) => LinkKind::Vrf,
        Some(I::Dummy | I::Ifb | I::Nlmon | I::Can | I::Vcan) => LinkKind::Dummy,
        Some(
            I::Vxlan
            | I::Geneve
            | I::Wireguard
            | I::Tun
            | I::IpIp
            | I::Ip6Tnl
            | I::SitTun
            | I::GreTun
            | I::GreTun6
            | I::GreTap
            | I::GreTap6
            | I::ErSpan
            | I::Ip6ErSpan
            | I::Vti
            | I::Vti6
            | I::Xfrm
            | I::BareUdp
            | I::Gtp
            | I::Amt,
        ) => LinkKind::Tunnel,
        Some(I::Other(name)) if name == "openvswitch" => LinkKind::Bridge,
        Some(_) => LinkKind::Nic,
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let scope = message.header.scope;
    let is_usable = matches!(scope, AddressScope::Universe | AddressScope::Site);
    let flags = message.attributes.iter().find_map(flags).unwrap_or_else(AddressFlags::empty);
    let is_not_ready = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
    let ip = own_address(message).filter(|_| is_usable && !is_not_ready)?;
    Some(Address {
        device: message.header.index,
        ip,
        prefix: message.header.prefix_len,
        is_secondary: flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
    })
}

fn flags(attribute: &AddressAttribute) -> Option<AddressFlags> {
    if let AddressAttribute::Flags(flags) = attribute { Some(*flags) } else { None }
}
