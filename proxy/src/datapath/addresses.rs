//! The addresses of the node's interfaces, now and after every change.

use std::{collections::BTreeSet, io, net::IpAddr};

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection, packet_route::address::AddressAttribute};
use tokio::sync::watch;

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("cannot list the addresses of the interfaces")]
    List(#[source] rtnetlink::Error),
}

/// The addresses of this network namespace. The receiver sees every later set; it may skip one that was replaced at
/// once.
pub async fn local_addresses() -> Result<watch::Receiver<BTreeSet<IpAddr>>, AddressError> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut messages) =
        new_multicast_connection(&groups).map_err(AddressError::Socket)?;
    tokio::spawn(connection);
    let (sender, receiver) = watch::channel(list(&handle).await?);
    tokio::spawn(async move {
        while messages.next().await.is_some() {
            match list(&handle).await {
                Ok(addresses) => drop(sender.send_if_modified(|known| replace(known, addresses))),
                Err(error) => {
                    tracing::warn!(error = %crate::error::chain(&error), "addresses unknown for now")
                }
            }
        }
    });
    Ok(receiver)
}

fn replace(known: &mut BTreeSet<IpAddr>, addresses: BTreeSet<IpAddr>) -> bool {
    let is_new = *known != addresses;
    *known = addresses;
    is_new
}

async fn list(handle: &Handle) -> Result<BTreeSet<IpAddr>, AddressError> {
    let mut messages = handle.address().get().execute();
    let mut addresses = BTreeSet::new();
    while let Some(message) = messages.try_next().await.map_err(AddressError::List)? {
        // Point-to-point interfaces have their peer's address in `Address` and their own in `Local`.
        let (mut local, mut address) = (None, None);
        for attribute in message.attributes {
            if let AddressAttribute::Local(ip) = attribute {
                local = Some(ip);
            } else if let AddressAttribute::Address(ip) = attribute {
                address = Some(ip);
            }
        }
        addresses.extend(local.or(address));
    }
    Ok(addresses)
}
