//! One Service joined with its endpoints, for the answers of all names below it.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::cluster::{
    name::Name,
    selection::{Selection, Window},
    zone::{Endpoints, External, Label, Port, Service, ServiceKey, ServiceKind, Slice, dashed, parse_dashed},
};

#[derive(Clone, Debug)]
pub struct View {
    pub key: ServiceKey,
    /// `None`: the slices arrived before their Service, which has no name until it arrives.
    pub service: Option<Arc<Service>>,
    pub slices: Box<[Arc<Slice>]>,
    /// The number of endpoints up to and including each slice, so that a position is found without visiting those
    /// before it.
    extents: Box<[Extent]>,
    /// The addresses of a family, sorted, while one occurs twice, as while endpoints move between slices.
    distinct_v4: Option<Box<[Ipv4Addr]>>,
    distinct_v6: Option<Box<[Ipv6Addr]>>,
    /// The topology zones, sorted by name.
    zones: Box<[TopologyZone]>,
}

/// An endpoint by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target<'s> {
    /// `None`: of this cluster.
    pub cluster: Option<&'s str>,
    pub label: Label<'s>,
}

#[derive(Clone, Debug)]
struct TopologyZone {
    name: Name,
    /// The addresses of its endpoints, sorted, without duplicates.
    addresses: Box<[IpAddr]>,
    /// Its endpoints: the index of the slice, and the address.
    endpoints: Box<[(usize, IpAddr)]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    v4: usize,
    v6: usize,
}

impl Extent {
    fn both(&self) -> usize {
        self.v4 + self.v6
    }
}

impl View {
    pub(super) fn new(key: ServiceKey, service: Option<Arc<Service>>, slices: Vec<Arc<Slice>>) -> Self {
        let extents = slices.iter().scan(Extent::default(), |sum, slice| {
            sum.v4 += slice.v4.len();
            sum.v6 += slice.v6.len();
            Some(*sum)
        });
        Self {
            key,
            service,
            extents: extents.collect(),
            distinct_v4: distinct_if_repeated(slices.iter().flat_map(|slice| slice.v4.addresses())),
            distinct_v6: distinct_if_repeated(slices.iter().flat_map(|slice| slice.v6.addresses())),
            zones: zones(&slices),
            slices: slices.into(),
        }
    }

    pub fn kind(&self) -> &ServiceKind {
        self.service.as_ref().map_or(&ServiceKind::Nothing, |service| &service.kind)
    }

    pub fn external(&self) -> Option<&External> {
        self.service.as_ref()?.external.as_deref()
    }

    /// The cluster IPs.
    pub fn own_addresses(&self) -> &[IpAddr] {
        match self.kind() {
            ServiceKind::ClusterIp { addresses, .. } => addresses,
            ServiceKind::Headless | ServiceKind::ExternalName(_) | ServiceKind::Nothing => &[],
        }
    }

    /// Whether endpoints have names below the name of the Service.
    pub fn names_endpoints(&self) -> bool {
        matches!(self.kind(), ServiceKind::ClusterIp { .. } | ServiceKind::Headless)
    }

    pub fn has_endpoints(&self) -> bool {
        self.slices.iter().any(|slice| !slice.v4.is_empty() || !slice.v6.is_empty())
    }

    /// The selected IPv4 addresses of the endpoints, without duplicates.
    pub fn v4(&self, selection: Selection) -> Vec<Ipv4Addr> {
        let window = selection.of_a();
        match &self.distinct_v4 {
            Some(distinct) => window.select(distinct).copied().collect(),
            None => self.each(|slice| &slice.v4, |extent| extent.v4, window),
        }
    }

    /// The selected IPv6 addresses of the endpoints, without duplicates.
    pub fn v6(&self, selection: Selection) -> Vec<Ipv6Addr> {
        let window = selection.of_aaaa();
        match &self.distinct_v6 {
            Some(distinct) => window.select(distinct).copied().collect(),
            None => self.each(|slice| &slice.v6, |extent| extent.v6, window),
        }
    }

