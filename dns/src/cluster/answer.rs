//! Question and snapshot in, answer out: no I/O, no clock, no chance.
//!
//! What exists is decided before what was asked: a name that exists and has no record of the type is NODATA, whatever
//! the type, and all types of a name are decided from one snapshot. Stub resolvers walk on, or stop, by that difference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_server::proto::rr::RecordType;

use crate::{
    cluster::{
        authority::{Authority, Zone},
        name::{Name, NameKind, QueryName, Reverse, classify, reverse},
        snapshot::{Snapshot, View},
        topic::Topic,
        zone::{Dashed, Label, ServiceKey, parse_dashed},
    },
    config::PodsMode,
};

mod apex;
mod service;

/// How many aliases are followed before a chain counts as a loop.
const MAX_ALIASES: usize = 10;
/// The DNS-based service discovery specification that is followed.
const VERSION: &str = "1.1.0";
const VERSION_TTL: u32 = 28_800;

#[derive(Debug)]
pub enum Resolution<'s> {
    /// Not cluster data: somebody else answers.
    Fallthrough,
    /// It is not known yet what exists.
    NotSynced,
    Answered(Answer<'s>),
}

#[derive(Debug)]
pub struct Answer<'s> {
    /// Of the name that was asked for.
    pub topic: Topic,
    /// The zone that answers; where `has_soa`, its SOA goes into the authority section.
    pub zone: &'s Zone,
    /// NXDOMAIN, of the last name of a chain.
    pub is_missing: bool,
    pub has_soa: bool,
    /// In the order they go out: an alias before what it leads to.
    pub records: Vec<AnswerRecord<'s>>,
    /// May be left out.
    pub additional: Vec<AnswerRecord<'s>>,
    /// The chain goes on with this name, which is somebody else's.
    pub target: Option<&'s Name>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRecord<'s> {
    pub owner: Owner<'s>,
    pub ttl: u32,
    pub data: AnswerData<'s>,
}

/// A name in an answer, as the parts it is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Owner<'s> {
    /// What was asked, in the letters of who asked.
    Question,
    Whole(&'s Name),
    /// A Service, or one of its endpoints.
    Service {
        key: &'s ServiceKey,
        endpoint: Option<Label<'s>>,
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
    /// What a question for all types gets (RFC 8482).
    HostInfo,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Soa<'s> {
    pub zone: &'s Name,
    pub serial: u32,
    pub minimum: u32,
}

impl Owner<'_> {
    /// The labels of a name that is made of parts; those of the question are known to who reads it. `scratch` is where an
    /// address becomes a label.
    pub fn labels<'a>(&'a self, scratch: &'a mut Dashed) -> impl Iterator<Item = &'a [u8]> {
        let (first, below): ([&[u8]; 4], Option<&Name>) = match self {
            Self::Question => ([&[]; 4], None),
            Self::Whole(name) => ([&[]; 4], Some(name)),
            Self::NameServer(zone) => ([b"ns", b"dns", &[], &[]], Some(zone)),
            Self::Service { key, endpoint, zone } => {
                let endpoint = endpoint.as_ref().map(|label| label.octets(scratch)).unwrap_or_default();
                ([endpoint, key.name().as_bytes(), key.namespace().as_bytes(), b"svc"], Some(zone))
            }
        };
        let below = below.into_iter().flat_map(|name| name.labels());
        first.into_iter().filter(|label| !label.is_empty()).chain(below)
    }
}

impl Soa<'_> {
    /// Refresh, retry and expire: nobody transfers these zones, so they are what CoreDNS says.
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

/// What there is at a name.
enum Node<'s> {
    /// No such name.
    NxDomain,
    /// A name that only stands above others.
    EmptyNonTerminal,
    /// A name with records: those of the type that was asked, and what helps to use them.
    Records(Vec<AnswerData<'s>>, Vec<AnswerRecord<'s>>),
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

/// What is looked at while a question is answered.
#[derive(Clone, Copy)]
struct Lookup<'s> {
    authority: &'s Authority,
    snapshot: &'s Snapshot,
    qtype: RecordType,
}

