//! The state of the cluster: an immutable snapshot for answers, and the index that produces the next one.
//!
//! A [`Snapshot`] never changes, so A and AAAA of a name, and a Service and its endpoints, always agree. The
//! [`Index`] has one owner, which applies changes and publishes a snapshot when the data plane has caught up.
//! The two share all unchanged data: a change costs its own names and a few hundred bytes.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use arcstr::ArcStr;

use crate::cluster::zone::{Change, ObjectName, Pod, ReadOptions, Service, ServiceKey, Slice};

mod record;
mod sorted;
mod view;

pub use record::{ZoneData, ZoneRecord, reverse_name};
use sorted::SortedMultimap;
pub use view::{Target, View};

/// All names of the cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By the hash of the name.
    services: SortedMultimap<u64, Arc<View>>,
    namespaces: SortedMultimap<u64, ArcStr>,
    /// By address: the upper half of the hash of the Service, for [`Snapshot::services_with`].
    v4: SortedMultimap<(Ipv4Addr, u32), ()>,
    v6: SortedMultimap<(Ipv6Addr, u32), ()>,
    /// Addresses of pods, with the hash of their namespace.
    pods: SortedMultimap<(IpAddr, u64), ()>,
    /// External addresses of Services, with the hash of the Service.
    external: SortedMultimap<(IpAddr, u64), ()>,
    /// The Services of several clusters.
    pub imports: Option<Arc<Snapshot>>,
    /// The SOA serial, changed with every snapshot.
    pub serial: u32,
    /// Whether every kind of object was listed once. Before that, a name that is missing here may exist.
    pub is_synced: bool,
    hashes: RandomState,
}

impl Snapshot {
    pub fn service(&self, namespace: &[u8], name: &[u8]) -> Option<&View> {
        self.entry(namespace, name).filter(|view| view.service.is_some()).map(|view| &**view)
    }

    /// Includes entries with slices but no Service.
    fn entry(&self, namespace: &[u8], name: &[u8]) -> Option<&Arc<View>> {
        let mut found = self.services.get(self.hash(&[name, b".", namespace]));
        found.find(|view| view.key.is(namespace, name))
    }

    pub fn has_namespace(&self, name: &[u8]) -> bool {
        self.namespaces.get(self.hash(&[name])).any(|present| present.as_bytes() == name)
    }

    pub fn has_pod(&self, namespace: &[u8], address: IpAddr) -> bool {
        self.pods.get((address, self.hash(&[namespace]))).next().is_some()
    }

