//! From a service port and its endpoint sets to one frontend: which set each class of clients gets, and how.

use crate::model::{
    address::IpFamily,
    frontend::{Frontend, FrontendKey, FrontendKind, Masquerade, View, WhenEmpty},
    node::LocalNode,
    policy::{Policy, TrafficPolicy},
    service::{PortInfo, ServiceInfo},
    topology::EndpointSets,
};

pub struct Inputs<'a> {
    pub key: FrontendKey,
    pub kind: FrontendKind,
    pub service: &'a ServiceInfo,
    pub port: &'a PortInfo,
    pub sets: EndpointSets,
    pub policy: &'a Policy,
    pub node: &'a LocalNode,
}

pub fn frontend(inputs: &Inputs<'_>) -> Frontend {
    let policy = match inputs.kind {
        FrontendKind::ClusterIp => inputs.service.internal_policy,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => {
            inputs.service.external_policy
        }
    };
    let (internal, external) = views(inputs.kind, policy, &inputs.sets);
    let mut frontend = Frontend {
        key: inputs.key,
        kind: inputs.kind,
        service: inputs.service.port_key(inputs.port),
        policy,
        internal,
        external,
        serving: inputs.sets.serving.clone(),
        masquerade: masquerade(inputs, policy),
        affinity: inputs.service.affinity,
        source_ranges: Vec::new(),
        extra_sources: Vec::new(),
    };
    if inputs.kind == FrontendKind::LoadBalancer {
        guard(&mut frontend, inputs);
    }
    frontend
}

/// Traffic to an external address that starts inside the cluster is not external: with `Local` it may use every
/// endpoint, for it would never have been sent to another node by the load balancer outside.
fn views(kind: FrontendKind, policy: TrafficPolicy, sets: &EndpointSets) -> (View, View) {
    match (policy, kind) {
        (TrafficPolicy::Cluster, _) => (cluster_view(sets), cluster_view(sets)),
        (TrafficPolicy::Local, FrontendKind::ClusterIp) => (local_view(sets), local_view(sets)),
        (
            TrafficPolicy::Local,
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort,
        ) => (cluster_view(sets), local_view(sets)),
    }
}

fn cluster_view(sets: &EndpointSets) -> View {
    View::new(sets.cluster.clone(), WhenEmpty::Reject)
}

fn local_view(sets: &EndpointSets) -> View {
    let when_empty = if sets.has_any { WhenEmpty::Drop } else { WhenEmpty::Reject };
    View::new(sets.local.clone(), when_empty)
}

fn masquerade(inputs: &Inputs<'_>, policy: TrafficPolicy) -> Masquerade {
    match inputs.kind {
        FrontendKind::ClusterIp if inputs.policy.masquerade_all => Masquerade::Always,
        FrontendKind::ClusterIp if inputs.node.has_detector(inputs.key.address.family()) => {
            Masquerade::UnlessFromPod
        }
        FrontendKind::ClusterIp => Masquerade::Never,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => match policy {
            TrafficPolicy::Cluster => Masquerade::Always,
            TrafficPolicy::Local => Masquerade::FromNode,
        },
    }
}

fn guard(frontend: &mut Frontend, inputs: &Inputs<'_>) {
    let family: IpFamily = inputs.key.address.family();
    let ranges = inputs.service.source_ranges.get(family);
    let node = inputs.node.primary(family);
    if ranges.iter().any(|range| range.contains(node)) {
        frontend.extra_sources = inputs.service.vips_of(family).collect();
    }
    frontend.source_ranges.clone_from(ranges);
}
