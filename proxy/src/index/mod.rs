//! The joined state: Services, their slices, the node and the ServiceCIDRs, and the frontends that follow from them.
//!
//! One owner feeds it changes and learns which frontends each one touched; asked for a frontend it answers from what
//! it holds now. It reads no clock and does no I/O, and the order in which objects arrive never matters.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use proxy_ebpf::abi::Unclaimed;

use crate::model::{
    address::IpFamily,
    backend::{Candidate, SliceInfo, SliceKey, SliceSource},
    flow::{Flow, Verdict},
    frontend::{Frontend, FrontendKey, FrontendKind},
    node::{LocalNode, NodeInfo},
    policy::Policy,
    service::{PortInfo, ServiceInfo, ServiceKey, ServicePortKey},
    topology::{EndpointSets, Uses},
};

mod claims;
mod few;
mod health;
mod reason;
mod resolve;
mod verdict;

use claims::Claims;

/// One object appeared, changed (`Some`) or went (`None`).
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Service(ServiceKey, Option<Arc<ServiceInfo>>),
    Slice(SliceKey, Option<Arc<SliceInfo>>),
    /// The slices that mirroring would make of the Endpoints object of this name.
    Endpoints(ServiceKey, Option<Arc<[SliceInfo]>>),
    /// The Node object of this node; others do not concern us.
    Node(Option<NodeInfo>),
    ServiceCidr(Arc<str>, Option<Vec<IpNetwork>>),
}

type OwnedSlice = (SliceKey, Arc<SliceInfo>);

pub struct Index {
    policy: Policy,
    node_info: Option<NodeInfo>,
    /// Policy and Node object put together; rebuilt when the Node object changes.
    node: LocalNode,
    /// Every Service, also those that are not served: they still govern the mirroring of Endpoints.
    services: HashMap<ServiceKey, Arc<ServiceInfo>>,
    /// To which Service a slice contributes now, so that a relabelled slice can be taken from there.
    slice_owners: HashMap<SliceKey, ServiceKey>,
    /// Of each Service, by name; nearly all have one.
    slices: HashMap<ServiceKey, Box<[OwnedSlice]>>,
    endpoints: HashMap<ServiceKey, Arc<[SliceInfo]>>,
    claims: Claims,
    service_cidrs: BTreeMap<Arc<str>, Vec<IpNetwork>>,
}

impl Index {
    pub fn new(policy: Policy) -> Self {
        Self {
            node: LocalNode::new(&policy, None),
            policy,
            node_info: None,
            services: HashMap::new(),
            slice_owners: HashMap::new(),
            slices: HashMap::new(),
            endpoints: HashMap::new(),
            claims: Claims::default(),
            service_cidrs: BTreeMap::new(),
        }
    }

    /// Takes one change in and tells which frontends may look different now.
    pub fn apply(&mut self, change: Change) -> BTreeSet<FrontendKey> {
        match change {
            Change::Service(key, service) => self.apply_service(&key, service),
            Change::Slice(key, slice) => self.apply_slice(key, slice),
            Change::Endpoints(key, slices) => self.apply_endpoints(key, slices),
            Change::Node(node) => self.apply_node(node),
            Change::ServiceCidr(name, networks) => self.apply_service_cidr(name, networks),
        }
    }

