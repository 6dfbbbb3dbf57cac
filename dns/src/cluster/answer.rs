//! Answers from a question and a snapshot: no I/O, no clock, no random numbers.
//!
//! Existence of the name is decided before the qtype: an existing name without records of the type is NODATA,
//! and all types of a name are decided from one snapshot. The search of stub resolvers depends on that
//! difference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_server::proto::rr::RecordType;

use crate::{
    cluster::{
        authority::{Authority, Zone},
        name::{Name, NameKind, QueryName, Reverse, classify, reverse},
        selection::Selection,
        snapshot::{Snapshot, View},
        topic::Topic,
        zone::{Dashed, Label, ServiceKey, parse_dashed},
    },
    config::PodsMode,
};

mod apex;
mod multicluster;
mod service;
mod transfer;

pub use transfer::{RecordSet, record_sets, transferable};

/// Limit of CNAMEs in a chain.
const MAX_ALIASES: usize = 10;
/// The version of the specification of Kubernetes DNS-based service discovery.
const VERSION: &str = "1.1.0";
const VERSION_TTL: u32 = 28_800;

#[derive(Debug)]
pub enum Resolution<'s> {
    /// Outside the zones, or fallthrough: the next plugin answers.
    Fallthrough,
    /// Before the first sync: it is not known which names exist.
    NotSynced,
    Answered(Answer<'s>),
}

#[derive(Debug)]
pub struct Answer<'s> {
    /// The topic of the queried name.
    pub topic: Topic,
    /// The zone of the answer; its SOA is added to the authority section if `has_soa`.
    pub zone: &'s Zone,
    /// NXDOMAIN, of the last name of a CNAME chain.
    pub is_missing: bool,
    pub has_soa: bool,
    /// In order: a CNAME before its target.
    pub records: Vec<AnswerRecord<'s>>,
    /// The additional section, which may be omitted.
    pub additional: Vec<AnswerRecord<'s>>,
    /// The target of the last CNAME, if it is outside the cluster's names.
    pub target: Option<&'s Name>,
    /// Whether records were left out that cannot fit: the reply is truncated.
    pub is_cut: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRecord<'s> {
    pub owner: Owner<'s>,
    pub ttl: u32,
    pub data: AnswerData<'s>,
}

/// A name in an answer, as its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Owner<'s> {
    /// The qname, in the case of the query.
    Question,
    Whole(&'s Name),
    /// A Service, or one of its endpoints; of a multi-cluster Service, in a cluster.
    Service {
        key: &'s ServiceKey,
        endpoint: Option<Label<'s>>,
        cluster: Option<&'s str>,
        zone: &'s Name,
    },
    /// `ns.dns` below a zone.
    NameServer(&'s Name),
}

#[derive(Clone, Debug, PartialEq)]
pub enum AnswerData<'s> {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv {
        weight: u16,
        port: u16,
        target: Owner<'s>,
    },
    Ptr(Owner<'s>),
    Cname(&'s Name),
    Ns(Owner<'s>),
    Txt(&'static str),
    Soa(Soa<'s>),
    /// The answer to ANY (RFC 8482).
    HostInfo,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Soa<'s> {
    pub zone: &'s Name,
    pub serial: u32,
    pub minimum: u32,
}

impl Owner<'_> {
    /// The labels of the name; none for [`Self::Question`], which the caller has. `scratch` is the buffer for a
    /// dashed address.
    pub fn labels<'a>(&'a self, scratch: &'a mut Dashed) -> impl Iterator<Item = &'a [u8]> {
        let (first, below): ([&[u8]; 5], Option<&Name>) = match self {
            Self::Question => ([&[]; 5], None),
            Self::Whole(name) => ([&[]; 5], Some(name)),
            Self::NameServer(zone) => ([b"ns", b"dns", &[], &[], &[]], Some(zone)),
            Self::Service { key, endpoint, cluster, zone } => {
                let endpoint = endpoint.as_ref().map(|label| label.octets(scratch)).unwrap_or_default();
                let cluster = cluster.unwrap_or_default().as_bytes();
                ([endpoint, cluster, key.name().as_bytes(), key.namespace().as_bytes(), b"svc"], Some(zone))
            }
        };
        let below = below.into_iter().flat_map(|name| name.labels());
        first.into_iter().filter(|label| !label.is_empty()).chain(below)
    }
}

impl Soa<'_> {
    /// Refresh, retry and expire, as in CoreDNS.
    pub const TIMERS: [u32; 3] = [7200, 1800, 86_400];
}

impl AnswerData<'_> {
    fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }
}

