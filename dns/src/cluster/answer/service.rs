//! Services, their ports and their endpoints.

use std::net::IpAddr;

use hickory_server::proto::rr::RecordType;

use super::{AnswerData, AnswerRecord, Lookup, Node, Owner};
use crate::cluster::{
    authority::Zone,
    name::ServiceName,
    snapshot::View,
    topic::Topic,
    zone::{Label, Port, ServiceKind},
};

/// The approximate sum of the SRV weights of a name.
const WEIGHT: usize = 100;

/// Limit of SRV targets with address records in the additional section: with more, they would hardly fit.
pub(super) const MAX_RESOLVED: usize = 512;

impl<'s> Lookup<'s> {
    /// The name of a Service. If it is missing in an existing namespace, the topic is [`Topic::Absent`].
    pub(super) fn service_name(self, service: ServiceName<'_>, zone: &'s Zone) -> (Topic, Node<'s>) {
        match self.in_service(service, |view| self.service(view, zone)) {
            (Topic::Search, missing) if self.has_namespace(service.namespace) => (Topic::Absent, missing),
            node => node,
        }
    }

    /// Looks up a Service and calls `find` if it has a name. Returns the topic, too.
    pub(super) fn in_service(
        self,
        service: ServiceName<'_>,
        find: impl FnOnce(&'s View) -> Node<'s>,
    ) -> (Topic, Node<'s>) {
        let Some(view) = self.snapshot.service(service.namespace, service.name) else {
            return (Topic::Search, Node::NxDomain);
        };
        let is_named = self.authority.exposes(service.namespace, self.snapshot) && self.is_named(view);
        let node = if is_named { find(view) } else { Node::NxDomain };
        (topic_of_node(view, &node), node)
    }

    pub(super) fn is_named(self, view: &View) -> bool {
        match view.kind() {
            ServiceKind::ClusterIp { .. } => !self.authority.ignore_empty_service || view.has_endpoints(),
            // Not NODATA: a client that looks for a peer must continue its search list.
            ServiceKind::Headless => !self.authority.no_endpoints && view.has_endpoints(),
            ServiceKind::ExternalName(_) => true,
            ServiceKind::Nothing => false,
        }
    }

    pub(super) fn service(self, view: &'s View, zone: &'s Zone) -> Node<'s> {
        match (view.kind(), self.qtype) {
            (ServiceKind::ExternalName(target), _) => Node::Alias(target),
            // As in CoreDNS: all named ports in one answer.
            (_, RecordType::SRV) => self.targets(view, zone, |_| true),
            (ServiceKind::Headless, RecordType::A | RecordType::AAAA) => self.endpoints(view),
            (_, qtype) => Node::addresses(view.own_addresses().iter().copied(), qtype),
        }
    }

    /// The addresses of the endpoints.
    fn endpoints(self, view: &'s View) -> Node<'s> {
        if self.qtype == RecordType::A {
            Node::data(view.v4(self.selection).into_iter().map(AnswerData::A))
        } else if self.qtype == RecordType::AAAA {
            Node::data(view.v6(self.selection).into_iter().map(AnswerData::Aaaa))
        } else {
            Node::data([])
        }
    }

    /// An endpoint, or the protocol label above ports.
    pub(super) fn below_service(self, view: &'s View, label: &[u8]) -> Node<'s> {
        if let Some(protocol) = label.strip_prefix(b"_") {
            let is_it = |port: &Port| port.protocol.label().as_bytes() == protocol;
            return Node::if_exists(has_port(view, is_it));
        }
        if self.authority.no_endpoints || !view.names_endpoints() {
            return Node::NxDomain;
        }
        let addresses = view.endpoint(label);
        if addresses.is_empty() { Node::NxDomain } else { Node::addresses(addresses, self.qtype) }
    }

    pub(super) fn port(self, view: &'s View, port: &[u8], protocol: &[u8], zone: &'s Zone) -> Node<'s> {
        let (Some(name), Some(protocol)) = (port.strip_prefix(b"_"), protocol.strip_prefix(b"_")) else {
            return Node::NxDomain;
        };
        let is_it =
            |port: &Port| port.name.as_bytes() == name && port.protocol.label().as_bytes() == protocol;
        if !has_port(view, is_it) {
            return Node::NxDomain;
        }
        if self.qtype == RecordType::SRV { self.targets(view, zone, is_it) } else { Node::data([]) }
    }

    /// `ZONE.pin._zone` and `ZONE.prefer._zone` below a headless Service: the endpoints in a topology zone; for
    /// `prefer`, all endpoints if the zone has none. As in CoreDNS, these names exist even if the Service has no
    /// endpoints.
    pub(super) fn zonal_name(
        self,
        service: ServiceName<'_>,
        choice: Option<&[u8]>,
        topology_zone: Option<&[u8]>,
        zone: &'s Zone,
    ) -> (Topic, Node<'s>) {
        let found = self.snapshot.service(service.namespace, service.name);
        let exposed = self.authority.exposes(service.namespace, self.snapshot);
        let Some(view) = found.filter(|_| exposed && self.authority.zonal) else {
            return (Topic::Search, Node::NxDomain);
        };
        let node = self.zonal(view, choice, topology_zone, zone);
        (topic_of_node(view, &node), node)
    }

    fn zonal(
        self,
        view: &'s View,
        choice: Option<&[u8]>,
        topology_zone: Option<&[u8]>,
        zone: &'s Zone,
    ) -> Node<'s> {
        let prefers = choice == Some(b"prefer");
        let is_served = matches!(view.kind(), ServiceKind::Headless);
        if !is_served || choice.is_some_and(|choice| choice != b"pin" && !prefers) {
            return Node::NxDomain;
        }
        let Some(topology_zone) = topology_zone else { return Node::EmptyNonTerminal };
        let near = view.in_zone(topology_zone);
        let is_far = near.is_empty() && prefers;
        if self.qtype == RecordType::SRV {
            return match is_far {
                true => self.targets(view, zone, |_| true),
                false => self.srv(view, zone, view.zone_ports(topology_zone, self.selection)),
            };
        }
        if is_far {
            return self.endpoints(view);
        }
        let (v4, v6) = near.split_at(near.partition_point(IpAddr::is_ipv4));
        // Other types have no records, and `addresses` selects none.
        let (of_family, window) = if self.qtype == RecordType::A {
            (v4, self.selection.of_a())
        } else {
            (v6, self.selection.of_aaaa())
        };
        Node::addresses(window.select(of_family).copied(), self.qtype)
    }

