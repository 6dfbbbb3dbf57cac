//! The joined state: Services, their slices, the node and the ServiceCIDRs, and the frontends that follow from
//! them.
//!
//! One owner applies changes and gets the frontends that each one affects; a frontend is computed from the
//! current state on request. The index reads no clock and does no I/O, and the order in which objects arrive
//! has no effect.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arcstr::ArcStr;
use ipnetwork::IpNetwork;
use proxy_ebpf::abi::Unclaimed;

use crate::model::{
    address::IpFamily,
    backend::{Candidate, PodIdentity, SliceInfo, SliceKey, SliceSource, Slices},
    frontend::{Frontend, FrontendKey, FrontendKind},
    node::{LocalNode, NodeInfo},
    policy::Policy,
    service::{PortInfo, ServiceInfo, ServiceKey, ServicePortKey},
    small_list::SmallList,
    topology::{EndpointSets, RequiredSets},
};

mod claims;
mod departures;
mod excluded;
mod frontends;
mod health;
mod joined;
mod precedence;
mod reason;
mod resolve;
mod small_set;
mod unserved;
mod verdict;

use claims::Claims;
pub use departures::Departure;
pub use excluded::Exclusion;
use frontends::frontends;
use joined::Joined;
pub use precedence::Precedence;
pub use verdict::NotProgrammed;

/// One object was added or changed (`Some`), or deleted (`None`).
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Service(ServiceKey, Option<Arc<ServiceInfo>>),
    Slice(SliceKey, Option<Arc<SliceInfo>>),
    /// The slices mirrored from the Endpoints object of this name.
    Endpoints(ServiceKey, Option<Slices>),
    /// The Node object of this node.
    Node(Option<NodeInfo>),
    ServiceCidr(ArcStr, Option<Vec<IpNetwork>>),
}

pub struct Index {
    policy: Policy,
    node_info: Option<NodeInfo>,
    /// Policy and Node object combined; rebuilt when the Node object changes.
    node: LocalNode,
    /// All Services, including those not served: they still control the mirroring of Endpoints.
    joined: Joined,
    endpoints: HashMap<ServiceKey, Slices>,
    claims: Claims,
    service_cidrs: BTreeMap<ArcStr, Vec<IpNetwork>>,
    /// Endpoints that left a slice since they were last taken.
    departures: Vec<Departure>,
}

impl Index {
    pub fn new(policy: Policy) -> Self {
        Self {
            node: LocalNode::new(&policy, None),
            policy,
            node_info: None,
            joined: Joined::default(),
            endpoints: HashMap::new(),
            claims: Claims::default(),
            service_cidrs: BTreeMap::new(),
            departures: Vec::new(),
        }
    }

    /// Applies one change and returns the frontends that may differ now.
    pub fn apply(&mut self, change: Change) -> BTreeSet<FrontendKey> {
        match change {
            Change::Service(key, service) => self.apply_service(&key, service),
            Change::Slice(key, slice) => self.apply_slice(&key, slice),
            Change::Endpoints(key, slices) => self.apply_endpoints(key, slices),
            Change::Node(node) => self.apply_node(node),
            Change::ServiceCidr(name, networks) => self.apply_service_cidr(name, networks),
        }
    }

