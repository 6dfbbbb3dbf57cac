//! All records of a zone, for its transfer: those that queries for its names get, name by name.
//!
//! The sets of a large Service are made in pieces, each when it is needed: neither the memory of a transfer nor the time
//! between two messages grows with the number of endpoints. Names of pods are among them only with `pods verified`: without,
//! they are answered for any address.

use std::{iter, net::IpAddr, ptr};

use hickory_server::proto::rr::RecordType;

use super::{
    AnswerData, AnswerRecord, Lookup, Node, Owner,
    service::{has_port, weight},
};
use crate::{
    cluster::{
        authority::{Authority, Zone},
        name::{Name, Reverse, reverse},
        selection::Selection,
        snapshot::{Snapshot, Target, View, reverse_name},
        zone::{Port, ServiceKind, dashed},
    },
    config::PodsMode,
};

/// Limit of the records of a set.
const PIECE: usize = 512;
/// With more SRV targets, the weight of each is the least.
const WEIGHED: usize = 101;

/// Records of a name, or of the endpoints of a Service. A name may have several sets.
#[derive(Debug)]
pub struct RecordSet<'s> {
    /// The owner of records with [`Owner::Question`].
    pub name: Name,
    pub records: Vec<AnswerRecord<'s>>,
}

/// The zone with this origin.
pub fn transferable<'a>(authority: &'a Authority, origin: &Name) -> Option<&'a Zone> {
    authority.zones.iter().find(|zone| zone.name == *origin)
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
    let services = if zone.is_multicluster { snapshot.imports.as_deref() } else { Some(snapshot) };
    let services = services.filter(|_| !zone.is_reverse).into_iter().flat_map(Snapshot::services);
    let services = services.flat_map(move |view| lookup.service_sets(view, zone));
    let has_pods = authority.pods == PodsMode::Verified && !zone.is_reverse;
    let pods = has_pods.then(|| snapshot.pods()).into_iter().flatten();
    let pods = pods.filter_map(move |(namespace, address)| {
        let name = below(&[dashed(address).as_bytes(), namespace.as_bytes(), b"pod"], zone)?;
        Some(lookup.set(name, zone, &[RecordType::A, RecordType::AAAA]))
    });
    let addresses = zone.is_reverse.then(|| lookup.addresses(zone)).into_iter().flatten();
    let pointers = addresses.filter_map(move |address| {
        Some(lookup.set(Name::from_text(&reverse_name(address))?, zone, &[RecordType::PTR]))
    });
    [soa, servers].into_iter().chain(own).chain(services).chain(pods).chain(pointers)
}

/// A name in a zone. `None`: it is too long.
fn below(labels: &[&[u8]], zone: &Zone) -> Option<Name> {
    Name::from_labels(labels.iter().copied().chain(zone.name.labels()))
}

/// The records in sets of limited size.
fn pieces<'s>(
    name: Name,
    mut records: impl Iterator<Item = AnswerRecord<'s>> + Send,
) -> impl Iterator<Item = RecordSet<'s>> + Send {
    iter::from_fn(move || {
        let records: Vec<_> = records.by_ref().take(PIECE).collect();
        (!records.is_empty()).then(|| RecordSet { name: name.clone(), records })
    })
}

impl<'s> Lookup<'s> {
    /// Whether a name is in this zone, and not in another one below it.
    fn owns(self, name: &Name, zone: &Zone) -> bool {
        self.authority.zone_of(&name.to_query()).is_some_and(|own| ptr::eq(own, zone))
    }