    fn each<A: Copy + Ord>(
        &self,
        family: impl Fn(&Slice) -> &Endpoints<A>,
        extent: impl Fn(&Extent) -> usize,
        window: Window,
    ) -> Vec<A> {
        let count = self.extents.last().map_or(0, &extent);
        let (first, offset) = self.locate(window.start(count), extent);
        let from = self.rotated(first).flat_map(|slice| family(slice).addresses()).skip(offset);
        let before = self.slices.get(first).into_iter().flat_map(|slice| family(slice).addresses());
        let mut selected = Vec::with_capacity(count.min(window.records));
        selected.extend(from.chain(before.take(offset)).take(window.records));
        selected
    }

    /// The slice of the endpoint at a position, and the number of endpoints of this slice before it.
    fn locate(&self, position: usize, extent: impl Fn(&Extent) -> usize) -> (usize, usize) {
        let slice = self.extents.partition_point(|sum| extent(sum) <= position);
        let before = slice.checked_sub(1).and_then(|before| self.extents.get(before)).map_or(0, extent);
        (slice, position.saturating_sub(before))
    }

    /// All slices, in rotation from the given one on.
    fn rotated(&self, first: usize) -> impl Iterator<Item = &Arc<Slice>> {
        let (before, from) = self.slices.split_at(first.min(self.slices.len()));
        from.iter().chain(before)
    }

    /// The addresses of the endpoints with this label, without duplicates.
    pub fn endpoint(&self, label: &[u8]) -> Vec<IpAddr> {
        endpoints_in(self.slices.iter(), label)
    }

    /// Whether the endpoints are those of clusters, each with its own.
    pub fn is_imported(&self) -> bool {
        self.slices.iter().any(|slice| slice.cluster.is_some())
    }

    /// Whether a cluster has endpoints.
    pub fn has_cluster(&self, cluster: &[u8]) -> bool {
        let of_cluster = self.slices.iter().filter(|slice| slice.is_of(cluster));
        of_cluster.clone().any(|slice| !slice.v4.is_empty() || !slice.v6.is_empty())
    }

    /// The addresses of the endpoints with this label in a cluster, without duplicates.
    pub fn endpoint_in(&self, cluster: &[u8], label: &[u8]) -> Vec<IpAddr> {
        endpoints_in(self.slices.iter().filter(|slice| slice.is_of(cluster)), label)
    }