    /// Returns `None` if no Service claims the address and port.
    pub fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        let claim = self.claims.winner(key)?;
        let (service, port) = claim.claimant()?;
        Some(self.resolve(*key, claim.kind(), service, port))
    }

    /// The Service that owns a frontend.
    pub fn owner(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        Some(&self.claims.winner(key)?.claimant()?.0.key)
    }

    /// All frontends, in order of precedence; those of one Service are adjacent.
    pub fn frontends(&self) -> impl Iterator<Item = Frontend> {
        let mut services: Vec<_> = self
            .joined
            .services()
            .filter(|service| service.is_served())
            .map(|service| (self.precedence(service), service))
            .collect();
        services.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        services.into_iter().flat_map(|(_, service)| {
            let mut keys: Vec<FrontendKey> = frontends(service).into_iter().map(|(key, ..)| key).collect();
            // An address that a Service claims twice is one frontend.
            keys.sort_unstable();
            keys.dedup();
            keys.into_iter().filter_map(|key| self.frontend_of(service, &key))
        })
    }

    /// The precedence of the owner of a frontend; frontends without one come first.
    pub fn precedence_of(&self, key: &FrontendKey) -> Option<Precedence> {
        let (service, _) = self.claims.winner(key)?.claimant()?;
        Some(self.precedence(service))
    }

    fn precedence(&self, service: &ServiceInfo) -> Precedence {
        let endpoints = self.joined.slices_of(&service.key).map(|slice| slice.candidates.len()).sum();
        let name_server = self.policy.name_server.as_ref().map(|server| &server.service);
        Precedence::new(service, endpoints, name_server)
    }

    /// Returns `None` unless this Service owns the frontend.
    fn frontend_of(&self, service: &ServiceInfo, key: &FrontendKey) -> Option<Frontend> {
        let claim = self.claims.winner(key).filter(|claim| claim.is_of(service))?;
        let (service, port) = claim.claimant()?;
        Some(self.resolve(*key, claim.kind(), service, port))
    }

    pub fn frontend_keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.claims.keys()
    }

    pub fn node(&self) -> &LocalNode {
        &self.node
    }

    /// Adds the addresses of this node's interfaces that its Node object does not list. Those that it lists stay first.
    pub fn add_own_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            if !self.node.owns(address) {
                self.node.addresses.push(address);
            }
        }
    }

    pub fn node_info(&self) -> Option<&NodeInfo> {
        self.node_info.as_ref()
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceInfo> {
        self.joined.service(key).map(|service| &**service)
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceInfo> {
        self.joined.services()
    }

    /// The Services and slices, for commands.
    pub fn objects(&self) -> (Vec<Arc<ServiceInfo>>, Vec<Arc<SliceInfo>>) {
        self.joined.objects()
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Sets the addresses at which the node's name server can be reached now. Returns the frontends that lead there.
    pub fn set_name_server_addresses(&mut self, addresses: Vec<SocketAddr>) -> BTreeSet<FrontendKey> {
        let Some(server) = &mut self.policy.name_server else { return BTreeSet::new() };
        if server.listens.as_ref() == Some(&addresses) {
            return BTreeSet::new();
        }
        server.listens = Some(addresses);
        let service = server.service.clone();
        let service = self.joined.service(&service).filter(|service| service.is_served());
        service.into_iter().flat_map(|service| frontends(service)).map(|(key, ..)| key).collect()
    }

    /// The Service to which a slice contributes.
    pub fn slice_owner(&self, key: &SliceKey) -> Option<&ServiceKey> {
        self.joined.slice(key).map(|slice| &slice.service)
    }

    /// The endpoints that left a slice since the last call. They may be in another one.
    pub fn take_departures(&mut self) -> Vec<Departure> {
        std::mem::take(&mut self.departures)
    }

    /// The pods that have these addresses in any slice, in any state. Linear in the number of endpoints.
    pub fn pods_at(&self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Vec<PodIdentity>> {
        let mut pods: BTreeMap<IpAddr, Vec<PodIdentity>> = BTreeMap::new();
        let candidates = self.joined.slices().flat_map(|slice| &slice.candidates);
        for candidate in candidates.filter(|candidate| addresses.contains(&candidate.ip)) {
            pods.entry(candidate.ip).or_default().push(candidate.identity);
        }
        pods
    }

    /// The Service that has the address as its ClusterIP. Linear in the number of Services: for `explain` only.
    pub fn cluster_ip_owner(&self, address: IpAddr) -> Option<&ServiceKey> {
        let has = |service: &&ServiceInfo| service.served_cluster_ips().any(|own| own == address);
        self.joined.services().filter(has).map(|service| &service.key).min()
    }

    /// Whether the address is the ClusterIP of a Service that defines ports.
    pub fn has_cluster_ip(&self, address: IpAddr) -> bool {
        self.claims.has_cluster_ip(address)
    }

    /// The networks of Service addresses, with the treatment of packets to them that no frontend claims
    /// (kube-proxy's rules G7 and G8). An address may occur twice.
    pub fn unclaimed_networks(&self) -> impl Iterator<Item = (IpNetwork, Unclaimed)> {
        let cluster_ips = self.joined.services().flat_map(ServiceInfo::served_cluster_ips);
        let allocated = cluster_ips.map(|address| (address.into(), Unclaimed::UndefinedPort));
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
        let service = service.map(|service| self.with_policy(service));
        if self.joined.service(key) == service.as_ref() {
            return BTreeSet::new();
        }
        let mut touched = BTreeSet::new();
        if let Some(old) = self.joined.remove_service(key) {
            self.claims.remove(&old, &mut touched);
        }
        if let Some(new) = service {
            self.claims.add(&new, &mut touched);
            self.joined.insert_service(new);
        }
        // The Service determines whether Endpoints are mirrored; all of its frontends are among the touched
        // ones already.
        self.mirror(key);
        touched
    }

    /// The Service as this node's policy changes it: external IPs may be ignored, and the DNS Service may have
    /// additional addresses on this node.
    fn with_policy(&self, mut service: Arc<ServiceInfo>) -> Arc<ServiceInfo> {
        if !self.policy.external_ips && !service.external_ips.is_empty() {
            Arc::make_mut(&mut service).external_ips = SmallList::default();
        }
        if let Some(server) = self.policy.name_server.as_ref().filter(|server| server.service == service.key)
        {
            server.add_local_addresses(Arc::make_mut(&mut service));
        }
        service
    }

    fn apply_slice(&mut self, key: &SliceKey, slice: Option<Arc<SliceInfo>>) -> BTreeSet<FrontendKey> {
        let slice = slice.map(SliceInfo::with_sorted_ports);
        if self.joined.slice(key) == slice.as_ref() {
            return BTreeSet::new();
        }
        let mut touched = BTreeSet::new();
        if let Some(old) = self.joined.remove_slice(key) {
            self.departures.extend(departures::departures(&old, slice.as_deref()));
            self.frontends_of_slice(&old, &mut touched);
        }
        if let Some(new) = slice {
            self.frontends_of_slice(&new, &mut touched);
            self.joined.insert_slice(new);
        }
        touched
    }

    fn apply_endpoints(&mut self, key: ServiceKey, slices: Option<Slices>) -> BTreeSet<FrontendKey> {
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
        // Hints, locality, source ranges and masquerading depend on the node. It changes rarely: all frontends
        // are touched.
        self.node = node;
        self.claims.keys().copied().collect()
    }

    fn apply_service_cidr(
        &mut self,
        name: ArcStr,
        networks: Option<Vec<IpNetwork>>,
    ) -> BTreeSet<FrontendKey> {
        match networks {
            Some(networks) => self.service_cidrs.insert(name, networks),
            None => self.service_cidrs.remove(&name),
        };
        BTreeSet::new()
    }

    /// Updates the mirrored slices of a Service from its Endpoints object. As in the control plane, only
    /// Services without a selector are mirrored.
    fn mirror(&mut self, key: &ServiceKey) -> BTreeSet<FrontendKey> {
        let wanted = self.joined.service(key).filter(|service| !service.has_selector);
        let wanted = wanted.and_then(|_| self.endpoints.get(key)).cloned().unwrap_or_default();
        let mut touched = BTreeSet::new();
        for slice in wanted.iter() {
            touched.extend(self.apply_slice(&slice.key, Some(Arc::clone(slice))));
        }
        for n in u32::try_from(wanted.len()).unwrap_or(u32::MAX).. {
            let surplus = mirrored_key(key, n);
            if self.joined.slice(&surplus).is_none() {
                break;
            }
            touched.extend(self.apply_slice(&surplus, None));
        }
        touched
    }

    /// Adds the frontends of the service ports that a slice has endpoints for.
    fn frontends_of_slice(&self, slice: &SliceInfo, touched: &mut BTreeSet<FrontendKey>) {
        let Some(service) = self.joined.service(&slice.service).filter(|service| service.is_served()) else {
            return;
        };
        let has_port = |port: &PortInfo| !slice.ports_of(&port.name, port.protocol).is_empty();
        let has_port: Vec<bool> = service.ports.iter().map(has_port).collect();
        let is_fed = |port: u32| has_port.get(port as usize) == Some(&true);
        let frontends = frontends(service).into_iter();
        touched.extend(
            frontends
                .filter(|(key, _, port)| key.address.family() == slice.family && is_fed(*port))
                .map(|(key, ..)| key),
        );
    }

    fn slices_of(&self, service: &ServiceKey, family: IpFamily) -> impl Iterator<Item = &SliceInfo> {
        self.joined.slices_of(service).filter(move |slice| slice.family == family)
    }

    /// The endpoints of a service port, sorted by address. Of two entries for one address the later one
    /// applies, unless it is terminating (kube-proxy's rule C8): a new pod may have reused the address of a
    /// terminating one.
    fn candidates(&self, key: &ServicePortKey, family: IpFamily) -> Vec<(SocketAddr, &Candidate)> {
        let mut candidates = Vec::new();
        for slice in self.slices_of(&key.service, family) {
            for port in slice.ports_of(&key.port_name, key.protocol) {
                candidates
                    .extend(slice.candidates.iter().map(|one| (SocketAddr::new(one.ip, port.port), one)));
            }
        }
        // The sort is stable: later entries stay behind earlier ones.
        candidates.sort_by_key(|(address, _)| *address);
        candidates.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same && !later.1.is_terminating {
                earlier.1 = later.1;
            }
            is_same
        });
        candidates
    }

    /// The endpoints of a service port that this node may use.
    pub fn endpoint_sets(&self, service: &ServiceInfo, port: &PortInfo, family: IpFamily) -> EndpointSets {
        let candidates = self.candidates(&service.port_key(port), family);
        let is_accessible = service.is_externally_accessible(port, family);
        let required = RequiredSets::of(service.internal_policy, service.external_policy, is_accessible);
        EndpointSets::new(&candidates, required, self.node.location())
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
        let (policy, node) = (&self.policy, &self.node);
        resolve::frontend(&resolve::Inputs { key, kind, service, port, policy, node }, sets)
    }
}

fn mirrored_key(key: &ServiceKey, n: u32) -> SliceKey {
    SliceKey { namespace: key.namespace.clone(), name: key.name.clone(), source: SliceSource::Endpoints(n) }
}

#[cfg(test)]
mod tests;