pub fn answer<'s>(
    name: &QueryName,
    qtype: RecordType,
    authority: &'s Authority,
    snapshot: &'s Snapshot,
) -> Resolution<'s> {
    let Some(zone) = authority.zone_of(name) else { return Resolution::Fallthrough };
    if !snapshot.is_synced {
        return Resolution::NotSynced;
    }
    let lookup = Lookup { authority, snapshot, qtype };
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
        }
    }

    /// The SOA record of the zone, as it tells how long a missing record may be taken for missing.
    pub fn soa(&self, authority: &Authority, snapshot: &Snapshot) -> AnswerRecord<'s> {
        let soa = Soa { zone: &self.zone.name, serial: snapshot.serial, minimum: authority.negative_ttl };
        AnswerRecord {
            owner: Owner::Whole(&self.zone.name),
            ttl: authority.negative_ttl,
            data: AnswerData::Soa(soa),
        }
    }

    /// Puts addresses into another order, so that who takes the first spreads over all. `below(n)` is any number under n.
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
    /// Follows aliases for as long as they lead to names of ours.
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
        // Nobody is helped by a part of a circle.
        answer.records.clear();
        answer.has_soa = true;
    }

    fn finish(self, answer: &mut Answer<'s>, owner: Owner<'s>, node: Node<'s>) {
        match node {
            Node::NxDomain => answer.is_missing = true,
            Node::EmptyNonTerminal | Node::Alias(_) => {}
            Node::Records(..) if self.qtype == RecordType::ANY => {
                self.add(answer, owner, [AnswerData::HostInfo]);
                return;
            }
            Node::Records(data, additional) if !data.is_empty() => {
                self.add(answer, owner, data);
                answer.additional = additional;
                return;
            }
            Node::Records(..) => {}
        }
        answer.has_soa = true;
    }

    fn add(self, answer: &mut Answer<'s>, owner: Owner<'s>, data: impl IntoIterator<Item = AnswerData<'s>>) {
        let ttl = |data: &AnswerData<'_>| {
            if matches!(data, AnswerData::Txt(_)) { VERSION_TTL } else { self.authority.ttl }
        };
        answer.records.extend(data.into_iter().map(|data| AnswerRecord { owner, ttl: ttl(&data), data }));
    }

    fn find(self, name: &QueryName, zone: &'s Zone) -> (Topic, Node<'s>) {
        if zone.is_reverse {
            return (Topic::Reverse, self.find_reverse(name, zone));
        }
        if zone.is_multicluster {
            return (Topic::Domain, self.apex_only(name, zone));
        }
        match classify(name, zone.labels) {
            NameKind::Service(service) => self.at_its_name(service, zone),
            NameKind::BelowService { service, label } => {
                self.at_service(service, |view| self.below_service(view, label))
            }
            NameKind::Port { service, port, protocol } => {
                self.at_service(service, |view| self.port(view, port, protocol, zone))
            }
            NameKind::Zonal { service, choice, zone } => {
                self.at_service(service, |view| self.zonal(view, choice, zone))
            }
            NameKind::Pod { namespace, address } => (Topic::Pod, self.pod(namespace, address)),
            NameKind::Invalid => (Topic::Search, Node::NxDomain),
            NameKind::ServiceNamespace(namespace) | NameKind::PodNamespace(namespace) => {
                self.at_namespace(namespace)
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

    fn at_namespace(self, name: &[u8]) -> (Topic, Node<'s>) {
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
            Reverse::Address(address) => self.holders(address),
            Reverse::Network(first, last) => Node::if_exists(
                name.label_count() == zone.labels || self.snapshot.has_address_in(first, last),
            ),
            Reverse::Malformed => Node::if_exists(name.label_count() == zone.labels),
        }
    }

    /// A Service's own address names the Service; any other all endpoints that have it.
    fn holders(self, address: IpAddr) -> Node<'s> {
        let Some(zone) = self.authority.primary() else { return Node::NxDomain };
        let exposed = |view: &&View| self.authority.exposes(view.key.namespace().as_bytes(), self.snapshot);
        let holders: Vec<&'s View> = self.snapshot.holders(address).filter(exposed).collect();
        let name = |view: &'s View, endpoint| Owner::Service { key: &view.key, endpoint, zone: &zone.name };
        let owning = holders.iter().filter(|view| view.own_addresses().contains(&address));
        let mut targets: Vec<_> = owning.map(|view| name(view, None)).collect();
        if targets.is_empty() && !self.authority.no_endpoints {
            let named = holders.iter().filter(|view| view.names_endpoints());
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
