//! From a service port and its endpoint sets to one frontend: which set each class of clients gets, and how.

use std::net::SocketAddr;

use crate::model::{
    address::IpFamily,
    backend::Backend,
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
    pub policy: &'a Policy,
    pub node: &'a LocalNode,
}

pub fn frontend(inputs: &Inputs<'_>, sets: EndpointSets) -> Frontend {
    let policy = match inputs.kind {
        FrontendKind::ClusterIp => inputs.service.internal_policy,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => {
            inputs.service.external_policy
        }
    };
    let served_here = served_here(inputs);
    let EndpointSets { mut cluster, mut local, serving, has_any, .. } = sets;
    if served_here.is_some() {
        cluster.retain(|backend| !is_own_server(inputs, backend));
        local.retain(|backend| !is_own_server(inputs, backend));
    }
    let (internal, external) = views(inputs.kind, policy, cluster, local_view(local, has_any));
    let mut frontend = Frontend {
        key: inputs.key,
        kind: inputs.kind,
        service: inputs.service.port_key(inputs.port),
        policy,
        internal,
        external,
        served_here,
        serving,
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

/// Where this node's own server answers for the frontend.
fn served_here(Inputs { key, kind, service, policy, node, .. }: &Inputs<'_>) -> Option<SocketAddr> {
    let server = policy.name_server.as_ref().filter(|server| server.answers(key, *kind, &service.key))?;
    server.address(key.address.family(), node)
}

fn is_own_server(Inputs { policy, node, .. }: &Inputs<'_>, backend: &Backend) -> bool {
    policy.name_server.as_ref().is_some_and(|server| server.is_at(backend.address, node))
}

/// Traffic to an external address that starts inside the cluster is not external: with `Local` it may use every
/// endpoint, for it would never have been sent to another node by the load balancer outside.
fn views(kind: FrontendKind, policy: TrafficPolicy, cluster: Vec<Backend>, local: View) -> (View, View) {
    let cluster = || View::new(cluster, WhenEmpty::Reject);
    match (policy, kind) {
        (TrafficPolicy::Cluster, _) => twice(cluster()),
        (TrafficPolicy::Local, FrontendKind::ClusterIp) => twice(local),
        (
            TrafficPolicy::Local,
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort,
        ) => (cluster(), local),
    }
}

fn twice(view: View) -> (View, View) {
    (view.clone(), view)
}

fn local_view(local: Vec<Backend>, has_any: bool) -> View {
    View::new(local, if has_any { WhenEmpty::Drop } else { WhenEmpty::Reject })
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
    frontend.source_ranges = ranges.to_vec();
}
