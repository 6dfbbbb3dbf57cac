//! The endpoints of a service port that a flow cannot get, each with the rule that keeps it out.

use std::net::SocketAddr;

use super::Index;
use crate::model::{
    backend::Candidate,
    frontend::{Frontend, FrontendKind},
    node::Source,
    service::TrafficPolicy,
    topology::HintMode,
};

/// Why an endpoint is out (kube-proxy's rules D1 to D9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    NotReady,
    /// Terminating, and no longer serving.
    Terminated,
    /// Terminating but serving, while others are ready.
    Terminating,
    /// The policy is `Local`.
    OtherNode,
    /// Topology hints prefer others.
    Hinted,
    /// SCTP's checksum allows no other port.
    SctpPort,
}

impl Exclusion {
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotReady => "not ready",
            Self::Terminated => "terminating, and no longer serving",
            Self::Terminating => "terminating, while others are ready",
            Self::OtherNode => "on another node, and the traffic policy is Local",
            Self::Hinted => "for other nodes or zones by its topology hints",
            Self::SctpPort => "another port, and SCTP's checksum allows no translation of ports",
        }
    }
}

impl Index {
    /// The endpoints of a frontend's service port that its flows from a source cannot get.
    pub fn excluded(&self, frontend: &Frontend, source: Source) -> Vec<(SocketAddr, Exclusion)> {
        let family = frontend.key.address.family();
        let view = frontend.view(source);
        let Some(service) = self.service(&frontend.service.service) else { return Vec::new() };
        let Some(port) = service.port(&frontend.service) else { return Vec::new() };
        let hints = self.endpoint_sets(service, port, family).hints;
        let is_local_view = frontend.policy == TrafficPolicy::Local
            && (frontend.kind == FrontendKind::ClusterIp || source == Source::Outside);
        let excluded =
            self.candidates(&frontend.service, family).into_iter().filter_map(|(address, candidate)| {
                let found = view.backends.iter().find(|backend| backend.address == address);
                match found {
                    Some(backend) => frontend.refuses(backend).then_some((address, Exclusion::SctpPort)),
                    None => Some((address, reason(candidate, is_local_view, hints))),
                }
            });
        excluded.collect()
    }
}

fn reason(candidate: &Candidate, is_local_view: bool, hints: HintMode) -> Exclusion {
    let is_usable = candidate.is_ready || candidate.is_serving_terminating();
    if !is_usable {
        if candidate.is_terminating { Exclusion::Terminated } else { Exclusion::NotReady }
    } else if is_local_view && !candidate.is_local {
        Exclusion::OtherNode
    } else if candidate.is_ready && hints != HintMode::None {
        Exclusion::Hinted
    } else {
        Exclusion::Terminating
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        manifests,
        model::{address::Protocol, flow::Flow, policy::Policy},
    };

    const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.10, internalTrafficPolicy: POLICY, ports: [{port: 80}, {port: 80, name: s, protocol: SCTP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}, {name: s, port: 8080, protocol: SCTP}]
endpoints:
- {addresses: [10.1.0.1], nodeName: node-1}
- {addresses: [10.1.0.2], nodeName: node-1, conditions: {ready: false}}
- {addresses: [10.1.0.3], nodeName: node-1, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.4], nodeName: node-1, conditions: {ready: false, serving: false, terminating: true}}
- {addresses: [10.2.0.1], nodeName: node-2}
"#;

    fn excluded(policy: &str, protocol: Protocol) -> Vec<(String, Exclusion)> {
        let node = Policy { node_name: "node-1".to_owned(), ..Policy::default() };
        let (index, _) = manifests::parse("objects.yaml", &OBJECTS.replace("POLICY", policy)).to_index(node);
        let destination = "10.96.0.10:80".parse().unwrap();
        let verdict = index.explain(&Flow { source: "10.1.0.9".parse().unwrap(), destination, protocol });
        let excluded = index.excluded(&verdict.frontend.unwrap(), verdict.source);
        excluded.into_iter().map(|(address, why)| (address.ip().to_string(), why)).collect()
    }

    #[test]
    fn each_endpoint_is_out_for_a_reason() {
        let always = [
            ("10.1.0.2".to_owned(), Exclusion::NotReady),
            ("10.1.0.3".to_owned(), Exclusion::Terminating),
            ("10.1.0.4".to_owned(), Exclusion::Terminated),
        ];
        assert_eq!(excluded("Cluster", Protocol::Tcp), always);
        let other = ("10.2.0.1".to_owned(), Exclusion::OtherNode);
        assert_eq!(excluded("Local", Protocol::Tcp), [&always[..], &[other]].concat());
        let sctp = excluded("Cluster", Protocol::Sctp);
        assert_eq!(sctp.iter().filter(|(_, why)| *why == Exclusion::SctpPort).count(), 2, "{sctp:?}");
    }
}
