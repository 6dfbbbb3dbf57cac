//! One Service joined with its endpoints, for the answers of all names below it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::cluster::zone::{
    Endpoints, Label, Port, Service, ServiceKey, ServiceKind, Slice, dashed, parse_dashed,
};

#[derive(Clone, Debug)]
pub struct View {
    pub key: ServiceKey,
    /// `None`: the slices arrived before their Service, which has no name until it arrives.
    pub service: Option<Arc<Service>>,
    pub slices: Box<[Arc<Slice>]>,
    /// Whether an address occurs twice, as while endpoints move between slices.
    repeats: bool,
}

impl View {
    pub(super) fn new(key: ServiceKey, service: Option<Arc<Service>>, slices: Vec<Arc<Slice>>) -> Self {
        let mut view = Self { key, service, slices: slices.into(), repeats: false };
        view.repeats = view.repeats();
        view
    }

    fn repeats(&self) -> bool {
        let mut v4: Vec<_> = self.slices.iter().flat_map(|slice| slice.v4.addresses()).collect();
        let mut v6: Vec<_> = self.slices.iter().flat_map(|slice| slice.v6.addresses()).collect();
        v4.sort_unstable();
        v6.sort_unstable();
        v4.windows(2).any(|pair| pair[0] == pair[1]) || v6.windows(2).any(|pair| pair[0] == pair[1])
    }

    pub fn kind(&self) -> &ServiceKind {
        self.service.as_ref().map_or(&ServiceKind::Nothing, |service| &service.kind)
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

    /// The IPv4 addresses of the endpoints, without duplicates.
    pub fn v4(&self) -> Vec<Ipv4Addr> {
        self.each_once(|slice| &slice.v4)
    }

    /// The IPv6 addresses of the endpoints, without duplicates.
    pub fn v6(&self) -> Vec<Ipv6Addr> {
        self.each_once(|slice| &slice.v6)
    }

    fn each_once<A: Copy + Ord>(&self, family: impl Fn(&Slice) -> &Endpoints<A>) -> Vec<A> {
        let count = self.slices.iter().map(|slice| family(slice).len()).sum();
        let mut addresses = Vec::with_capacity(count);
        self.slices.iter().for_each(|slice| addresses.extend(family(slice).addresses()));
        if self.repeats {
            addresses.sort_unstable();
            addresses.dedup();
        }
        addresses
    }

    /// The addresses of the endpoints with this label, without duplicates.
    pub fn endpoint(&self, label: &[u8]) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for slice in &self.slices {
            addresses.extend(slice.v4.named(label).map(IpAddr::from));
            addresses.extend(slice.v6.named(label).map(IpAddr::from));
        }
        // Only in canonical spelling: an endpoint has one name.
        let spelt = parse_dashed(label).filter(|address| dashed(*address).as_bytes() == label);
        addresses
            .extend(spelt.filter(|address| self.slices.iter().any(|slice| has_unnamed(slice, *address))));
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The addresses of the endpoints in a topology zone, without duplicates.
    pub fn in_zone(&self, zone: &[u8]) -> Vec<IpAddr> {
        let zones = self.slices.iter().flat_map(|slice| &slice.zones);
        let mut addresses: Vec<_> =
            zones.filter(|(name, _)| name.as_bytes() == zone).map(|(_, address)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
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
            match address {
                IpAddr::V4(address) => labels.extend(names_of(&slice.v4, address)),
                IpAddr::V6(address) => labels.extend(names_of(&slice.v6, address)),
            }
            labels.extend(has_unnamed(slice, address).then_some(Label::Dashed(address)));
        }
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// The SRV targets of the ports that `is_it` selects: label and port, without duplicates.
    pub fn endpoint_ports(&self, is_it: impl Fn(&Port) -> bool) -> Vec<(Label<'_>, u16)> {
        let (mut found, mut lists) = (Vec::new(), 0);
        for slice in &self.slices {
            for port in slice.ports.iter().filter(|port| is_it(port)) {
                found.extend(Self::labels(slice).map(|label| (label, port.number)));
                lists += if slice.v4.is_empty() || slice.v6.is_empty() { 1 } else { 2 };
            }
        }
        // Within one slice, family and port, equal labels are adjacent; across several they are not.
        if lists > 1 {
            found.sort_unstable();
        }
        found.dedup();
        found
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