    /// SRV records for the ports that `is_it` selects: to the Service if it has a cluster IP, or else to each
    /// endpoint.
    pub(super) fn targets(self, view: &'s View, zone: &'s Zone, is_it: impl Fn(&Port) -> bool) -> Node<'s> {
        let name = |endpoint| Owner::Service { key: &view.key, endpoint, cluster: None, zone: &zone.name };
        if let ServiceKind::ClusterIp { addresses, ports } = view.kind() {
            let mut numbers: Vec<_> =
                ports.iter().filter(|port| is_it(port)).map(|port| port.number).collect();
            // Several protocols may have the same port.
            numbers.sort_unstable();
            numbers.dedup();
            let weight = weight(numbers.len());
            let data = numbers.into_iter().map(|port| AnswerData::Srv { weight, port, target: name(None) });
            return Node::Records(data.collect(), self.glue(name(None), addresses));
        }
        if view.is_imported() {
            return self.imported_targets(view, zone, is_it);
        }
        self.srv(view, zone, view.endpoint_ports(is_it, self.selection))
    }

    /// SRV records to endpoints.
    fn srv(
        self,
        view: &'s View,
        zone: &'s Zone,
        (targets, is_cut): (Vec<(Label<'s>, u16)>, bool),
    ) -> Node<'s> {
        let name = |endpoint| Owner::Service { key: &view.key, endpoint, cluster: None, zone: &zone.name };
        let weight = weight(targets.len());
        let srv = |(label, port): &(Label<'s>, u16)| AnswerData::Srv {
            weight,
            port: *port,
            target: name(Some(*label)),
        };
        let data = targets.iter().map(srv).collect();
        if is_cut {
            return Node::SomeRecords(data);
        }
        Node::Records(data, self.target_addresses(view, zone, &targets))
    }

    fn target_addresses(
        self,
        view: &'s View,
        zone: &'s Zone,
        targets: &[(Label<'s>, u16)],
    ) -> Vec<AnswerRecord<'s>> {
        if targets.len() > MAX_RESOLVED {
            return Vec::new();
        }
        let mut labels: Vec<_> = targets.iter().map(|(label, _)| *label).collect();
        // With several ports, each endpoint occurs several times.
        labels.sort_unstable();
        labels.dedup();
        let mut addresses = Vec::with_capacity(labels.len());
        for label in labels {
            let owner =
                Owner::Service { key: &view.key, endpoint: Some(label), cluster: None, zone: &zone.name };
            addresses.extend(self.glue(owner, &addresses_of(view, label)));
        }
        addresses
    }
}

fn topic_of_node(view: &View, node: &Node<'_>) -> Topic {
    if matches!(node, Node::NxDomain) { Topic::Absent } else { topic_of(view.kind()) }
}

fn topic_of(kind: &ServiceKind) -> Topic {
    match kind {
        ServiceKind::ClusterIp { .. } => Topic::Service,
        ServiceKind::Headless => Topic::Headless,
        ServiceKind::ExternalName(_) => Topic::Alias,
        ServiceKind::Nothing => Topic::Absent,
    }
}

fn addresses_of(view: &View, label: Label<'_>) -> Vec<IpAddr> {
    match label {
        Label::Named(name) => view.endpoint(name.as_bytes()),
        Label::Dashed(address) => vec![address],
    }
}

pub(super) fn has_port(view: &View, is_it: impl Fn(&Port) -> bool) -> bool {
    match view.kind() {
        ServiceKind::ClusterIp { ports, .. } => ports.iter().any(is_it),
        ServiceKind::Headless => {
            let serving = view.slices.iter().filter(|slice| !slice.v4.is_empty() || !slice.v6.is_empty());
            serving.flat_map(|slice| &slice.ports).any(is_it)
        }
        ServiceKind::ExternalName(_) | ServiceKind::Nothing => false,
    }
}

/// At least 1: many clients never choose a target of weight 0.
pub(super) fn weight(targets: usize) -> u16 {
    u16::try_from(WEIGHT / targets.max(1)).unwrap_or(1).max(1)
}
