//! From a service port and its endpoint sets to one frontend: the view of each class of clients, masquerading,
//! source ranges.

use std::net::SocketAddr;

use crate::model::{
    address::{IpFamily, Protocol},
    backend::Backend,
    frontend::{Frontend, FrontendKey, FrontendKind, Masquerade, View, WhenEmpty},
    name_server,
    node::LocalNode,
    policy::Policy,
    service::{PortInfo, ServiceInfo, TrafficPolicy},
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
        add_source_ranges(&mut frontend, inputs);
    }
    frontend
}

/// The address of this node's own name server, if it serves the frontend: a ClusterIP of the DNS Service, as
/// only clients inside the cluster use it.
fn served_here(Inputs { key, kind, service, policy, node, .. }: &Inputs<'_>) -> Option<SocketAddr> {
    let server = policy.name_server.as_ref().filter(|server| server.service == service.key)?;
    let is_dns =
        *kind == FrontendKind::ClusterIp && key.port == name_server::PORT && key.protocol != Protocol::Sctp;
    is_dns.then(|| server.address(node.primary(key.address.family())))?
}

fn is_own_server(Inputs { policy, node, .. }: &Inputs<'_>, backend: &Backend) -> bool {
    let server = policy.name_server.as_ref();
    server.is_some_and(|server| server.is_endpoint(backend.address, node.owns(backend.address.ip())))
}

/// The internal and the external view. Traffic from inside the cluster to an external address is not external:
/// under `Local` it may use all endpoints (the short-circuit of kube-proxy's rule E5), as no load balancer
/// would send it to another node.
fn views(kind: FrontendKind, policy: TrafficPolicy, cluster: Vec<Backend>, local: View) -> (View, View) {
    let cluster = || View::new(cluster, WhenEmpty::Reject);
    match (policy, kind) {
        (TrafficPolicy::Cluster, _) => same_for_both(cluster()),
        (TrafficPolicy::Local, FrontendKind::ClusterIp) => same_for_both(local),
        (
            TrafficPolicy::Local,
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort,
        ) => (cluster(), local),
    }
}

fn same_for_both(view: View) -> (View, View) {
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

/// Sets the ranges of a load-balancer address. The Service's own addresses are admitted if the node is
/// (kube-proxy's rule H4).
fn add_source_ranges(frontend: &mut Frontend, inputs: &Inputs<'_>) {
    let family: IpFamily = inputs.key.address.family();
    let ranges = inputs.service.source_ranges.get(family);
    let node = inputs.node.primary(family);
    if ranges.iter().any(|range| range.contains(node)) {
        frontend.extra_sources = inputs.service.vips_of(family).collect();
    }
    frontend.source_ranges = ranges.to_vec();
}
