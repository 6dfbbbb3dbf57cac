//! The device by which this network namespace reaches an address.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::{
    new_connection,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};

use super::netlink::NetlinkError;

/// The ifindex of the device of the route to an address. Returns `None` without a route.
pub async fn device_towards(address: IpAddr) -> Result<Option<u32>, NetlinkError> {
    let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
    let connection = tokio::spawn(connection);
    let mut question = RouteMessage::default();
    let (family, destination, prefix) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, RouteAddress::Inet(v4), 32),
        IpAddr::V6(v6) => (AddressFamily::Inet6, RouteAddress::Inet6(v6), 128),
    };
    question.header.address_family = family;
    question.header.destination_prefix_length = prefix;
    question.attributes.push(RouteAttribute::Destination(destination));
    let answer = handle.route().get(question).execute().try_next().await;
    connection.abort();
    // An error is the kernel's: there is no route.
    Ok(answer.ok().flatten().and_then(|route| device(&route)))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a route has forty other attributes")]
fn device(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}
