//! All records of a zone, for its transfer: those that queries for its names get, name by name.
//!
//! As in CoreDNS, the names of pods (`pods`) and of topology zones (`zonal`) are not among them: the former are
//! answered for any address.

use std::{iter, net::IpAddr, ptr};

use hickory_server::proto::rr::RecordType;

use super::{AnswerData, AnswerRecord, Lookup, Node, Owner};
use crate::cluster::{
    authority::{Authority, Zone},
    name::{Name, Reverse, reverse},
    selection::Selection,
    snapshot::{Snapshot, View, reverse_name},
    zone::{Port, ServiceKind},
};

/// The records of a name, and those of the endpoints of a Service.
#[derive(Debug)]
pub struct RecordSet<'s> {
    /// The owner of records with [`Owner::Question`].
    pub name: Name,
    pub records: Vec<AnswerRecord<'s>>,
}

/// The zone with this origin, unless it is one of multi-cluster Services.
pub fn transferable<'a>(authority: &'a Authority, origin: &Name) -> Option<&'a Zone> {
    authority.zones.iter().find(|zone| zone.name == *origin && !zone.is_multicluster)
}

/// All records of a zone: first the SOA record alone, then the others without it.
pub fn record_sets<'s>(
    authority: &'s Authority,
    snapshot: &'s Snapshot,
    zone: &'s Zone,
) -> impl Iterator<Item = RecordSet<'s>> + Send {
    let lookup = Lookup { authority, snapshot, qtype: RecordType::SOA, selection: Selection::ALL };
    let soa = lookup.set(zone.name.clone(), zone, &[RecordType::SOA]);
    let servers = lookup.set(zone.name.clone(), zone, &[RecordType::NS]);
    let server = below(&[b"ns", b"dns"], zone);
    let server = server.map(|name| lookup.set(name, zone, &[RecordType::A, RecordType::AAAA]));
    let version = below(&[b"dns-version"], zone).map(|name| lookup.set(name, zone, &[RecordType::TXT]));
    let own = server.into_iter().chain(version).filter(|_| !zone.is_reverse);
    let services = snapshot.services().filter(|_| !zone.is_reverse);
    let services = services.flat_map(move |view| lookup.service_sets(view, zone));
    let addresses = zone.is_reverse.then(|| lookup.addresses(zone)).into_iter().flatten();
    let pointers = addresses.filter_map(move |address| {
        Some(lookup.set(Name::from_text(&reverse_name(address))?, zone, &[RecordType::PTR]))
    });
    [soa, servers].into_iter().chain(own).chain(services).chain(pointers)
}

/// A name in a zone. `None`: it is too long.
fn below(labels: &[&[u8]], zone: &Zone) -> Option<Name> {
    Name::from_labels(labels.iter().copied().chain(zone.name.labels()))
}

impl<'s> Lookup<'s> {
    /// The records of these types; none if the name is in another zone.
    fn set(self, name: Name, zone: &'s Zone, qtypes: &[RecordType]) -> RecordSet<'s> {
        let query = name.to_query();
        let mut records = Vec::new();
        if self.authority.zone_of(&query).is_some_and(|own| ptr::eq(own, zone)) {
            for qtype in qtypes {
                let lookup = Self { qtype: *qtype, ..self };
                let (_, node) = lookup.find(&query, zone);
                records.extend(lookup.records_of(data_of(node)));
            }
        }
        // An alias is found with each type.
        records.dedup();
        RecordSet { name, records }
    }

    fn records_of(self, data: Vec<AnswerData<'s>>) -> impl Iterator<Item = AnswerRecord<'s>> {
        let owner = Owner::Question;
        data.into_iter().map(move |data| AnswerRecord { owner, ttl: self.ttl_of(&data), data })
    }

    fn service_sets(self, view: &'s View, zone: &'s Zone) -> impl Iterator<Item = RecordSet<'s>> {
        let (name, namespace) = (view.key.name().as_bytes(), view.key.namespace().as_bytes());
        let is_exposed = self.authority.exposes(namespace, self.snapshot) && self.is_named(view);
        let own = below(&[name, namespace, b"svc"], zone).filter(|_| is_exposed);
        let service =
            own.clone().map(|own| self.set(own, zone, &[RecordType::A, RecordType::AAAA, RecordType::SRV]));
        let ports = if is_exposed { ports(view) } else { Vec::new() };
        let ports = ports.into_iter().filter_map(move |port| {
            let labels = [format!("_{}", port.name), format!("_{}", port.protocol.label())];
            let [port, protocol] = labels.each_ref().map(|label| label.as_bytes());
            let name = below(&[port, protocol, name, namespace, b"svc"], zone)?;
            Some(self.set(name, zone, &[RecordType::SRV]))
        });
        let has_endpoints = view.names_endpoints() && !self.authority.no_endpoints;
        let endpoints = own.filter(|_| has_endpoints);
        let endpoints = endpoints.into_iter().map(move |name| self.endpoint_set(name, view, zone));
        service.into_iter().chain(ports).chain(endpoints)
    }

    /// The addresses of all endpoints, without duplicates.
    fn endpoint_set(self, name: Name, view: &'s View, zone: &'s Zone) -> RecordSet<'s> {
        let mut endpoints: Vec<_> = view.labelled_addresses().collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let (ttl, zone) = (self.authority.ttl, &zone.name);
        let record = |(label, address)| {
            let owner = Owner::Service { key: &view.key, endpoint: Some(label), cluster: None, zone };
            AnswerRecord { owner, ttl, data: AnswerData::address(address) }
        };
        RecordSet { name, records: endpoints.into_iter().map(record).collect() }
    }

    /// The addresses of Services and endpoints in a reverse zone.
    fn addresses(self, zone: &'s Zone) -> impl Iterator<Item = IpAddr> + Send + use<'s> {
        let range = match reverse(&zone.name.to_query()) {
            Reverse::Network(first, last) => Some((first, last)),
            Reverse::Address(address) => Some((address, address)),
            Reverse::Malformed => None,
        };
        let mut addresses = range
            .into_iter()
            .flat_map(move |(first, last)| self.snapshot.addresses_in(first, last))
            .peekable();
        iter::from_fn(move || {
            let next = addresses.next()?;
            while addresses.next_if_eq(&next).is_some() {}
            Some(next)
        })
    }
}

fn data_of(node: Node<'_>) -> Vec<AnswerData<'_>> {
    match node {
        Node::NxDomain | Node::EmptyNonTerminal => Vec::new(),
        Node::Records(data, _) | Node::SomeRecords(data) => data,
        Node::Alias(target) => vec![AnswerData::Cname(target)],
    }
}

/// The ports with names of their own.
fn ports(view: &View) -> Vec<&Port> {
    let mut ports: Vec<&Port> = match view.kind() {
        ServiceKind::ClusterIp { ports, .. } => ports.iter().collect(),
        ServiceKind::Headless => view.slices.iter().flat_map(|slice| &slice.ports).collect(),
        ServiceKind::ExternalName(_) | ServiceKind::Nothing => Vec::new(),
    };
    let name = |port: &&Port| (port.name.clone(), port.protocol.label());
    ports.sort_by_key(name);
    ports.dedup_by_key(|port| name(port));
    ports
}
