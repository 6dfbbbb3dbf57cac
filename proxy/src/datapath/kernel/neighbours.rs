//! Keeps the neighbours fresh that the early plane sends to.
//!
//! What a program sends tells the kernel nothing about its neighbour: an entry grows stale and stays as it is, however
//! long it is used, and a neighbour with another link-layer address would never be found again. So whoever went stale is
//! asked for, as the stack does before it sends to one.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, new_connection,
    packet_route::neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};
use tokio::{sync::watch, time::sleep};
use tracing::{debug, warn};

use super::netlink::NetlinkError;
use crate::error::chain;

/// A third of the time for which the kernel takes a neighbour as it was.
const INTERVAL: Duration = Duration::from_secs(10);

/// Asks for the stale neighbours on these devices, every now and then; ends with the sender.
pub async fn refresh_neighbours(devices: watch::Receiver<BTreeSet<u32>>) {
    let mut has_failed = false;
    while devices.has_changed().is_ok() {
        let on = devices.borrow().clone();
        if !on.is_empty() {
            let outcome = refresh(&on).await;
            if let (Err(error), false) = (&outcome, has_failed) {
                warn!(error = %chain(error), "neighbours are not kept fresh, will retry");
            }
            has_failed = outcome.is_err();
        }
        sleep(INTERVAL).await;
    }
}

async fn refresh(devices: &BTreeSet<u32>) -> Result<(), NetlinkError> {
    let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
    let connection = tokio::spawn(connection);
    let stale = stale(&handle, devices).await;
    for (device, address) in stale.iter().flatten() {
        // It may have gone meanwhile, and then nobody needs it.
        let _ =
            handle.neighbours().add(*device, *address).flags(NeighbourFlags::Use).replace().execute().await;
        debug!(device, %address, "neighbour is asked for");
    }
    connection.abort();
    stale.map(drop)
}

async fn stale(handle: &Handle, devices: &BTreeSet<u32>) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
    let failed = |source| NetlinkError::List { what: "neighbours", source };
    let messages = handle.neighbours().get().execute();
    let on_devices = messages.try_filter_map(async |message| {
        let is_meant =
            devices.contains(&message.header.ifindex) && message.header.state == NeighbourState::Stale;
        Ok(is_meant.then(|| Some((message.header.ifindex, address(&message)?))).flatten())
    });
    on_devices.try_collect().await.map_err(failed)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a neighbour has ten other attributes, and few have no IP address"
)]
fn address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}
