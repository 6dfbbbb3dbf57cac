//! The next hop of an address as the kernel routes it now, and its neighbour entry.

use std::{net::IpAddr, time::Duration};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder, new_connection,
    packet_route::{
        neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAttribute, RouteType},
    },
};
use tokio::time::{Instant, sleep};

use super::{neighbours, netlink::NetlinkError, routes};

/// The interval at which a neighbour entry that is being resolved is read.
const POLL: Duration = Duration::from_millis(50);

/// The machine that packets to an address are handed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The device's name.
    pub device: String,
    /// The address itself, or that of a gateway.
    pub address: IpAddr,
    pub is_gateway: bool,
    pub neighbour: Neighbour,
}

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// There is none.
    Absent,
    /// Set by hand or by a network plugin, with this link-layer address: no answer of the network changes it.
    Permanent(String),
    /// The neighbour has answered.
    Resolved,
    /// It has not answered yet, or not at all.
    Unresolved,
}

/// Returns `None` for an address of this node and for one without a route.
pub async fn next_hop(to: IpAddr) -> Result<Option<NextHop>, NetlinkError> {
    let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
    let connection = tokio::spawn(connection);
    let found = look_up(&handle, to).await;
    connection.abort();
    Ok(found?.map(|(_, hop)| hop))
}

/// Lets the kernel ask for the link-layer address of the next hop, and returns it when that is known or the limit has passed.
pub async fn resolved_next_hop(to: IpAddr, limit: Duration) -> Result<Option<NextHop>, NetlinkError> {
    let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
    let connection = tokio::spawn(connection);
    let end = Instant::now() + limit;
    let mut found = look_up(&handle, to).await;
    if let Ok(Some((device, hop))) = &found {
        let request = handle.neighbours().add(*device, hop.address).flags(NeighbourFlags::Use);
        // An entry that cannot be made has no answer either.
        let _ = request.state(NeighbourState::None).replace().execute().await;
    }
    while matches!(&found, Ok(Some((_, hop))) if !hop.neighbour.is_known()) && Instant::now() < end {
        sleep(POLL).await;
        found = look_up(&handle, to).await;
    }
    connection.abort();
    Ok(found?.map(|(_, hop)| hop))
}

impl Neighbour {
    fn is_known(&self) -> bool {
        matches!(self, Self::Permanent(_) | Self::Resolved)
    }

    fn of(state: NeighbourState, link_layer: Option<&[u8]>) -> Self {
        use NeighbourState as State;
        if state == State::Permanent {
            return Self::Permanent(text(link_layer.unwrap_or_default()));
        }
        let has_answered = [State::Reachable, State::Stale, State::Delay, State::Probe, State::Noarp];
        if has_answered.contains(&state) { Self::Resolved } else { Self::Unresolved }
    }
}

async fn look_up(handle: &Handle, to: IpAddr) -> Result<Option<(u32, NextHop)>, NetlinkError> {
    let no_route = |source| NetlinkError::List { objects: "routes", source };
    let bits = if to.is_ipv4() { 32 } else { 128 };
    // The prefix of an address of either family is as long as the address.
    let Ok(request) = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, bits) else {
        return Ok(None);
    };
    let route = match handle.route().get(request.build()).execute().try_next().await {
        // ENETUNREACH and EHOSTUNREACH: there is no route.
        Err(rtnetlink::Error::NetlinkError(_)) => return Ok(None),
        route => route.map_err(no_route)?,
    };
    let Some(route) = route.filter(|route| route.header.kind == RouteType::Unicast) else { return Ok(None) };
    let gateway = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Gateway(address) = attribute else { return None };
        routes::ip(address)
    });
    let device = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Oif(device) = attribute else { return None };
        Some(*device)
    });
    let Some(device) = device else { return Ok(None) };
    let address = gateway.unwrap_or(to);
    let neighbour = neighbour(handle, device, address).await?;
    let name = nix::net::if_::if_indextoname(device).unwrap_or_default();
    let device_name = name.to_string_lossy().into_owned();
    Ok(Some((device, NextHop { device: device_name, address, is_gateway: gateway.is_some(), neighbour })))
}

async fn neighbour(handle: &Handle, device: u32, address: IpAddr) -> Result<Neighbour, NetlinkError> {
    let failed = |source| NetlinkError::List { objects: "neighbours", source };
    let is_of = |message: &NeighbourMessage| {
        message.header.ifindex == device && neighbours::address(message) == Some(address)
    };
    let mut messages = handle.neighbours().get().execute();
    let mut found = Neighbour::Absent;
    // To the end, as a reply that is left makes the next request fail.
    while let Some(message) = messages.try_next().await.map_err(failed)? {
        if is_of(&message) {
            let link_layer = message.attributes.iter().find_map(|attribute| {
                let NeighbourAttribute::LinkLayerAddress(octets) = attribute else { return None };
                Some(octets.as_slice())
            });
            found = Neighbour::of(message.header.state, link_layer);
        }
    }
    Ok(found)
}

fn text(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_told_by_its_state() {
        let of = |state| Neighbour::of(state, Some(&[2, 0, 0, 0, 0, 255]));
        assert_eq!(of(NeighbourState::Permanent), Neighbour::Permanent("02:00:00:00:00:ff".to_owned()));
        assert_eq!(of(NeighbourState::Stale), Neighbour::Resolved);
        assert_eq!(of(NeighbourState::Incomplete), Neighbour::Unresolved);
        assert_eq!(of(NeighbourState::Failed), Neighbour::Unresolved);
    }

    #[tokio::test]
    async fn an_address_of_this_node_has_no_next_hop() {
        assert_eq!(next_hop([127, 0, 0, 1].into()).await.unwrap(), None);
    }
}