    /// `None`: nobody claims this address any more.
    pub fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        let claim = self.claims.winner(key)?;
        let (service, port) = claim.claimant()?;
        Some(self.resolve(*key, claim.kind(), service, port))
    }

    /// Those of one Service come one after the other.
    pub fn frontends(&self) -> impl Iterator<Item = Frontend> {
        self.services.values().flat_map(|service| {
            let claimed = if service.is_served() { service.frontends() } else { Vec::new() };
            // An address that a Service claims twice is one frontend.
            let keys: BTreeSet<FrontendKey> = claimed.into_iter().map(|(key, ..)| key).collect();
            let won = keys
                .into_iter()
                .filter(|key| self.claims.winner(key).is_some_and(|claim| claim.is_of(service)));
            won.filter_map(|key| self.frontend(&key))
        })
    }

    pub fn frontend_keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.claims.keys()
    }

    pub fn node(&self) -> &LocalNode {
        &self.node
    }

    pub fn node_info(&self) -> Option<&NodeInfo> {
        self.node_info.as_ref()
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceInfo> {
        self.services.get(key).map(|service| &**service)
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceInfo> {
        self.services.values().map(|service| &**service)
    }

    /// The Service to which a slice contributes.
    pub fn slice_owner(&self, key: &SliceKey) -> Option<&ServiceKey> {
        self.slice_owners.get(key)
    }

    /// What becomes of a flow.
    pub fn explain(&self, flow: &Flow) -> Verdict {
        verdict::decide(self, flow)
    }

    /// The Service whose ClusterIP this is: ports it does not define refuse at once. Asked by who explains, so that it
    /// may take a look at all of them.
    pub fn cluster_ip_owner(&self, address: IpAddr) -> Option<&ServiceKey> {
        let has = |service: &&Arc<ServiceInfo>| service.served_cluster_ips().any(|own| own == address);
        self.services.values().filter(has).map(|service| &service.key).min()
    }

    pub fn cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        let all: BTreeSet<IpAddr> =
            self.services.values().flat_map(|service| service.served_cluster_ips()).collect();
        all.into_iter()
    }

    /// What becomes of packets to addresses of Services where no frontend has their port.
    pub fn unclaimed_networks(&self) -> impl Iterator<Item = (IpNetwork, Unclaimed)> {
        let allocated = self.cluster_ips().map(|address| (address.into(), Unclaimed::UndefinedPort));
        self.service_cidrs().map(|network| (network, Unclaimed::Unallocated)).chain(allocated)
    }

    pub fn service_cidrs(&self) -> impl Iterator<Item = IpNetwork> {
        self.service_cidrs.values().flatten().copied()
    }

    fn apply_service(
        &mut self,
        key: &ServiceKey,
        service: Option<Arc<ServiceInfo>>,
    ) -> BTreeSet<FrontendKey> {
        let service = service.map(|service| self.admitted(service));
        let old = self.services.get(key).cloned();
        if old == service {
            return BTreeSet::new();
        }
        let mut touched = BTreeSet::new();
        if let Some(old) = old {
            self.claims.remove(&old, &mut touched);
            self.services.remove(key);
        }
        if let Some(new) = service {
            self.claims.add(&new, &mut touched);
            self.services.insert(key.clone(), new);
        }
        // Whether Endpoints are mirrored hangs on the Service, all of whose frontends are touched already.
        self.mirror(key);
        touched
    }

    /// External IPs do not exist where the flags say so.
    fn admitted(&self, mut service: Arc<ServiceInfo>) -> Arc<ServiceInfo> {
        if !self.policy.external_ips && !service.external_ips.is_empty() {
            Arc::make_mut(&mut service).external_ips.clear();
        }
        service
    }

    fn apply_slice(&mut self, key: SliceKey, slice: Option<Arc<SliceInfo>>) -> BTreeSet<FrontendKey> {
        let old = self.slice_owners.get(&key).and_then(|owner| self.slice(owner, &key)).cloned();
        if old == slice {
            return BTreeSet::new();
        }
        let mut touched = BTreeSet::new();
        if let Some(old) = old {
            self.frontends_fed_by(&old, &mut touched);
            self.remove_slice(&key, &old.service);
        }
        if let Some(new) = slice {
            self.frontends_fed_by(&new, &mut touched);
            self.insert_slice(key, new);
        }
        touched
    }

    fn apply_endpoints(
        &mut self,
        key: ServiceKey,
        slices: Option<Arc<[SliceInfo]>>,
    ) -> BTreeSet<FrontendKey> {
        match slices {
            Some(slices) => self.endpoints.insert(key.clone(), slices),
            None => self.endpoints.remove(&key),
        };
        self.mirror(&key)
    }

    fn apply_node(&mut self, node: Option<NodeInfo>) -> BTreeSet<FrontendKey> {
        self.node_info = node;
        let node = LocalNode::new(&self.policy, self.node_info.as_ref());
        if node == self.node {
            return BTreeSet::new();
        }
        // Hints, locality, source ranges and masquerading all look at the node, and it changes rarely.
        self.node = node;
        self.claims.keys().copied().collect()
    }

    fn apply_service_cidr(
        &mut self,
        name: Arc<str>,
        networks: Option<Vec<IpNetwork>>,
    ) -> BTreeSet<FrontendKey> {
        match networks {
            Some(networks) => self.service_cidrs.insert(name, networks),
            None => self.service_cidrs.remove(&name),
        };
        BTreeSet::new()
    }

    fn insert_slice(&mut self, key: SliceKey, slice: Arc<SliceInfo>) {
        self.slice_owners.insert(key.clone(), slice.service.clone());
        let siblings = self.slices.entry(slice.service.clone()).or_default();
        let mut all = std::mem::take(siblings).into_vec();
        let place = all.partition_point(|(other, _)| *other < key);
        all.insert(place, (key, slice));
        *siblings = all.into();
    }

    fn slice(&self, owner: &ServiceKey, key: &SliceKey) -> Option<&Arc<SliceInfo>> {
        let siblings = self.slices.get(owner)?;
        let place = siblings.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        siblings.get(place).map(|(_, slice)| slice)
    }

    fn remove_slice(&mut self, key: &SliceKey, owner: &ServiceKey) {
        self.slice_owners.remove(key);
        let Some(siblings) = self.slices.get_mut(owner) else { return };
        *siblings = std::mem::take(siblings).into_iter().filter(|(other, _)| other != key).collect();
        if siblings.is_empty() {
            self.slices.remove(owner);
        }
    }

    /// Brings the mirrored slices of a Service in line with its Endpoints object. The control plane mirrors only for
    /// Services that exist and select no pods.
    fn mirror(&mut self, key: &ServiceKey) -> BTreeSet<FrontendKey> {
        let wanted = self.services.get(key).filter(|service| !service.has_selector);
        let wanted = wanted.and_then(|_| self.endpoints.get(key)).cloned().unwrap_or_default();
        let mut touched = BTreeSet::new();
        for (n, slice) in (0..).zip(wanted.iter()) {
            touched.extend(self.apply_slice(mirrored_key(key, n), Some(Arc::new(slice.clone()))));
        }
        for n in u32::try_from(wanted.len()).unwrap_or(u32::MAX).. {
            let surplus = mirrored_key(key, n);
            if !self.slice_owners.contains_key(&surplus) {
                break;
            }
            touched.extend(self.apply_slice(surplus, None));
        }
        touched
    }

    /// The frontends of the service ports that a slice has something to say about.
    fn frontends_fed_by(&self, slice: &SliceInfo, touched: &mut BTreeSet<FrontendKey>) {
        let Some(service) = self.services.get(&slice.service).filter(|service| service.is_served()) else {
            return;
        };
        let feeds = |port: &PortInfo| {
            slice.ports.iter().any(|fed| fed.name == port.name && fed.protocol == port.protocol)
        };
        let frontends = service.frontends().into_iter();
        touched.extend(
            frontends
                .filter(|(key, _, port)| key.address.family() == slice.family && feeds(port))
                .map(|(key, ..)| key),
        );
    }

    fn slices_of(&self, service: &ServiceKey, family: IpFamily) -> impl Iterator<Item = &SliceInfo> {
        let slices = self.slices.get(service).into_iter().flatten();
        slices.map(|(_, slice)| &**slice).filter(move |slice| slice.family == family)
    }

    /// The endpoints of a service port, each address once. Of two entries for one address the later one counts, unless
    /// it is terminating: a pod that took over the address of a dying one must not be taken for it.
    fn candidates(&self, key: &ServicePortKey, family: IpFamily) -> BTreeMap<SocketAddr, &Candidate> {
        let mut candidates = BTreeMap::new();
        for slice in self.slices_of(&key.service, family) {
            let fed = |name: &str, protocol| *name == *key.port_name && protocol == key.protocol;
            for port in slice.ports.iter().filter(|port| fed(&port.name, port.protocol)) {
                for candidate in &slice.candidates {
                    match candidates.entry(SocketAddr::new(candidate.ip, port.port)) {
                        Entry::Vacant(entry) => drop(entry.insert(candidate)),
                        Entry::Occupied(mut entry) if !candidate.is_terminating => {
                            entry.insert(candidate);
                        }
                        Entry::Occupied(_) => {}
                    }
                }
            }
        }
        candidates
    }

    /// What the endpoints of a service port may be used for from this node.
    pub fn endpoint_sets(&self, service: &ServiceInfo, port: &PortInfo, family: IpFamily) -> EndpointSets {
        let candidates = self.candidates(&service.port_key(port), family);
        let is_accessible = service.is_externally_accessible(port, family);
        let uses = Uses::of(service.internal_policy, service.external_policy, is_accessible);
        EndpointSets::new(&candidates, uses, self.node.place())
    }

    fn resolve(
        &self,
        key: FrontendKey,
        kind: FrontendKind,
        service: &ServiceInfo,
        port: &PortInfo,
    ) -> Frontend {
        let family = key.address.family();
        let sets = self.endpoint_sets(service, port, family);
        resolve::frontend(&resolve::Inputs {
            key,
            kind,
            service,
            port,
            sets,
            policy: &self.policy,
            node: &self.node,
        })
    }
}

fn mirrored_key(key: &ServiceKey, n: u32) -> SliceKey {
    SliceKey { namespace: key.namespace.clone(), name: key.name.clone(), source: SliceSource::Endpoints(n) }
}

#[cfg(test)]
mod tests;
