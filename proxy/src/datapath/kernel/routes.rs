//! The routes to networks at devices of this namespace, updated on every change.

use std::{collections::BTreeSet, net::IpAddr};

use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType},
    },
};
use tokio::sync::watch;

use super::netlink::{NetlinkError, NetlinkState, watch_state};

/// Routes without a gateway, and those with one that the administrator or a network plugin set. Routes of routing
/// protocols have a gateway, and there may be a million of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(pub BTreeSet<Route>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub to: IpNetwork,
    pub device: u32,
    pub gateway: Option<IpAddr>,
}

/// Watches the routes of this namespace. The receiver may miss a state that was replaced at once.
pub async fn watch_routes() -> Result<watch::Receiver<Routes>, NetlinkError> {
    watch_state().await
}

impl NetlinkState for Routes {
    const GROUPS: &'static [MulticastGroup] = &[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];

    async fn read(handle: &Handle) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::List { objects: "routes", source };
        let mut all = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let mut routes = handle.route().get(question).execute();
            while let Some(message) = routes.try_next().await.map_err(failed)? {
                all.extend(route(&message));
            }
        }
        Ok(Self(all))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open; the groups hold routes")]
    fn is_affected_by(notice: &RouteNetlinkMessage) -> bool {
        match notice {
            RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
                route(message).is_some()
            }
            _ => false,
        }
    }
}

/// Returns `None` for a default route, and for one that is not kept here.
#[expect(clippy::wildcard_enum_match_arm, reason = "a route has forty other attributes")]
fn route(message: &RouteMessage) -> Option<Route> {
    let (mut to, mut device, mut gateway) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => return None,
            _ => {}
        }
    }
    let header = &message.header;
    let is_configured =
        matches!(header.protocol, RouteProtocol::Boot | RouteProtocol::Static | RouteProtocol::Kernel);
    if header.kind != RouteType::Unicast || gateway.is_some() && !is_configured {
        return None;
    }
    let to = IpNetwork::new(to?, header.destination_prefix_length).ok()?;
    (to.prefix() > 0).then_some(Route { to, device: device?, gateway })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other kinds are no IP addresses")]
pub fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(to: &str, protocol: RouteProtocol, gateway: Option<&str>) -> RouteMessage {
        let network: IpNetwork = to.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = network.prefix();
        message.header.protocol = protocol;
        message.header.kind = RouteType::Unicast;
        let address = |ip: IpAddr| RouteAddress::from(ip);
        message.attributes = vec![RouteAttribute::Destination(address(network.ip())), RouteAttribute::Oif(7)];
        let gateway = gateway.map(|text| RouteAttribute::Gateway(address(text.parse().unwrap())));
        message.attributes.extend(gateway);
        message
    }

    #[test]
    fn direct_and_configured_routes_are_kept() {
        let bgp = RouteProtocol::Bgp;
        for (to, protocol, gateway, kept) in [
            ("10.244.1.5/32", RouteProtocol::Boot, None, true),
            ("10.244.1.5/32", bgp, None, true),
            ("10.0.1.0/24", RouteProtocol::Boot, Some("10.0.1.5"), true),
            ("10.0.1.0/24", bgp, Some("10.0.1.5"), false),
            ("fd00:1::/64", RouteProtocol::Kernel, None, true),
            ("0.0.0.0/0", RouteProtocol::Boot, None, false),
        ] {
            let found = route(&message(to, protocol, gateway));
            assert_eq!(found.is_some(), kept, "{to} {protocol:?} {gateway:?}");
            if let Some(route) = found {
                assert_eq!((route.to.to_string(), route.device), (to.to_owned(), 7));
            }
        }
        let mut unreachable = message("10.96.0.0/16", RouteProtocol::Boot, None);
        unreachable.header.kind = RouteType::Unreachable;
        assert_eq!(route(&unreachable), None);
    }
}