    /// The records of these types; none if the name is in another zone.
    fn set(self, name: Name, zone: &'s Zone, qtypes: &[RecordType]) -> RecordSet<'s> {
        let mut records = Vec::new();
        if self.owns(&name, zone) {
            for qtype in qtypes {
                let lookup = Self { qtype: *qtype, ..self };
                let (_, node) = lookup.find(&name.to_query(), zone);
                records.extend(data_of(node).into_iter().map(|data| lookup.own_record(data)));
            }
        }
        // An alias is found with each type.
        records.dedup();
        RecordSet { name, records }
    }

    fn own_record(self, data: AnswerData<'s>) -> AnswerRecord<'s> {
        AnswerRecord { owner: Owner::Question, ttl: self.ttl_of(&data), data }
    }

    fn service_sets(self, view: &'s View, zone: &'s Zone) -> impl Iterator<Item = RecordSet<'s>> + Send {
        let (name, namespace) = (view.key.name().as_bytes(), view.key.namespace().as_bytes());
        let is_exposed = self.authority.exposes(namespace, self.snapshot) && self.is_named(view);
        let own = below(&[name, namespace, b"svc"], zone).filter(|_| is_exposed);
        let service = own.clone().into_iter().flat_map(move |own| self.named_sets(own, view, zone));
        let ports = if is_exposed { ports(view) } else { Vec::new() };
        let ports = ports.into_iter().flat_map(move |port| self.port_sets(port, view, zone));
        // Names of topology zones exist without endpoints, too, but then without records.
        let zonal =
            (is_exposed && self.authority.zonal && !zone.is_multicluster).then(|| view.topology_zones());
        let zonal = zonal.into_iter().flatten().flat_map(move |near| self.zonal_sets(near, view, zone));
        let has_endpoints = view.names_endpoints() && !self.authority.no_endpoints;
        let endpoints = own.filter(|own| has_endpoints && self.owns(own, zone));
        let endpoints = endpoints.into_iter().flat_map(move |name| self.endpoint_sets(name, view, zone));
        service.chain(ports).chain(zonal).chain(endpoints)
    }

    /// The records of a Service's own name.
    fn named_sets(
        self,
        name: Name,
        view: &'s View,
        zone: &'s Zone,
    ) -> Box<dyn Iterator<Item = RecordSet<'s>> + Send + 's> {
        if !matches!(view.kind(), ServiceKind::Headless) {
            let qtypes = [RecordType::A, RecordType::AAAA, RecordType::SRV];
            return Box::new(iter::once(self.set(name, zone, &qtypes)));
        }
        if !self.owns(&name, zone) {
            return Box::new(iter::empty());
        }
        let v4 = view.each_v4().map(AnswerData::A);
        let addresses = v4.chain(view.each_v6().map(AnswerData::Aaaa));
        let records = addresses.chain(self.each_srv(view, zone, |_| true));
        Box::new(pieces(name, records.map(move |data| self.own_record(data))))
    }

    fn port_sets(
        self,
        port: &'s Port,
        view: &'s View,
        zone: &'s Zone,
    ) -> Box<dyn Iterator<Item = RecordSet<'s>> + Send + 's> {
        let (own, namespace) = (view.key.name().as_bytes(), view.key.namespace().as_bytes());
        let labels = [format!("_{}", port.name), format!("_{}", port.protocol.label())];
        let [label, protocol] = labels.each_ref().map(|label| label.as_bytes());
        let is_it = |other: &Port| other.name == port.name && other.protocol == port.protocol;
        match below(&[label, protocol, own, namespace, b"svc"], zone) {
            None => Box::new(iter::empty()),
            Some(name) if !matches!(view.kind(), ServiceKind::Headless) => {
                Box::new(iter::once(self.set(name, zone, &[RecordType::SRV])))
            }
            Some(name) if self.owns(&name, zone) && has_port(view, is_it) => {
                let records = self.each_srv(view, zone, is_it);
                Box::new(pieces(name, records.map(move |data| self.own_record(data))))
            }
            Some(_) => Box::new(iter::empty()),
        }
    }

    /// The SRV records of a headless Service.
    fn each_srv(
        self,
        view: &'s View,
        zone: &'s Zone,
        is_it: impl Fn(&Port) -> bool + Copy + Send + 's,
    ) -> impl Iterator<Item = AnswerData<'s>> + Send {
        let weight = weight(view.each_target(is_it).take(WEIGHED).count());
        view.each_target(is_it).map(move |(target, port)| srv(target, port, weight, view, zone))
    }

    /// The names of the endpoints in a topology zone.
    fn zonal_sets(
        self,
        near: &'s Name,
        view: &'s View,
        zone: &'s Zone,
    ) -> impl Iterator<Item = RecordSet<'s>> + Send {
        let (own, namespace) = (view.key.name().as_bytes(), view.key.namespace().as_bytes());
        let labels = &near.octets()[..near.octets().len() - 1];
        let weight = weight(view.each_target_in(labels).take(WEIGHED).count());
        [b"pin".as_slice(), b"prefer"].into_iter().flat_map(move |choice| {
            let above = [choice, b"_zone", own, namespace, b"svc"];
            let name = Name::from_labels(near.labels().chain(above).chain(zone.name.labels()));
            let name = name.filter(|name| self.owns(name, zone));
            name.into_iter().flat_map(move |name| {
                let addresses = view.in_zone(labels).iter().copied().map(AnswerData::address);
                let targets = view.each_target_in(labels);
                let targets = targets.map(move |(target, port)| srv(target, port, weight, view, zone));
                pieces(name, addresses.chain(targets).map(move |data| self.own_record(data)))
            })
        })
    }

    /// The addresses of all endpoints, without duplicates.
    fn endpoint_sets(
        self,
        name: Name,
        view: &'s View,
        zone: &'s Zone,
    ) -> impl Iterator<Item = RecordSet<'s>> + Send {
        let ttl = self.authority.ttl;
        let record = move |(target, address)| {
            let owner = owner(target, view, zone);
            AnswerRecord { owner, ttl, data: AnswerData::address(address) }
        };
        let endpoints = view.each_endpoint();
        // In a zone of several clusters, endpoints are named by theirs.
        let is_named = move |(target, _): &(Target<'_>, _)| target.cluster.is_some() == zone.is_multicluster;
        pieces(name, endpoints.filter(is_named).map(record))
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

fn owner<'s>(target: Target<'s>, view: &'s View, zone: &'s Zone) -> Owner<'s> {
    let Target { cluster, label } = target;
    Owner::Service { key: &view.key, endpoint: Some(label), cluster, zone: &zone.name }
}

fn srv<'s>(target: Target<'s>, port: u16, weight: u16, view: &'s View, zone: &'s Zone) -> AnswerData<'s> {
    AnswerData::Srv { weight, port, target: owner(target, view, zone) }
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