/// A node of the domain tree (RFC 1034, section 3.1).
enum Node<'s> {
    /// No such name.
    NxDomain,
    /// A name without records, above other names.
    EmptyNonTerminal,
    /// A name with records: those of the qtype, and additional ones.
    Records(Vec<AnswerData<'s>>, Vec<AnswerRecord<'s>>),
    /// The same, but records that cannot fit were left out.
    SomeRecords(Vec<AnswerData<'s>>),
    Alias(&'s Name),
}

impl<'s> Node<'s> {
    fn data(data: impl IntoIterator<Item = AnswerData<'s>>) -> Self {
        Self::Records(data.into_iter().collect(), Vec::new())
    }

    fn addresses(addresses: impl IntoIterator<Item = IpAddr>, qtype: RecordType) -> Self {
        let wanted = addresses.into_iter().filter(|address| match address {
            IpAddr::V4(_) => qtype == RecordType::A,
            IpAddr::V6(_) => qtype == RecordType::AAAA,
        });
        Self::data(wanted.map(AnswerData::address))
    }

    fn if_exists(exists: bool) -> Self {
        if exists { Self::EmptyNonTerminal } else { Self::NxDomain }
    }
}

/// The context of a lookup.
#[derive(Clone, Copy)]
struct Lookup<'s> {
    authority: &'s Authority,
    snapshot: &'s Snapshot,
    qtype: RecordType,
    selection: Selection,
}

/// Answers a question. `selection`: the records to choose of those that cannot fit all.
pub fn answer<'s>(
    name: &QueryName,
    qtype: RecordType,
    authority: &'s Authority,
    snapshot: &'s Snapshot,
    selection: Selection,
) -> Resolution<'s> {
    let Some(zone) = authority.zone_of(name) else { return Resolution::Fallthrough };
    if !snapshot.is_synced {
        return Resolution::NotSynced;
    }
    let lookup = Lookup { authority, snapshot, qtype, selection };
    let (topic, node) = lookup.find(name, zone);
    if matches!(node, Node::NxDomain) && authority.falls_through(name) {
        return Resolution::Fallthrough;
    }
    let mut answer = Answer::empty(zone, topic);
    lookup.follow_aliases(&mut answer, node);
    Resolution::Answered(answer)
}

impl<'s> Answer<'s> {
    fn empty(zone: &'s Zone, topic: Topic) -> Self {
        Self {
            topic,
            zone,
            is_missing: false,
            has_soa: false,
            records: Vec::new(),
            additional: Vec::new(),
            target: None,
            is_cut: false,
        }
    }

    /// The SOA record of the zone, for negative answers (RFC 2308).
    pub fn soa(&self, authority: &Authority, snapshot: &Snapshot) -> AnswerRecord<'s> {
        let soa = Soa { zone: &self.zone.name, serial: snapshot.serial, minimum: authority.negative_ttl };
        AnswerRecord {
            owner: Owner::Whole(&self.zone.name),
            ttl: authority.negative_ttl,
            data: AnswerData::Soa(soa),
        }
    }

    /// Shuffles address records, so that clients that use the first one are spread. `below(n)` returns a number
    /// below n.
    pub fn shuffle(&mut self, mut below: impl FnMut(usize) -> usize) {
        let is_address =
            |record: &AnswerRecord<'_>| matches!(record.data, AnswerData::A(_) | AnswerData::Aaaa(_));
        let first = self.records.iter().position(is_address).unwrap_or(self.records.len());
        let addresses = self.records.get_mut(first..).unwrap_or_default();
        for n in (1..addresses.len()).rev() {
            addresses.swap(n, below(n + 1));
        }
    }
}

impl<'s> Lookup<'s> {
    /// Follows CNAMEs within the cluster's names.
    fn follow_aliases(self, answer: &mut Answer<'s>, mut node: Node<'s>) {
        let mut owner = Owner::Question;
        for _ in 0..MAX_ALIASES {
            let Node::Alias(target) = node else { return self.finish(answer, owner, node) };
            self.add(answer, owner, [AnswerData::Cname(target)]);
            if matches!(self.qtype, RecordType::CNAME | RecordType::ANY) {
                return;
            }
            let name = target.to_query();
            let Some(zone) = self.authority.zone_of(&name) else {
                answer.target = Some(target);
                return;
            };
            (_, node) = self.find(&name, zone);
            if matches!(node, Node::NxDomain) && self.authority.falls_through(&name) {
                answer.target = Some(target);
                return;
            }
            owner = Owner::Whole(target);
            answer.zone = zone;
        }
        // A part of a CNAME loop is of no use.
        answer.records.clear();
        answer.has_soa = true;
    }

    fn finish(self, answer: &mut Answer<'s>, owner: Owner<'s>, node: Node<'s>) {
        match node {
            Node::NxDomain => answer.is_missing = true,
            Node::EmptyNonTerminal | Node::Alias(_) => {}
            Node::Records(..) | Node::SomeRecords(_) if self.qtype == RecordType::ANY => {
                self.add(answer, owner, [AnswerData::HostInfo]);
                return;
            }
            Node::Records(data, additional) if !data.is_empty() => {
                self.add(answer, owner, data);
                answer.additional = additional;
                return;
            }
            Node::SomeRecords(data) => {
                self.add(answer, owner, data);
                answer.is_cut = true;
                return;
            }
            Node::Records(..) => {}
        }
        answer.has_soa = true;
    }

