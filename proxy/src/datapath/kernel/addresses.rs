//! The addresses of the node's interfaces, updated on every change.

use std::{collections::BTreeSet, net::IpAddr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
    },
};
use tokio::sync::watch;

use super::netlink::{NetlinkError, NetlinkState, watch_state};

/// Watches the addresses of this network namespace. The receiver may miss a state that was replaced at once.
pub async fn local_addresses() -> Result<watch::Receiver<BTreeSet<IpAddr>>, NetlinkError> {
    watch_state().await
}

impl NetlinkState for BTreeSet<IpAddr> {
    const GROUPS: &'static [MulticastGroup] = &[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

    async fn read(handle: &Handle) -> Result<Self, NetlinkError> {
        let messages = handle.address().get().execute();
        let addresses = messages.try_filter_map(async |message| Ok(own_address(&message)));
        addresses.try_collect().await.map_err(|source| NetlinkError::List { objects: "addresses", source })
    }

    fn is_affected_by(_: &RouteNetlinkMessage) -> bool {
        true
    }
}

/// Point-to-point interfaces have the peer's address in `IFA_ADDRESS` and their own in `IFA_LOCAL`.
pub fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        }
    }
    local.or(address)
}
