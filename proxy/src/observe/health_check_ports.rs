//! The Services with a healthCheckNodePort, and the number of their local endpoints. Updated per change, as
//! most changes concern none of them.

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
        service::{ServiceInfo, ServiceKey},
    },
};

/// The Services with health checks, and the addresses to serve them on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedHealthChecks {
    pub services: BTreeMap<ServiceKey, ServiceHealth>,
    /// Addresses to listen on.
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

    /// To be called before the index applies the change: there a deleted slice still has its Service.
    pub fn change_received(&mut self, change: &Change, index: &Index) {
        match change {
            Change::Service(key, new) => self.touch(key, new.as_deref().is_some_and(wants_health), index),
            Change::Endpoints(key, _) => self.touch(key, false, index),
            Change::Slice(key, slice) => {
                let owners = [slice.as_ref().map(|slice| &slice.service), index.slice_owner(key)];
                owners.into_iter().flatten().for_each(|owner| self.touch(owner, false, index));
            }
            // Local endpoints depend on the node's name, which never changes.
            Change::Node(_) | Change::ServiceCidr(..) => {}
        }
    }

    /// Only Services with health checks are remembered; they are few.
    fn touch(&mut self, key: &ServiceKey, will_want: bool, index: &Index) {
        if will_want || index.service(key).is_some_and(wants_health) {
            self.touched.insert(key.clone());
        }
    }

    /// Publishes the changed Services, except those with an unwritten frontend: a health check must not claim
    /// an endpoint that is not programmed.
    pub fn publish(&mut self, index: &Index, local: &BTreeSet<IpAddr>, unsynced: &BTreeSet<&ServiceKey>) {
        let addresses = addresses(index, local);
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

/// The wildcard address of a family if NodePorts are unrestricted, else the addresses that serve NodePorts.
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