    fn add(self, answer: &mut Answer<'s>, owner: Owner<'s>, data: impl IntoIterator<Item = AnswerData<'s>>) {
        let record = |data| AnswerRecord { owner, ttl: self.ttl_of(&data), data };
        answer.records.extend(data.into_iter().map(record));
    }

    fn ttl_of(self, data: &AnswerData<'_>) -> u32 {
        if matches!(data, AnswerData::Txt(_)) { VERSION_TTL } else { self.authority.ttl }
    }

    fn find(self, name: &QueryName, zone: &'s Zone) -> (Topic, Node<'s>) {
        if zone.is_reverse {
            return (Topic::Reverse, self.find_reverse(name, zone));
        }
        let kind = classify(name, zone.labels);
        if zone.is_multicluster
            && let Some(found) = self.multicluster(&kind, zone)
        {
            return found;
        }
        match kind {
            NameKind::Service(service) => self.service_name(service, zone),
            NameKind::BelowService { service, label } => {
                self.in_service(service, |view| self.below_service(view, label))
            }
            NameKind::Port { service, port, protocol } => {
                self.in_service(service, |view| self.port(view, port, protocol, zone))
            }
            NameKind::Zonal { service, choice, zone: topology_zone } => {
                self.zonal_name(service, choice, topology_zone, zone)
            }
            NameKind::Pod { namespace, address } => (Topic::Pod, self.pod(namespace, address)),
            NameKind::Invalid => (Topic::Search, Node::NxDomain),
            NameKind::ServiceNamespace(namespace) | NameKind::PodNamespace(namespace) => {
                self.namespace(namespace)
            }
            NameKind::Apex => (Topic::Domain, self.apex(zone)),
            NameKind::NameServer => {
                (Topic::Domain, Node::addresses(self.authority.own_addresses.iter().copied(), self.qtype))
            }
            NameKind::DnsVersion => {
                let version = (self.qtype == RecordType::TXT).then_some(AnswerData::Txt(VERSION));
                (Topic::Domain, Node::data(version))
            }
            NameKind::Services | NameKind::Pods | NameKind::Dns => (Topic::Domain, Node::EmptyNonTerminal),
        }
    }

    fn namespace(self, name: &[u8]) -> (Topic, Node<'s>) {
        if self.has_namespace(name) {
            (Topic::Domain, Node::EmptyNonTerminal)
        } else {
            (Topic::Search, Node::NxDomain)
        }
    }

    fn has_namespace(self, name: &[u8]) -> bool {
        self.authority.exposes(name, self.snapshot) && self.snapshot.has_namespace(name)
    }

    fn pod(self, namespace: &[u8], label: &[u8]) -> Node<'s> {
        let Some(address) = parse_dashed(label).filter(|_| self.has_namespace(namespace)) else {
            return Node::NxDomain;
        };
        let is_there = match self.authority.pods {
            PodsMode::Disabled => false,
            PodsMode::Insecure => true,
            PodsMode::Verified => self.snapshot.has_pod(namespace, address),
        };
        if is_there { Node::addresses([address], self.qtype) } else { Node::NxDomain }
    }

    fn find_reverse(self, name: &QueryName, zone: &'s Zone) -> Node<'s> {
        if name.label_count() == zone.labels && matches!(self.qtype, RecordType::SOA | RecordType::NS) {
            return self.apex(zone);
        }
        match reverse(name) {
            Reverse::Address(address) => self.pointers(address),
            Reverse::Network(first, last) => Node::if_exists(
                name.label_count() == zone.labels || self.snapshot.has_address_in(first, last),
            ),
            Reverse::Malformed => Node::if_exists(name.label_count() == zone.labels),
        }
    }

    /// The PTR records of an address: of the Service with this cluster IP, or else of all endpoints with the
    /// address.
    fn pointers(self, address: IpAddr) -> Node<'s> {
        let Some(zone) = self.authority.primary() else { return Node::NxDomain };
        let exposed = |view: &&View| self.authority.exposes(view.key.namespace().as_bytes(), self.snapshot);
        let services: Vec<&'s View> = self.snapshot.services_with(address).filter(exposed).collect();
        let name = |view: &'s View, endpoint| Owner::Service {
            key: &view.key,
            endpoint,
            cluster: None,
            zone: &zone.name,
        };
        let owning = services.iter().filter(|view| view.own_addresses().contains(&address));
        let mut targets: Vec<_> = owning.map(|view| name(view, None)).collect();
        if targets.is_empty() && !self.authority.no_endpoints {
            let named = services.iter().filter(|view| view.names_endpoints());
            targets.extend(
                named.flat_map(|view| {
                    view.labels_of(address).into_iter().map(|label| name(view, Some(label)))
                }),
            );
        }
        if targets.is_empty() {
            return Node::NxDomain;
        }
        Node::data(targets.into_iter().filter(|_| self.qtype == RecordType::PTR).map(AnswerData::Ptr))
    }
}

#[cfg(test)]
mod tests;
