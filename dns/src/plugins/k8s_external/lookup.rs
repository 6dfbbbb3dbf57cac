//! The records of one name of an external zone.

use std::net::IpAddr;

use hickory_server::proto::{
    op::Query,
    rr::{
        LowerName, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV},
    },
};

use crate::cluster::{
    authority::Authority,
    name::{self, QueryName, Reverse, is_reverse, reverse},
    selection::Selection,
    snapshot::{Snapshot, View},
    zone::{Dashed, Label, Port, ServiceKind},
};

/// Refresh, retry and expire of the SOA record, as CoreDNS has them.
const TIMERS: [i32; 3] = [7200, 1800, 86_400];

pub(super) struct Lookup<'s> {
    pub naming: Naming<'s>,
    pub zone: &'s LowerName,
    pub name: &'s QueryName,
    pub question: &'s Query,
    pub authority: &'s Authority,
    pub snapshot: &'s Snapshot,
    pub selection: Selection,
}

/// The options of the directive.
pub(super) struct Naming<'s> {
    /// The label of the names of the zone's servers.
    pub apex: &'s str,
    pub ttl: u32,
    /// Whether endpoints have names.
    pub headless: bool,
    /// The zone of the names that addresses lead to.
    pub primary: Option<&'s LowerName>,
}

/// The records of a name that exists; without answers: NODATA.
#[derive(Default)]
pub(super) struct Found {
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
}

/// The labels of a port in a question, without their underscores.
struct Asked<'q> {
    port: Option<&'q [u8]>,
    protocol: &'q [u8],
}

impl Asked<'_> {
    fn includes(&self, port: &Port) -> bool {
        self.protocol == port.protocol.label().as_bytes()
            && self.port.is_none_or(|name| !name.is_empty() && name == port.name.as_bytes())
    }
}

impl<'s> Lookup<'s> {
    /// `None`: the name does not exist.
    pub(super) fn records(&self) -> Option<Found> {
        let below = self.name.label_count() - self.zone.iter().count();
        let label = |n: usize| self.name.label(below - n);
        if below == 0 {
            return Some(self.apex());
        }
        if is_reverse(&name::Name::from(&**self.zone)) {
            return self.reverse();
        }
        if label(1) == self.naming.apex.as_bytes() {
            return self.below_apex(below);
        }
        let namespace = label(1);
        if !self.authority.exposes(namespace, self.snapshot) || !self.snapshot.has_namespace(namespace) {
            return None;
        }
        if below == 1 {
            return Some(Found::default());
        }
        let view = self.snapshot.service(namespace, label(2))?;
        match below {
            2 => self.service(view),
            3 => match label(3).strip_prefix(b"_") {
                Some(protocol) => self.ports(view, &Asked { port: None, protocol }).map(|_| Found::default()),
                None => self.endpoint(view, label(3)),
            },
            4 => {
                let (port, protocol) = (label(4).strip_prefix(b"_")?, label(3).strip_prefix(b"_")?);
                let found = self.ports(view, &Asked { port: Some(port), protocol })?;
                Some(if self.question.query_type == RecordType::SRV { found } else { Found::default() })
            }
            _ => None,
        }
    }

    fn apex(&self) -> Found {
        let qtype = self.question.query_type;
        if qtype == RecordType::SOA {
            return Found { answers: vec![self.soa()], additionals: Vec::new() };
        }
        if qtype != RecordType::NS {
            return Found::default();
        }
        let server = self.server();
        let addresses = self.own_addresses();
        let additionals = addresses.into_iter().map(|address| self.address(server.clone(), address));
        Found { additionals: additionals.collect(), answers: vec![self.record(RData::NS(NS(server)))] }
    }

    /// `dns` and `ns1.dns`.
    fn below_apex(&self, below: usize) -> Option<Found> {
        match below {
            1 => Some(Found::default()),
            2 if self.name.label(0) == b"ns1" => Some(self.addresses(self.own_addresses())),
            _ => None,
        }
    }

