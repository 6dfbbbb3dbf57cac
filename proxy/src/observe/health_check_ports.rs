//! Which Services want a health check answered, and how many pods of theirs are here. Kept by what changed, as most
//! changes concern none of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::sync::watch;

use super::health::ServiceHealth;
use crate::{
    index::{Change, Index},
    model::{
        address::{IpFamily, PerFamily},
        frontend::FrontendKey,
        service::{ServiceInfo, ServiceKey},
    },
};

/// What is to be answered, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedHealthChecks {
    pub services: BTreeMap<ServiceKey, ServiceHealth>,
    /// The addresses to listen on.
    pub addresses: PerFamily<BTreeSet<IpAddr>>,
}

pub struct HealthCheckPorts {
    wanted: watch::Sender<WantedHealthChecks>,
    touched: BTreeSet<ServiceKey>,
}

impl HealthCheckPorts {
    pub fn new() -> Self {
        Self { wanted: watch::Sender::default(), touched: BTreeSet::new() }
    }

    pub fn subscribe(&self) -> watch::Receiver<WantedHealthChecks> {
        self.wanted.subscribe()
    }

    /// To be told before the index takes the change in: a slice that goes is still known there.
    pub fn change_received(&mut self, change: &Change, index: &Index) {
        match change {
            Change::Service(key, new) => self.touch(key, new.as_deref().is_some_and(wants_health), index),
            Change::Endpoints(key, _) => self.touch(key, false, index),
            Change::Slice(key, slice) => {
                let owners = [slice.as_ref().map(|slice| &slice.service), index.slice_owner(key)];
                owners.into_iter().flatten().for_each(|owner| self.touch(owner, false, index));
            }
            // Whose endpoints are local hangs on the name of the node, which never changes.
            Change::Node(_) | Change::ServiceCidr(..) => {}
        }
    }

    /// Few Services are asked about, so the others are not remembered.
    fn touch(&mut self, key: &ServiceKey, will_want: bool, index: &Index) {
        if will_want || index.service(key).is_some_and(wants_health) {
            self.touched.insert(key.clone());
        }
    }

    /// What was touched is programmed by now, so it may be told; but for Services with a frontend that could not be.
    pub fn publish(&mut self, index: &Index, local: &BTreeSet<IpAddr>, unwritten: &BTreeSet<FrontendKey>) {
        let addresses = addresses(index, local);
        let unsynced: BTreeSet<&ServiceKey> = unwritten.iter().filter_map(|key| index.owner(key)).collect();
        let (touched, waiting): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.touched).into_iter().partition(|key| !unsynced.contains(key));
        self.touched = waiting;
        self.wanted.send_if_modified(|wanted| {
            let mut is_modified = wanted.addresses != addresses;
            wanted.addresses = addresses;
            for key in touched {
                let now = health(index, &key);
                is_modified |= wanted.services.get(&key) != now.as_ref();
                match now {
                    Some(health) => drop(wanted.services.insert(key, health)),
                    None => drop(wanted.services.remove(&key)),
                }
            }
            is_modified
        });
    }
}

fn wants_health(service: &ServiceInfo) -> bool {
    service.health_check_node_port.is_some()
}

fn health(index: &Index, key: &ServiceKey) -> Option<ServiceHealth> {
    let service = index.service(key).filter(|service| service.is_served())?;
    let port = service.health_check_node_port?;
    let count = |family: IpFamily| {
        let is_there = service.cluster_ips.get(family).is_some();
        is_there.then(|| index.local_ready_endpoints(key, family))
    };
    Some(ServiceHealth {
        port,
        local_endpoints: PerFamily { v4: count(IpFamily::V4), v6: count(IpFamily::V6) },
    })
}

/// All of a family's addresses where nothing restricts NodePorts, else those that serve them.
fn addresses(index: &Index, local: &BTreeSet<IpAddr>) -> PerFamily<BTreeSet<IpAddr>> {
    let node = index.node();
    let of = |family: IpFamily, all: IpAddr| {
        if node.nodeports_are_unrestricted(family) {
            return BTreeSet::from([all]);
        }
        let listed = local.iter().copied().filter(|address| IpFamily::of(*address) == family);
        listed.filter(|address| !address.is_loopback() && node.nodeports_include(*address)).collect()
    };
    PerFamily {
        v4: of(IpFamily::V4, Ipv4Addr::UNSPECIFIED.into()),
        v6: of(IpFamily::V6, Ipv6Addr::UNSPECIFIED.into()),
    }
}
