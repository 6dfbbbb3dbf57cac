//! Services of several clusters (KEP-1645): names of ServiceImports, and of the endpoints of headless ones.

use super::{
    AnswerData, Lookup, Node, Owner,
    service::{MAX_RESOLVED, has_port, weight},
};
use crate::cluster::{
    authority::Zone,
    name::{NameKind, ServiceName},
    snapshot::View,
    topic::Topic,
    zone::{Dashed, Port},
};

impl<'s> Lookup<'s> {
    /// Looks up a name of a Service in a zone of several clusters. `None`: the name is of another kind, which is the
    /// same in all zones.
    pub(super) fn multicluster(self, kind: &NameKind<'_>, zone: &'s Zone) -> Option<(Topic, Node<'s>)> {
        Some(match *kind {
            NameKind::Service(service) => self.in_import(service, |lookup, view| lookup.service(view, zone)),
            NameKind::BelowService { service, label } => {
                self.in_import(service, |_, view| below(view, label))
            }
            // Two labels are a port and a protocol, or else an endpoint and its cluster.
            NameKind::Port { service, port, protocol }
                if [port, protocol].iter().any(|label| label.starts_with(b"_")) =>
            {
                self.in_import(service, |lookup, view| lookup.port(view, port, protocol, zone))
            }
            NameKind::Port { service, port: endpoint, protocol: cluster } => {
                self.in_import(service, |lookup, view| lookup.imported_endpoint(view, endpoint, cluster))
            }
            NameKind::Zonal { .. } => (Topic::Search, Node::NxDomain),
            NameKind::Apex
            | NameKind::DnsVersion
            | NameKind::Dns
            | NameKind::NameServer
            | NameKind::Services
            | NameKind::Pods
            | NameKind::ServiceNamespace(_)
            | NameKind::PodNamespace(_)
            | NameKind::Pod { .. }
            | NameKind::Invalid => return None,
        })
    }

    /// Looks up an imported Service in its own snapshot.
    fn in_import(
        self,
        service: ServiceName<'_>,
        find: impl FnOnce(Self, &'s View) -> Node<'s>,
    ) -> (Topic, Node<'s>) {
        // The namespaces are those of this cluster.
        let is_exposed = self.authority.exposes(service.namespace, self.snapshot);
        match self.snapshot.imports.as_deref().filter(|_| is_exposed) {
            None => (Topic::Search, Node::NxDomain),
            Some(imports) => {
                let lookup = Self { snapshot: imports, ..self };
                lookup.in_service(service, |view| find(lookup, view))
            }
        }
    }

    fn imported_endpoint(self, view: &'s View, endpoint: &[u8], cluster: &[u8]) -> Node<'s> {
        if self.authority.no_endpoints {
            return Node::NxDomain;
        }
        let addresses = view.endpoint_in(cluster, endpoint);
        if addresses.is_empty() { Node::NxDomain } else { Node::addresses(addresses, self.qtype) }
    }

    /// SRV records to the endpoints of a headless Service, each in its cluster.
    pub(super) fn imported_targets(
        self,
        view: &'s View,
        zone: &'s Zone,
        is_it: impl Fn(&Port) -> bool,
    ) -> Node<'s> {
        let (targets, is_cut) = view.imported_ports(is_it, self.selection);
        let weight = weight(targets.len());
        let owner = |cluster, label| Owner::Service {
            key: &view.key,
            endpoint: Some(label),
            cluster: Some(cluster),
            zone: &zone.name,
        };
        let srv = |(cluster, label, port): &(&'s str, _, u16)| AnswerData::Srv {
            weight,
            port: *port,
            target: owner(*cluster, *label),
        };
        let data = targets.iter().map(srv).collect();
        if is_cut || targets.len() > MAX_RESOLVED {
            return if is_cut { Node::SomeRecords(data) } else { Node::Records(data, Vec::new()) };
        }
        let mut names: Vec<_> = targets.iter().map(|(cluster, label, _)| (*cluster, *label)).collect();
        names.dedup();
        let mut scratch = Dashed::default();
        let mut glue = Vec::new();
        for (cluster, label) in names {
            let addresses = view.endpoint_in(cluster.as_bytes(), label.octets(&mut scratch));
            glue.extend(self.glue(owner(cluster, label), &addresses));
        }
        Node::Records(data, glue)
    }
}

/// A label below a Service: the protocol above ports, or the cluster above endpoints.
fn below<'s>(view: &View, label: &[u8]) -> Node<'s> {
    match label.strip_prefix(b"_") {
        Some(protocol) => {
            Node::if_exists(has_port(view, |port: &Port| port.protocol.label().as_bytes() == protocol))
        }
        None => Node::if_exists(view.has_cluster(label)),
    }
}