    /// The external addresses of the Services that lead to this server, or else its own.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let own = &self.authority.own_addresses;
        let views = own.iter().flat_map(|address| self.snapshot.services_with(*address));
        let exposed =
            views.filter(|view| self.authority.exposes(view.key.namespace().as_bytes(), self.snapshot));
        let external = exposed.filter_map(View::external).flat_map(|external| external.addresses.iter());
        let mut addresses: Vec<IpAddr> = external.copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() { own.to_vec() } else { addresses }
    }

    fn service(&self, view: &View) -> Option<Found> {
        let qtype = self.question.query_type;
        let Some(external) = view.external() else {
            let has_names = self.naming.headless && *view.kind() == ServiceKind::Headless;
            if !has_names || !view.has_endpoints() {
                return None;
            }
            return Some(if qtype == RecordType::SRV {
                self.endpoint_ports(view, |_| true)
            } else if qtype == RecordType::AAAA {
                self.addresses(view.v6(self.selection))
            } else {
                self.addresses(view.v4(self.selection))
            });
        };
        if qtype == RecordType::SRV {
            return Some(self.external_ports(view, |_| true));
        }
        // Records beside a CNAME are not allowed (RFC 1034, section 3.6.2): addresses win.
        match external.names.first().filter(|_| external.addresses.is_empty()) {
            Some(target) if is_address(qtype) || qtype == RecordType::CNAME => {
                let alias = self.record(RData::CNAME(CNAME(target.to_hickory())));
                Some(Found { answers: vec![alias], ..Found::default() })
            }
            Some(_) => Some(Found::default()),
            None => Some(self.addresses(external.addresses.iter().copied())),
        }
    }

    /// An endpoint of a Service without external addresses.
    fn endpoint(&self, view: &View, label: &[u8]) -> Option<Found> {
        if !self.naming.headless || view.external().is_some() || !view.names_endpoints() {
            return None;
        }
        let addresses = view.endpoint(label);
        (!addresses.is_empty()).then(|| self.addresses(addresses))
    }

    /// The SRV records of some ports. `None`: there is no such port.
    fn ports(&self, view: &View, asked: &Asked<'_>) -> Option<Found> {
        let found = match view.external() {
            Some(_) => self.external_ports(view, |port| asked.includes(port)),
            None if self.naming.headless && *view.kind() == ServiceKind::Headless => {
                self.endpoint_ports(view, |port| asked.includes(port))
            }
            None => return None,
        };
        (!found.answers.is_empty()).then_some(found)
    }

    fn external_ports(&self, view: &View, is_it: impl Fn(&Port) -> bool) -> Found {
        let Some(external) = view.external() else { return Found::default() };
        let ports: Vec<u16> =
            external.ports.iter().filter(|port| is_it(port)).map(|port| port.number).collect();
        let weight = weight((external.addresses.len() + external.names.len()) * ports.len());
        let own = self.below_zone(view, None);
        let own = own.filter(|_| !external.addresses.is_empty());
        let targets = own.clone().into_iter().chain(external.names.iter().map(name::Name::to_hickory));
        let mut found = Found::default();
        for target in targets {
            let mut numbers = ports.clone();
            numbers.sort_unstable();
            numbers.dedup();
            let records = numbers.iter().map(|port| SRV::new(0, weight, *port, target.clone()));
            found.answers.extend(records.map(|data| self.record(RData::SRV(data))));
        }
        if let Some(own) = own.filter(|_| !found.answers.is_empty()) {
            let addresses = external.addresses.iter();
            found.additionals.extend(addresses.map(|address| self.address(own.clone(), *address)));
        }
        found
    }

    fn endpoint_ports(&self, view: &View, is_it: impl Fn(&Port) -> bool) -> Found {
        // Too many are cut to what fits, and more, so that the reply is truncated.
        let (targets, _) = view.endpoint_ports(is_it, self.selection);
        let weight = weight(targets.len());
        let mut found = Found::default();
        let mut last = None;
        for (label, port) in targets {
            let mut scratch = Dashed::default();
            let octets = label.octets(&mut scratch);
            let Some(target) = self.below_zone(view, Some(octets)) else { continue };
            if last != Some(label) {
                let addresses = self.addresses_of(view, label);
                found.additionals.extend(addresses.into_iter().map(|one| self.address(target.clone(), one)));
                last = Some(label);
            }
            found.answers.push(self.record(RData::SRV(SRV::new(0, weight, port, target))));
        }
        found
    }

    fn addresses_of(&self, view: &View, label: Label<'_>) -> Vec<IpAddr> {
        match label {
            Label::Dashed(address) => vec![address],
            Label::Named(name) => view.endpoint(name.as_bytes()),
        }
    }

    fn reverse(&self) -> Option<Found> {
        let Reverse::Address(address) = reverse(self.name) else { return None };
        let views = self.snapshot.services_with_external(address);
        let exposed =
            views.filter(|view| self.authority.exposes(view.key.namespace().as_bytes(), self.snapshot));
        let names = exposed.filter_map(|view| self.name_of(view, self.naming.primary?, None));
        let mut names: Vec<Name> = names.collect();
        names.sort_unstable();
        if names.is_empty() {
            return None;
        }
        let is_asked = self.question.query_type == RecordType::PTR;
        let records = names.into_iter().filter(|_| is_asked).map(|name| self.record(RData::PTR(PTR(name))));
        Some(Found { answers: records.collect(), ..Found::default() })
    }

    /// The addresses of the family that is asked for.
    fn addresses<A: Into<IpAddr>>(&self, addresses: impl IntoIterator<Item = A>) -> Found {
        let record = |address: A| self.address(self.question.name.clone(), address.into());
        let records = addresses.into_iter().map(record);
        let answers = records.filter(|record| record.record_type() == self.question.query_type).collect();
        Found { answers, ..Found::default() }
    }

    fn address(&self, owner: Name, address: IpAddr) -> Record {
        let data = match address {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        Record::from_rdata(owner, self.naming.ttl, data)
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.question.name.clone(), self.naming.ttl, data)
    }

    fn below_zone(&self, view: &View, endpoint: Option<&[u8]>) -> Option<Name> {
        self.name_of(view, self.zone, endpoint)
    }

    /// The name of a Service or an endpoint. `None`: it is too long.
    fn name_of(&self, view: &View, zone: &LowerName, endpoint: Option<&[u8]>) -> Option<Name> {
        let own = [view.key.name().as_bytes(), view.key.namespace().as_bytes()];
        Name::from_labels(endpoint.into_iter().chain(own).chain(zone.iter())).ok()
    }

    fn below_apex_label(&self, label: &str) -> Name {
        let labels = [label.as_bytes(), self.naming.apex.as_bytes()].into_iter().chain(self.zone.iter());
        // Too long only in a zone of nearly 255 octets.
        Name::from_labels(labels).unwrap_or_default()
    }

    fn server(&self) -> Name {
        self.below_apex_label("ns1")
    }

    pub(super) fn soa(&self) -> Record {
        let [refresh, retry, expire] = TIMERS;
        let (server, contact) = (self.server(), self.below_apex_label("hostmaster"));
        let (serial, ttl) = (self.snapshot.serial, self.naming.ttl);
        let data = SOA::new(server, contact, serial, refresh, retry, expire, ttl);
        Record::from_rdata((**self.zone).clone(), ttl, RData::SOA(data))
    }
}

/// The weight of each of so many targets, as CoreDNS has it.
fn weight(targets: usize) -> u16 {
    u16::try_from(100 / targets.max(1)).unwrap_or(1).max(1)
}

/// Whether the records of a type are addresses, or an alias to them.
fn is_address(qtype: RecordType) -> bool {
    matches!(qtype, RecordType::A | RecordType::AAAA)
}