    /// The selected SRV targets of the ports that `is_it` selects, with their clusters, sorted, without duplicates; and
    /// whether there are more.
    pub fn imported_ports(
        &self,
        is_it: impl Fn(&Port) -> bool,
        selection: Selection,
    ) -> (Vec<(&str, Label<'_>, u16)>, bool) {
        // The labels of dual-stack endpoints occur in slices of both families.
        let window = selection.of_srv().times(2);
        let (first, _) = self.locate(window.start(self.extents.last().map_or(0, Extent::both)), Extent::both);
        let mut found = Vec::new();
        for slice in self.rotated(first) {
            let Some(cluster) = slice.cluster.as_deref() else { continue };
            let ports = || slice.ports.iter().filter(|port| is_it(port)).map(|port| port.number);
            let targets =
                Self::labels(slice).flat_map(|label| ports().map(move |port| (cluster, label, port)));
            found.extend(targets.take(window.records + 1 - found.len()));
            if found.len() > window.records {
                break;
            }
        }
        limited(found, window.records)
    }

    /// The addresses of the endpoints in a topology zone, sorted (IPv4 first), without duplicates. `zone`: the labels in
    /// wire format, without a final zero.
    pub fn in_zone(&self, zone: &[u8]) -> &[IpAddr] {
        self.topology_zone(zone).map_or(&[], |zone| &zone.addresses)
    }

    fn topology_zone(&self, zone: &[u8]) -> Option<&TopologyZone> {
        let labels = |name: &Name| name.octets().len() - 1;
        let found =
            self.zones.binary_search_by(|known| known.name.octets()[..labels(&known.name)].cmp(zone)).ok()?;
        self.zones.get(found)
    }

    /// The selected SRV targets in a topology zone, label and port, without duplicates; and whether there are more.
    pub fn zone_ports(&self, zone: &[u8], selection: Selection) -> (Vec<(Label<'_>, u16)>, bool) {
        let window = selection.of_srv();
        let endpoints = self.topology_zone(zone).map_or(&[][..], |zone| &zone.endpoints);
        let mut found = Vec::new();
        for (index, address) in window.select(endpoints) {
            let Some(slice) = self.slices.get(*index) else { continue };
            for label in labels_in(slice, *address) {
                found.extend(slice.ports.iter().map(|port| (label, port.number)));
            }
            if found.len() > window.records {
                break;
            }
        }
        limited(found, window.records)
    }

    /// The IPv4 addresses of the endpoints, without duplicates.
    pub fn each_v4(&self) -> impl Iterator<Item = Ipv4Addr> + Send {
        let repeated = self.distinct_v4.as_deref();
        let slices = if repeated.is_none() { &*self.slices } else { &[] };
        let once = slices.iter().flat_map(|slice| slice.v4.addresses());
        repeated.unwrap_or_default().iter().copied().chain(once)
    }

    /// The IPv6 addresses of the endpoints, without duplicates.
    pub fn each_v6(&self) -> impl Iterator<Item = Ipv6Addr> + Send {
        let repeated = self.distinct_v6.as_deref();
        let slices = if repeated.is_none() { &*self.slices } else { &[] };
        let once = slices.iter().flat_map(|slice| slice.v6.addresses());
        repeated.unwrap_or_default().iter().copied().chain(once)
    }

    /// The endpoints with their addresses, without duplicates.
    pub fn each_endpoint(&self) -> impl Iterator<Item = (Target<'_>, IpAddr)> + Send {
        let has_repeated = self.distinct_v4.is_some() || self.distinct_v6.is_some();
        let mut seen = HashSet::new();
        let all = self.slices.iter().flat_map(|slice| {
            let cluster = slice.cluster.as_deref();
            labelled_addresses(slice).map(move |(label, address)| (Target { cluster, label }, address))
        });
        // Addresses that occur once need no memory.
        all.filter(move |endpoint| !has_repeated || seen.insert(*endpoint))
    }

    /// The SRV targets of the ports that `is_it` selects, without duplicates.
    pub fn each_target(
        &self,
        is_it: impl Fn(&Port) -> bool + Copy + Send,
    ) -> impl Iterator<Item = (Target<'_>, u16)> + Send {
        let is_imported = self.is_imported();
        let has_repeated = self.distinct_v4.is_some() || self.distinct_v6.is_some();
        let slices = self.slices.iter().filter(move |slice| !is_imported || slice.cluster.is_some());
        let all = slices.flat_map(move |slice| {
            let ports: Vec<u16> = numbers(slice.ports.iter().filter(|port| is_it(port)));
            Self::labels(slice).flat_map(move |label| {
                let target = Target { cluster: slice.cluster.as_deref(), label };
                ports.clone().into_iter().map(move |port| (target, port))
            })
        });
        let mut seen = HashSet::new();
        // A label that is an address occurs as often as the address; names may be those of several endpoints.
        let is_once = move |target: &Target<'_>| !has_repeated && matches!(target.label, Label::Dashed(_));
        all.filter(move |found| is_once(&found.0) || seen.insert(*found))
    }

    /// The SRV targets in a topology zone, without duplicates.
    pub fn each_target_in(&self, zone: &[u8]) -> impl Iterator<Item = (Target<'_>, u16)> + Send {
        let endpoints = self.topology_zone(zone).map_or(&[][..], |zone| &zone.endpoints);
        let all = endpoints.iter().filter_map(|(index, address)| Some((self.slices.get(*index)?, *address)));
        let all = all.flat_map(|(slice, address)| {
            let ports = numbers(slice.ports.iter());
            labels_in(slice, address).flat_map(move |label| {
                ports.clone().into_iter().map(move |port| (Target { cluster: None, label }, port))
            })
        });
        let mut seen = HashSet::new();
        all.filter(move |found| seen.insert(*found))
    }

    /// The topology zones with endpoints.
    pub fn topology_zones(&self) -> impl Iterator<Item = &Name> + Send {
        self.zones.iter().map(|zone| &zone.name)
    }

    /// The labels of the endpoints of a slice.
    pub fn labels(slice: &Slice) -> impl Iterator<Item = Label<'_>> {
        let v4 = slice.v4.named.iter().map(|(name, _)| &**name);
        let v6 = slice.v6.named.iter().map(|(name, _)| &**name);
        let unnamed_v4 = slice.v4.unnamed.iter().map(|address| Label::Dashed((*address).into()));
        let unnamed_v6 = slice.v6.unnamed.iter().map(|address| Label::Dashed((*address).into()));
        v4.chain(v6).map(Label::Named).chain(unnamed_v4).chain(unnamed_v6)
    }

    /// The labels of the endpoints with this address, without duplicates.
    pub fn labels_of(&self, address: IpAddr) -> Vec<Label<'_>> {
        let mut labels = Vec::new();
        for slice in &self.slices {
            labels.extend(labels_in(slice, address));
        }
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// The selected SRV targets of the ports that `is_it` selects, label and port, without duplicates; and whether
    /// there are more.
    pub fn endpoint_ports(
        &self,
        is_it: impl Fn(&Port) -> bool,
        selection: Selection,
    ) -> (Vec<(Label<'_>, u16)>, bool) {
        // The labels of dual-stack endpoints occur in slices of both families.
        let window = selection.of_srv().times(2);
        let start = window.start(self.extents.last().map_or(0, Extent::both));
        let (first, offset) = self.locate(start, Extent::both);
        let (mut found, mut lists) = (Vec::new(), 0);
        // Last, the endpoints of the first slice that were skipped.
        let before = self.slices.get(first).filter(|_| offset > 0).map(|slice| (slice, 0, offset));
        let skipped = std::iter::once(offset).chain(std::iter::repeat(0));
        let from = self.rotated(first).zip(skipped).map(|(slice, skipped)| (slice, skipped, usize::MAX));
        for (slice, skipped, end) in from.chain(before) {
            let ports = || slice.ports.iter().filter(|port| is_it(port)).map(|port| port.number);
            let count = ports().count();
            if count == 0 {
                continue;
            }
            lists += if slice.v4.is_empty() || slice.v6.is_empty() { count } else { 2 * count };
            let labels = Self::labels(slice).take(end).skip(skipped);
            let targets = labels.flat_map(|label| ports().map(move |port| (label, port)));
            found.extend(targets.take(window.records + 1 - found.len()));
            if found.len() > window.records {
                break;
            }
        }
        let is_cut = found.len() > window.records;
        found.truncate(window.records);
        // Within one slice, family and port, equal labels are adjacent; across several they are not.
        if lists > 1 {
            found.sort_unstable();
        }
        found.dedup();
        (found, is_cut)
    }

    pub fn holds(&self, address: IpAddr) -> bool {
        self.own_addresses().contains(&address)
            || self.slices.iter().any(|slice| match address {
                IpAddr::V4(ip) => slice.v4.has_unnamed(ip) || names_of(&slice.v4, ip).next().is_some(),
                IpAddr::V6(ip) => slice.v6.has_unnamed(ip) || names_of(&slice.v6, ip).next().is_some(),
            })
    }

    /// The addresses of the Service and its endpoints, sorted, without duplicates.
    pub(super) fn all_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = self.own_addresses().to_vec();
        for slice in &self.slices {
            addresses.extend(slice.v4.addresses().map(IpAddr::from));
            addresses.extend(slice.v6.addresses().map(IpAddr::from));
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}

/// The label and the address of each endpoint of a slice.
fn labelled_addresses(slice: &Slice) -> impl Iterator<Item = (Label<'_>, IpAddr)> {
    let v4 = slice.v4.named.iter().map(|(name, address)| (Label::Named(name), IpAddr::from(*address)));
    let v6 = slice.v6.named.iter().map(|(name, address)| (Label::Named(name), IpAddr::from(*address)));
    let dashed_v4 = slice.v4.unnamed.iter().map(|address| IpAddr::from(*address));
    let dashed_v6 = slice.v6.unnamed.iter().map(|address| IpAddr::from(*address));
    let dashed = dashed_v4.chain(dashed_v6).map(|address| (Label::Dashed(address), address));
    v4.chain(v6).chain(dashed)
}

/// The numbers of ports, without duplicates: several protocols may have the same.
fn numbers<'p>(ports: impl Iterator<Item = &'p Port>) -> Vec<u16> {
    let mut numbers: Vec<u16> = ports.map(|port| port.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The labels of the endpoints of a slice with this address.
fn labels_in(slice: &Slice, address: IpAddr) -> impl Iterator<Item = Label<'_>> {
    let (v4, v6) = match address {
        IpAddr::V4(address) => (Some(names_of(&slice.v4, address)), None),
        IpAddr::V6(address) => (None, Some(names_of(&slice.v6, address))),
    };
    let unnamed = has_unnamed(slice, address).then_some(Label::Dashed(address));
    v4.into_iter().flatten().chain(v6.into_iter().flatten()).chain(unnamed)
}

/// The addresses of the endpoints with this label in some slices, without duplicates.
fn endpoints_in<'s>(slices: impl Iterator<Item = &'s Arc<Slice>> + Clone, label: &[u8]) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for slice in slices.clone() {
        addresses.extend(slice.v4.named(label).map(IpAddr::from));
        addresses.extend(slice.v6.named(label).map(IpAddr::from));
    }
    // Only in canonical spelling: an endpoint has one name.
    let spelt = parse_dashed(label).filter(|address| dashed(*address).as_bytes() == label);
    addresses.extend(spelt.filter(|address| slices.clone().any(|slice| has_unnamed(slice, *address))));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn has_unnamed(slice: &Slice, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => slice.v4.has_unnamed(address),
        IpAddr::V6(address) => slice.v6.has_unnamed(address),
    }
}

fn names_of<A: Copy + Ord>(endpoints: &Endpoints<A>, address: A) -> impl Iterator<Item = Label<'_>> {
    let named = endpoints.named.iter().filter(move |(_, present)| *present == address);
    named.map(|(name, _)| Label::Named(name))
}

