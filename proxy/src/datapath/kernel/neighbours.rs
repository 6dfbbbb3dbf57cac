//! Keeps the neighbour entries fresh that the XDP program uses.
//!
//! A packet sent by a program does not count as use of its neighbour entry. The entry becomes stale and stays
//! so, and a neighbour whose link-layer address changed would never be resolved again. So stale entries are
//! probed, as the stack does before it sends to one.

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

/// A third of the kernel's default reachable time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Probes the stale neighbours on these devices at intervals; ends with the sender.
pub async fn refresh_neighbours(devices: watch::Receiver<BTreeSet<u32>>) {
    let mut has_failed = false;
    while devices.has_changed().is_ok() {
        let on = devices.borrow().clone();
        if !on.is_empty() {
            let outcome = refresh(&on).await;
            if let (Err(error), false) = (&outcome, has_failed) {
                warn!(error = %chain(error), "cannot refresh neighbours, will retry");
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
        // The entry may be gone by now, and then it is not needed.
        let _ =
            handle.neighbours().add(*device, *address).flags(NeighbourFlags::Use).replace().execute().await;
        debug!(device, %address, "probing neighbour");
    }
    connection.abort();
    stale.map(drop)
}

async fn stale(handle: &Handle, devices: &BTreeSet<u32>) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
    let failed = |source| NetlinkError::List { objects: "neighbours", source };
    let messages = handle.neighbours().get().execute();
    let on_devices = messages.try_filter_map(async |message| {
        let is_stale =
            devices.contains(&message.header.ifindex) && message.header.state == NeighbourState::Stale;
        Ok(is_stale.then(|| Some((message.header.ifindex, address(&message)?))).flatten())
    });
    on_devices.try_collect().await.map_err(failed)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a neighbour has ten other attributes, and few have no IP address"
)]
pub fn address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}