    /// The pods with their namespaces, if pods are kept.
    pub fn pods(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let all =
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)..=(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)), u64::MAX);
        self.pods.range(all).filter_map(|((address, namespace), ())| {
            Some((self.namespaces.get(*namespace).next()?.as_str(), *address))
        })
    }

    /// The namespace of a pod with this address, if pods are kept.
    pub fn namespace_of_pod(&self, address: IpAddr) -> Option<&str> {
        let ((_, namespace), ()) = self.pods.range((address, 0)..=(address, u64::MAX)).next()?;
        self.namespaces.get(*namespace).next().map(|name| name.as_str())
    }

    /// The Services with this address, as a cluster IP or of an endpoint.
    pub fn services_with(&self, address: IpAddr) -> impl Iterator<Item = &View> {
        let all = 0..=u32::MAX;
        let (v4, v6) = match address {
            IpAddr::V4(ip) => (Some(self.v4.range((ip, *all.start())..=(ip, *all.end()))), None),
            IpAddr::V6(ip) => (None, Some(self.v6.range((ip, *all.start())..=(ip, *all.end())))),
        };
        let v4 = v4.into_iter().flatten().map(|((_, short), ())| *short);
        let v6 = v6.into_iter().flatten().map(|((_, short), ())| *short);
        let views = v4.chain(v6).flat_map(|short| {
            let from = u64::from(short) << 32;
            self.services.range(from..=from | u64::from(u32::MAX))
        });
        views.map(|(_, view)| &**view).filter(move |view| view.service.is_some() && view.holds(address))
    }

    /// The Services with this external address, if external addresses are kept.
    pub fn services_with_external(&self, address: IpAddr) -> impl Iterator<Item = &View> {
        let hashes = self.external.range((address, 0)..=(address, u64::MAX)).map(|((_, hash), ())| *hash);
        let views = hashes.flat_map(|hash| self.services.get(hash)).map(|view| &**view);
        let has_it =
            move |view: &&View| view.external().is_some_and(|external| external.addresses.contains(&address));
        views.filter(has_it)
    }

    /// Whether a Service or endpoint has an address from `first` to `last`, two addresses of one family.
    pub fn has_address_in(&self, first: IpAddr, last: IpAddr) -> bool {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                self.v4.range((first, 0)..=(last, u32::MAX)).next().is_some()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                self.v6.range((first, 0)..=(last, u32::MAX)).next().is_some()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// The addresses of Services and endpoints from `first` to `last`, in order, each as often as it occurs.
    pub fn addresses_in(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (Some((first, 0)..=(last, u32::MAX)), None),
            (IpAddr::V6(first), IpAddr::V6(last)) => (None, Some((first, 0)..=(last, u32::MAX))),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => (None, None),
        };
        let v4 = v4.into_iter().flat_map(|range| self.v4.range(range)).map(|((ip, _), ())| IpAddr::V4(*ip));
        let v6 = v6.into_iter().flat_map(|range| self.v6.range(range)).map(|((ip, _), ())| IpAddr::V6(*ip));
        v4.chain(v6)
    }

    /// Whether a pod of this node has this address, as far as it is a ready endpoint.
    pub fn is_local_pod(&self, address: IpAddr) -> bool {
        let slices = self.services_with(address).flat_map(|view| &view.slices);
        let mut pods = slices.filter_map(|slice| slice.local_pods.as_deref()).flat_map(|local| &local.0);
        pods.any(|(local, _)| *local == address)
    }

    /// All Services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &View> {
        self.services.values().filter(|view| view.service.is_some()).map(|view| &**view)
    }

    /// The pods of this node by address, as far as they are endpoints. An address that two pods appear to have,
    /// as while it is reused, is left out.
    pub fn local_pods(&self) -> HashMap<IpAddr, &ObjectName> {
        let slices = self.services().flat_map(|view| &view.slices);
        let mut pods: HashMap<IpAddr, Option<&ObjectName>> = HashMap::new();
        for (address, pod) in
            slices.filter_map(|slice| slice.local_pods.as_deref()).flat_map(|local| &local.0)
        {
            let known = pods.entry(*address).or_insert(Some(pod));
            *known = known.filter(|known| *known == pod);
        }
        pods.into_iter().filter_map(|(address, pod)| Some((address, pod?))).collect()
    }

    /// All records of the cluster domain and the reverse zones, Service by Service.
    pub fn records(&self) -> impl Iterator<Item = ZoneRecord> {
        self.services().flat_map(record::records)
    }

    /// Keyed: names are chosen by the users who may create objects, and could be made to collide.
    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        parts.iter().for_each(|part| hasher.write(part));
        hasher.finish()
    }

    fn hash_of(&self, key: &ServiceKey) -> u64 {
        self.hash(&[key.name().as_bytes(), b".", key.namespace().as_bytes()])
    }
}

/// The current snapshot. Reads are lock-free.
#[derive(Debug, Default)]
pub struct Published(ArcSwap<Snapshot>);

impl Published {
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}

/// The upper half of a Service's hash.
fn short(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
}

/// The joined state, with the data to apply changes.
#[derive(Debug, Default)]
pub struct Index {
    /// The next snapshot.
    next: Snapshot,
    /// By name, to find the previous version of a changed slice.
    slices: HashSet<ByName>,
    /// The mirrored slices of Endpoints objects.
    endpoints: HashMap<ServiceKey, Arc<[Arc<Slice>]>>,
    namespaces: HashMap<ArcStr, Presence>,
    pods: HashMap<ObjectName, Arc<Pod>>,
    /// The Services of several clusters.
    imports: Option<Box<Index>>,
    /// With a namespace selector, only Namespace objects say which namespaces exist.
    selects_namespaces: bool,
}

/// A namespace exists if its Namespace object does, or a Service in it.
#[derive(Debug, Default)]
struct Presence {
    is_declared: bool,
    services: usize,
}

