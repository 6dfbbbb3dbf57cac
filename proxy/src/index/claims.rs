//! The claims of Services on addresses. If several Services claim one address, the order of claims determines
//! the owner; the next one takes over when the owner is deleted.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use super::{frontends::frontends, small_set::SmallSet};
use crate::model::{
    address::Protocol,
    frontend::{FrontendAddress, FrontendKey, FrontendKind},
    service::{PortInfo, ServiceInfo},
};

/// The claim of a service port on an address.
#[derive(Clone, Debug)]
pub struct Claim {
    service: Arc<ServiceInfo>,
    /// Index of the port in the Service.
    port: u32,
    kind: FrontendKind,
}

impl Claim {
    pub fn kind(&self) -> FrontendKind {
        self.kind
    }

    pub fn is_of(&self, service: &ServiceInfo) -> bool {
        self.service.key == service.key
    }

    fn is_of_port_of(&self, other: &Self) -> bool {
        self.service.key == other.service.key && self.port == other.port
    }

    pub fn claimant(&self) -> Option<(&ServiceInfo, &PortInfo)> {
        Some((&self.service, self.service.ports.get(self.port as usize)?))
    }

    /// ClusterIPs precede all other addresses: they are allocated by the cluster, the others merely requested,
    /// and a Service must not take over the ClusterIP of another one by listing it as an external IP. Then the
    /// lowest name wins.
    fn rank(&self) -> impl Ord + '_ {
        let port = self.claimant().map(|(_, port)| (&port.name, port.protocol));
        (self.kind != FrontendKind::ClusterIp, &self.service.key, port, self.kind)
    }
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Claim {}

#[derive(Default)]
pub struct Claims {
    /// Ordered by address first: `has_cluster_ip` iterates over one address.
    by_frontend: BTreeMap<FrontendKey, SmallSet<Claim>>,
    /// Those with a claim that is lost, which are few.
    contested: BTreeSet<FrontendKey>,
}

impl Claims {
    pub fn winner(&self, key: &FrontendKey) -> Option<&Claim> {
        self.by_frontend.get(key).map(SmallSet::first)
    }

    pub fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.by_frontend.keys()
    }

    /// The claims that have no effect, with the frontend and the claim that precedes. An address that one service port
    /// claims twice is not lost.
    pub fn lost(&self) -> impl Iterator<Item = (&FrontendKey, &Claim, &Claim)> {
        let contested = self.contested.iter().filter_map(|key| self.by_frontend.get_key_value(key));
        contested.flat_map(|(key, claims)| {
            let winner = claims.first();
            lost(claims).map(move |claim| (key, claim, winner))
        })
    }

    /// Whether a Service claims a port of this address as its ClusterIP.
    pub fn has_cluster_ip(&self, address: IpAddr) -> bool {
        let key = |port, protocol| FrontendKey { address: FrontendAddress::Ip(address), port, protocol };
        let of_address = self.by_frontend.range(key(0, Protocol::Tcp)..=key(u16::MAX, Protocol::Sctp));
        of_address.flat_map(|(_, claims)| claims.iter()).any(|claim| claim.kind == FrontendKind::ClusterIp)
    }

    pub fn add(&mut self, service: &Arc<ServiceInfo>, touched: &mut BTreeSet<FrontendKey>) {
        if !service.is_served() {
            return;
        }
        for (key, kind, port) in frontends(service) {
            let new = Claim { service: service.clone(), port, kind };
            match self.by_frontend.entry(key) {
                Entry::Occupied(mut claims) => claims.get_mut().insert(new),
                Entry::Vacant(unclaimed) => drop(unclaimed.insert(SmallSet::new(new))),
            }
            self.note_contest(key);
            touched.insert(key);
        }
    }

    pub fn remove(&mut self, service: &ServiceInfo, touched: &mut BTreeSet<FrontendKey>) {
        if !service.is_served() {
            return;
        }
        for (key, ..) in frontends(service) {
            touched.insert(key);
            let claims = self.by_frontend.remove(&key);
            let left = claims.and_then(|claims| claims.without(|claim| claim.is_of(service)));
            self.by_frontend.extend(left.map(|left| (key, left)));
            self.note_contest(key);
        }
    }

    fn note_contest(&mut self, key: FrontendKey) {
        if self.by_frontend.get(&key).is_some_and(|claims| lost(claims).next().is_some()) {
            self.contested.insert(key);
        } else {
            self.contested.remove(&key);
        }
    }
}

/// The claims of other service ports than the owner's.
fn lost(claims: &SmallSet<Claim>) -> impl Iterator<Item = &Claim> {
    let winner = claims.first();
    claims.iter().filter(|claim| !claim.is_of_port_of(winner))
}

#[cfg(test)]
impl Claims {
    pub fn is_empty(&self) -> bool {
        self.by_frontend.is_empty()
    }
}
