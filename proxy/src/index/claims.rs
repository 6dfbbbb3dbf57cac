//! Who claims which address. Two Services may claim one; then one of them has it, always the same one, and the other
//! takes over when it goes.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use crate::model::{
    address::IpFamily,
    frontend::{FrontendKey, FrontendKind},
    service::{ServiceInfo, ServiceKey, ServicePortKey},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub service: ServicePortKey,
    pub kind: FrontendKind,
}

impl Claim {
    /// A ClusterIP was handed out by the cluster, the other addresses are merely asked for: nobody takes over the
    /// address of another Service by listing it as an external one. Then the lowest name wins.
    fn rank(&self) -> impl Ord + '_ {
        (self.kind != FrontendKind::ClusterIp, &self.service, self.kind)
    }
}

#[derive(Default)]
pub struct Claims {
    /// Sorted by rank, never empty; nearly all have one element.
    by_frontend: HashMap<FrontendKey, Vec<Claim>>,
    by_cluster_ip: HashMap<IpAddr, BTreeSet<ServiceKey>>,
}

impl Claims {
    pub fn winner(&self, key: &FrontendKey) -> Option<&Claim> {
        self.by_frontend.get(key)?.first()
    }

    pub fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.by_frontend.keys()
    }

    pub fn cluster_ip_owner(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.by_cluster_ip.get(&address)?.first()
    }

    pub fn cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.by_cluster_ip.keys().copied()
    }

    pub fn add(&mut self, service: &ServiceInfo, touched: &mut BTreeSet<FrontendKey>) {
        if !service.is_served() {
            return;
        }
        for (key, kind, port) in service.frontends() {
            let claim = Claim { service: service.port_key(port), kind };
            let claims = self.by_frontend.entry(key).or_default();
            let place = claims.partition_point(|other| other.rank() < claim.rank());
            claims.insert(place, claim);
            touched.insert(key);
        }
        for address in cluster_ips(service) {
            self.by_cluster_ip.entry(address).or_default().insert(service.key.clone());
        }
    }

    pub fn remove(&mut self, service: &ServiceInfo, touched: &mut BTreeSet<FrontendKey>) {
        if !service.is_served() {
            return;
        }
        for (key, ..) in service.frontends() {
            touched.insert(key);
            let Some(claims) = self.by_frontend.get_mut(&key) else { continue };
            claims.retain(|claim| claim.service.service != service.key);
            if claims.is_empty() {
                self.by_frontend.remove(&key);
            }
        }
        for address in cluster_ips(service) {
            let Some(owners) = self.by_cluster_ip.get_mut(&address) else { continue };
            owners.remove(&service.key);
            if owners.is_empty() {
                self.by_cluster_ip.remove(&address);
            }
        }
    }
}

fn cluster_ips(service: &ServiceInfo) -> impl Iterator<Item = IpAddr> {
    IpFamily::BOTH.into_iter().filter_map(|family| *service.cluster_ips.get(family))
}

#[cfg(test)]
impl Claims {
    pub fn is_bare(&self) -> bool {
        self.by_frontend.is_empty() && self.by_cluster_ip.is_empty()
    }
}