impl Index {
    /// An empty index for objects that are read with these options.
    pub fn new(options: &ReadOptions) -> Self {
        Self { selects_namespaces: options.namespace_labels.is_some(), ..Self::default() }
    }

    /// A snapshot of the present state.
    pub fn snapshot(&self, serial: u32) -> Snapshot {
        let imports = self.imports.as_ref().map(|imports| Arc::new(imports.snapshot(serial)));
        Snapshot { serial, is_synced: true, imports, ..self.next.clone() }
    }

    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Service(key, service) => self.apply_service(key, service),
            Change::Import(key, service) => self.imports().apply_service(key, service),
            Change::Slice(name, slice) => {
                let (own, imported) = match slice {
                    Some(slice) if slice.cluster.is_some() => (None, Some(slice)),
                    Some(slice) => (Some(Arc::clone(&slice)), slice.imported.clone()),
                    None => (None, None),
                };
                if imported.is_some() || self.imports.is_some() {
                    self.imports().apply_slice(&name, imported);
                }
                self.apply_slice(&name, own);
            }
            Change::Endpoints(key, slices) => self.apply_endpoints(key, slices),
            Change::Namespace(name, exists) => {
                let name: ArcStr = name.to_ascii_lowercase().into();
                self.change_presence(name, |presence| presence.is_declared = exists);
            }
            Change::Pod(name, pod) => self.apply_pod(name, pod),
        }
    }

    fn imports(&mut self) -> &mut Self {
        self.imports.get_or_insert_default()
    }

    fn apply_service(&mut self, key: ServiceKey, service: Option<Arc<Service>>) {
        let namespace: ArcStr = key.namespace().into();
        let was = self.view(&key).is_some_and(|view| view.service.is_some());
        let is = service.is_some();
        let view = self.take(&key);
        let stored = self.endpoints.get(&key).cloned().unwrap_or_default();
        let mut slices = without(&view.slices, &stored);
        slices.extend(self.mirrored(&key, service.as_deref()).iter().cloned());
        self.put(View::new(key, service, slices), &view);
        if !self.selects_namespaces {
            self.change_presence(namespace, |presence| {
                presence.services = presence.services + usize::from(is) - usize::from(was);
            });
        }
    }

    fn apply_slice(&mut self, name: &ObjectName, slice: Option<Arc<Slice>>) {
        let before = self.slices.take(name).map(|ByName(slice)| slice);
        if let Some(before) = &before {
            self.change_slices(&before.service, |slices| without(slices, std::slice::from_ref(before)));
        }
        if let Some(slice) = slice {
            self.slices.insert(ByName(slice.clone()));
            self.change_slices(&slice.service.clone(), |slices| [slices, &[slice]].concat());
        }
    }

    fn apply_endpoints(&mut self, key: ServiceKey, mirrored: Option<Arc<[Arc<Slice>]>>) {
        let before = match mirrored {
            Some(mirrored) => self.endpoints.insert(key.clone(), mirrored),
            None => self.endpoints.remove(&key),
        };
        let before = before.unwrap_or_default();
        let service = self.view(&key).and_then(|view| view.service.clone());
        let after = self.mirrored(&key, service.as_deref());
        self.change_slices(&key, |slices| [without(slices, &before).as_slice(), &after].concat());
    }

    /// The slices mirrored for a Service. The control plane mirrors Endpoints only for Services without a
    /// selector.
    fn mirrored(&self, key: &ServiceKey, service: Option<&Service>) -> Arc<[Arc<Slice>]> {
        let is_mirrored = service.is_some_and(|service| !service.has_selector);
        self.endpoints.get(key).filter(|_| is_mirrored).cloned().unwrap_or_default()
    }

    fn apply_pod(&mut self, name: ObjectName, pod: Option<Arc<Pod>>) {
        let after = pod.clone();
        let before = match pod {
            Some(pod) => self.pods.insert(name, pod),
            None => self.pods.remove(&name),
        };
        // Insert first, so that a changed pod is never missing.
        for (address, hash) in self.pod_entries(after.as_deref()) {
            self.next.pods.insert((address, hash), ());
        }
        for (address, hash) in self.pod_entries(before.as_deref()) {
            self.next.pods.remove((address, hash), |()| true);
        }
    }

    fn pod_entries(&self, pod: Option<&Pod>) -> Vec<(IpAddr, u64)> {
        let hash = pod.map_or(0, |pod| self.next.hash(&[pod.namespace.as_bytes()]));
        pod.into_iter().flat_map(|pod| &pod.addresses).map(|address| (*address, hash)).collect()
    }

    fn change_presence(&mut self, name: ArcStr, change: impl FnOnce(&mut Presence)) {
        let hash = self.next.hash(&[name.as_bytes()]);
        let presence = self.namespaces.entry(name.clone()).or_default();
        let was = presence.exists();
        change(presence);
        match (was, presence.exists()) {
            (false, true) => self.next.namespaces.insert(hash, name),
            (true, false) => {
                self.next.namespaces.remove(hash, |present| *present == name);
                self.namespaces.remove(&name);
            }
            (false, false) => drop(self.namespaces.remove(&name)),
            (true, true) => {}
        }
    }

    fn change_slices(&mut self, key: &ServiceKey, change: impl FnOnce(&[Arc<Slice>]) -> Vec<Arc<Slice>>) {
        let before = self.take(key);
        let slices = change(&before.slices);
        let after = View::new(before.key.clone(), before.service.clone(), slices);
        self.put(after, &before);
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.view(key)?.service.as_deref()
    }

    fn view(&self, key: &ServiceKey) -> Option<&Arc<View>> {
        self.next.entry(key.namespace().as_bytes(), key.name().as_bytes())
    }

    /// Removes and returns the view of a Service, or an empty one.
    fn take(&mut self, key: &ServiceKey) -> Arc<View> {
        let hash = self.next.hash_of(key);
        let found = self.next.services.remove(hash, |view| view.key == *key);
        found.unwrap_or_else(|| Arc::new(View::new(key.clone(), None, Vec::new())))
    }

    /// Inserts a view in place of `before`, and updates the index by address.
    fn put(&mut self, after: View, before: &View) {
        let hash = self.next.hash_of(&after.key);
        let (old, new) = (before.all_addresses(), after.all_addresses());
        for address in old.iter().filter(|address| new.binary_search(address).is_err()) {
            self.remove_address(*address, short(hash));
        }
        for address in new.iter().filter(|address| old.binary_search(address).is_err()) {
            self.insert_address(*address, short(hash));
        }
        self.put_external(&after, before, hash);
        if after.service.is_some() || !after.slices.is_empty() {
            self.next.services.insert(hash, Arc::new(after));
        }
    }

    fn put_external(&mut self, after: &View, before: &View, hash: u64) {
        let addresses =
            |view: &View| view.external().map(|external| external.addresses.clone()).unwrap_or_default();
        let (old, new) = (addresses(before), addresses(after));
        for address in old.iter().filter(|address| !new.contains(address)) {
            self.next.external.remove((*address, hash), |()| true);
        }
        for address in new.iter().filter(|address| !old.contains(address)) {
            self.next.external.insert((*address, hash), ());
        }
    }

    fn insert_address(&mut self, address: IpAddr, short: u32) {
        match address {
            IpAddr::V4(address) => self.next.v4.insert((address, short), ()),
            IpAddr::V6(address) => self.next.v6.insert((address, short), ()),
        }
    }

    fn remove_address(&mut self, address: IpAddr, short: u32) {
        match address {
            IpAddr::V4(address) => self.next.v4.remove((address, short), |()| true),
            IpAddr::V6(address) => self.next.v6.remove((address, short), |()| true),
        };
    }
}

/// Removes slices by identity: a mirrored slice may have the name of another one.
fn without(slices: &[Arc<Slice>], gone: &[Arc<Slice>]) -> Vec<Arc<Slice>> {
    let is_gone = |slice: &&Arc<Slice>| gone.iter().any(|gone| Arc::ptr_eq(gone, slice));
    slices.iter().filter(|slice| !is_gone(slice)).cloned().collect()
}

impl Presence {
    fn exists(&self) -> bool {
        self.is_declared || self.services > 0
    }
}

/// A slice, hashed by its name.
#[derive(Debug)]
struct ByName(Arc<Slice>);

impl std::borrow::Borrow<ObjectName> for ByName {
    fn borrow(&self) -> &ObjectName {
        &self.0.id
    }
}

impl std::hash::Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ByName {}

#[cfg(test)]
mod tests;