/// The addresses, sorted, if one occurs twice.
fn distinct_if_repeated<A: Ord>(addresses: impl Iterator<Item = A>) -> Option<Box<[A]>> {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    let count = addresses.len();
    addresses.dedup();
    (addresses.len() < count).then(|| addresses.into())
}

fn zones(slices: &[Arc<Slice>]) -> Box<[TopologyZone]> {
    let mut zones = BTreeMap::<&Name, Vec<(usize, IpAddr)>>::new();
    for (index, slice) in slices.iter().enumerate() {
        for (zone, address) in &slice.zones {
            zones.entry(zone).or_default().push((index, *address));
        }
    }
    let zone = |(name, endpoints): (&Name, Vec<(usize, IpAddr)>)| {
        let mut addresses: Vec<_> = endpoints.iter().map(|(_, address)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        TopologyZone { name: name.clone(), addresses: addresses.into(), endpoints: endpoints.into() }
    };
    zones.into_iter().map(zone).collect()
}

/// At most so many, sorted and without duplicates; and whether there were more.
fn limited<T: Ord>(mut found: Vec<T>, most: usize) -> (Vec<T>, bool) {
    let is_cut = found.len() > most;
    found.truncate(most);
    found.sort_unstable();
    found.dedup();
    (found, is_cut)
}
