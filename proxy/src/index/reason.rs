//! The reason of a verdict, with the data of the objects that led to it.

use super::{Index, unserved};
use crate::model::{
    address::IpFamily,
    backend::BackendState,
    flow::{Flow, FlowOutcome},
    frontend::{Frontend, FrontendAddress, FrontendKey, FrontendKind, Masquerade},
    node::Source,
    reason::{HintEffect, MasqueradeCause, PolicyEffect, PolicyField, Reason, Translation},
    service::{ServiceKey, TrafficPolicy},
    topology::{EndpointSets, HintMode},
    unserved::PortNames,
};

pub fn of_frontend(
    index: &Index,
    flow: &Flow,
    source: Source,
    outcome: FlowOutcome,
    frontend: &Frontend,
) -> Reason {
    match outcome {
        FlowOutcome::Drop if !frontend.admits(flow.source) => Reason::SourceNotInRanges {
            service: frontend.service.service.clone(),
            source: flow.source,
            ranges: frontend.source_ranges.clone(),
        },
        FlowOutcome::Drop => Reason::NoLocalEndpoint {
            service: frontend.service.clone(),
            policy: policy_field(frontend.kind),
            elsewhere: endpoint_sets(index, frontend).map_or(0, |sets| sets.usable),
        },
        FlowOutcome::Reject if !frontend.view(source).backends.is_empty() => Reason::SctpPortDiffers {
            service: frontend.service.clone(),
            port: frontend.key.port,
            endpoint_ports: frontend.refused_ports(frontend.view(source)),
        },
        FlowOutcome::Reject => no_endpoint(index, frontend),
        FlowOutcome::Dnat | FlowOutcome::None => Reason::Translated(translation(index, source, frontend)),
    }
}

fn no_endpoint(index: &Index, frontend: &Frontend) -> Reason {
    let service = frontend.service.clone();
    let family = frontend.key.address.family();
    let total = endpoint_sets(index, frontend).map_or(0, |sets| sets.total);
    let unmatched = match index.service(&service.service) {
        Some(service) if total == 0 => unserved::unmatched_ports(index, service, family),
        Some(_) | None => PortNames::default(),
    };
    Reason::NoEndpoint { service, family, total, unmatched }
}

pub fn undefined_port(index: &Index, flow: &Flow, owner: &ServiceKey) -> Reason {
    let ports = index.service(owner).map(|service| &*service.ports).unwrap_or_default();
    Reason::UndefinedPort {
        service: owner.clone(),
        destination: flow.destination,
        protocol: flow.protocol,
        defined: ports.iter().map(|port| (port.port, port.protocol)).collect(),
    }
}

/// The reason for a flow that is no Service traffic.
pub fn not_service_traffic(index: &Index, flow: &Flow) -> Reason {
    let Flow { source, destination, protocol } = *flow;
    let address = FrontendAddress::NodePort(IpFamily::of(destination.ip()));
    let node_port = index.frontend(&FrontendKey { address, port: destination.port(), protocol });
    let node = index.node();
    match node_port {
        Some(frontend)
            if node.owns(destination.ip())
                && !node.serves_nodeport_to(destination.ip(), source, protocol) =>
        {
            let served_at = node.nodeport_addresses(IpFamily::of(destination.ip()), source);
            Reason::NodePortNotServed { service: frontend.service, destination, protocol, served_at }
        }
        _ => Reason::NoFrontend { destination, protocol },
    }
}

fn translation(index: &Index, source: Source, frontend: &Frontend) -> Translation {
    let view = frontend.view(source);
    let backends: Vec<_> = view.backends.iter().filter(|backend| !frontend.refuses(backend)).collect();
    let is_terminating = backends.iter().any(|backend| backend.state == BackendState::ServingTerminating);
    let policy = policy_effect(source, frontend);
    Translation {
        service: frontend.service.clone(),
        source,
        endpoints: backends.len(),
        refused_ports: frontend.refused_ports(view),
        is_terminating,
        name_server: frontend.served_here,
        hint: match policy {
            PolicyEffect::Cluster | PolicyEffect::Exempt if !is_terminating => hint_effect(index, frontend),
            PolicyEffect::Cluster | PolicyEffect::Exempt | PolicyEffect::Local(_) => None,
        },
        policy,
        masquerade: masquerade_cause(source, frontend),
    }
}

fn policy_effect(source: Source, frontend: &Frontend) -> PolicyEffect {
    match (frontend.policy, frontend.kind) {
        (TrafficPolicy::Cluster, _) => PolicyEffect::Cluster,
        (TrafficPolicy::Local, FrontendKind::ClusterIp) => PolicyEffect::Local(PolicyField::Internal),
        (TrafficPolicy::Local, _) if source == Source::Outside => PolicyEffect::Local(PolicyField::External),
        (TrafficPolicy::Local, _) => PolicyEffect::Exempt,
    }
}

fn hint_effect(index: &Index, frontend: &Frontend) -> Option<HintEffect> {
    match endpoint_sets(index, frontend)?.hints {
        HintMode::None => None,
        HintMode::SameNode => Some(HintEffect::SameNode),
        HintMode::SameZone => Some(HintEffect::SameZone(index.node().zone.clone())),
    }
}

fn masquerade_cause(source: Source, frontend: &Frontend) -> Option<MasqueradeCause> {
    match frontend.masquerade {
        mode if !mode.applies_to(source) => None,
        Masquerade::Always if frontend.kind == FrontendKind::ClusterIp => Some(MasqueradeCause::All),
        Masquerade::Always => Some(MasqueradeCause::ReturnPath),
        Masquerade::UnlessFromPod => Some(MasqueradeCause::NotFromPod),
        Masquerade::FromNode => Some(MasqueradeCause::FromNode),
        Masquerade::Never => None,
    }
}

fn endpoint_sets(index: &Index, frontend: &Frontend) -> Option<EndpointSets> {
    let service = index.service(&frontend.service.service)?;
    let port = service.port(&frontend.service)?;
    Some(index.endpoint_sets(service, port, frontend.key.address.family()))
}

fn policy_field(kind: FrontendKind) -> PolicyField {
    match kind {
        FrontendKind::ClusterIp => PolicyField::Internal,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => {
            PolicyField::External
        }
    }
}
