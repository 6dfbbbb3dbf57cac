//! Who claims which address. Two Services may claim one; then one of them has it, always the same one, and the other
//! takes over when it goes.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use super::few::Few;
use crate::model::{
    address::Protocol,
    frontend::{FrontendAddress, FrontendKey, FrontendKind},
    service::{PortInfo, ServiceInfo},
};

/// An address that a port of a Service claims.
#[derive(Clone, Debug)]
pub struct Claim {
    service: Arc<ServiceInfo>,
    /// Which of its ports.
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

    pub fn claimant(&self) -> Option<(&ServiceInfo, &PortInfo)> {
        Some((&self.service, self.service.ports.get(self.port as usize)?))
    }

    /// A ClusterIP was handed out by the cluster, the other addresses are merely asked for: nobody takes over the
    /// address of another Service by listing it as an external one. Then the lowest name wins.
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
    /// Ordered, as those of one address are asked for, too.
    by_frontend: BTreeMap<FrontendKey, Few<Claim>>,
}

impl Claims {
    pub fn winner(&self, key: &FrontendKey) -> Option<&Claim> {
        self.by_frontend.get(key).map(Few::first)
    }

    pub fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.by_frontend.keys()
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
        for (key, kind, port) in service.frontends() {
            let place = service.ports.iter().position(|other| std::ptr::eq(other, port)).unwrap_or_default();
            let port = u32::try_from(place).unwrap_or(u32::MAX);
            let new = Claim { service: service.clone(), port, kind };
            match self.by_frontend.entry(key) {
                Entry::Occupied(mut claims) => claims.get_mut().insert(new),
                Entry::Vacant(nobody) => drop(nobody.insert(Few::new(new))),
            }
            touched.insert(key);
        }
    }

    pub fn remove(&mut self, service: &ServiceInfo, touched: &mut BTreeSet<FrontendKey>) {
        if !service.is_served() {
            return;
        }
        for (key, ..) in service.frontends() {
            touched.insert(key);
            let claims = self.by_frontend.remove(&key);
            let left = claims.and_then(|claims| claims.without(|claim| claim.is_of(service)));
            self.by_frontend.extend(left.map(|left| (key, left)));
        }
    }
}

#[cfg(test)]
impl Claims {
    pub fn is_bare(&self) -> bool {
        self.by_frontend.is_empty()
    }
}
