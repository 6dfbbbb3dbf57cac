//! Why a flow gets its verdict, in words for an operator.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Index, verdict};
use crate::model::{
    address::IpFamily,
    backend::BackendState,
    flow::{Flow, Outcome},
    frontend::{Frontend, FrontendAddress, FrontendKey, FrontendKind, Masquerade},
    node::Source,
    policy::TrafficPolicy,
    service::ServiceKey,
    topology::{EndpointSets, Hints},
};

pub fn through(index: &Index, flow: &Flow, source: Source, outcome: Outcome, frontend: &Frontend) -> String {
    let words = match outcome {
        Outcome::Drop if !frontend.admits(flow.source) => not_admitted(flow, frontend),
        Outcome::Drop => nothing_here(index, frontend),
        Outcome::Reject => nothing_anywhere(index, frontend),
        Outcome::Dnat | Outcome::None => translated(index, source, frontend),
    };
    words + guess(index)
}

pub fn undefined_port(index: &Index, flow: &Flow, owner: &ServiceKey) -> String {
    let ports: Vec<_> = index
        .service(owner)
        .map(|service| &*service.ports)
        .unwrap_or_default()
        .iter()
        .map(|port| format!("{}/{}", port.port, port.protocol))
        .collect();
    let defined = if ports.is_empty() { "no port".to_owned() } else { ports.join(", ") };
    let asked = format!("{}/{}", flow.destination.port(), flow.protocol);
    format!("{} is the ClusterIP of {owner}, which defines {defined} and not {asked}", flow.destination.ip())
}

pub fn unallocated(address: IpAddr, network: IpNetwork) -> String {
    format!(
        "{address} is inside the ServiceCIDR {network}, but no Service served here has it as its ClusterIP"
    )
}

pub fn not_ours(index: &Index, flow: &Flow) -> String {
    let address = flow.destination.ip();
    let family = IpFamily::of(address);
    let (port, protocol) = (flow.destination.port(), flow.protocol);
    let node_port =
        index.frontend(&FrontendKey { address: FrontendAddress::NodePort(family), port, protocol });
    match node_port {
        Some(frontend) if index.node().owns(address) && !verdict::serves_nodeports(index, flow) => {
            format!(
                "{port}/{protocol} is a NodePort of {}, but {}",
                frontend.service,
                why_not_served(address)
            )
        }
        _ => format!("no Service has {address} with port {port}/{protocol}"),
    }
}

fn why_not_served(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => {
            format!(
                "{address} serves NodePorts only to the node itself, with --localhost-nodeports on and no \
                     --nodeport-addresses that leave it out"
            )
        }
        IpAddr::V6(v6) if v6.is_loopback() => "::1 never serves NodePorts".to_owned(),
        IpAddr::V4(_) | IpAddr::V6(_) => format!("--nodeport-addresses does not include {address}"),
    }
}

fn not_admitted(flow: &Flow, frontend: &Frontend) -> String {
    let ranges: Vec<_> = frontend.source_ranges.iter().map(IpNetwork::to_string).collect();
    let service = &frontend.service.service;
    format!("{} is in none of the loadBalancerSourceRanges of {service} ({})", flow.source, ranges.join(", "))
}

fn nothing_here(index: &Index, frontend: &Frontend) -> String {
    let able = sets(index, frontend).map_or(0, |sets| sets.able);
    let service = &frontend.service;
    format!(
        "{} is Local and this node has no ready endpoint of {service}; {} on other nodes",
        policy_field(frontend.kind),
        number_are(able)
    )
}

fn nothing_anywhere(index: &Index, frontend: &Frontend) -> String {
    let service = &frontend.service;
    let family = frontend.key.address.family();
    match sets(index, frontend).map_or(0, |sets| sets.known) {
        0 => format!("{service} has no {family} endpoints"),
        1 => format!("the only {family} endpoint of {service} is not ready"),
        known => format!("none of the {} {family} endpoints of {service} is ready", number(known)),
    }
}

fn translated(index: &Index, source: Source, frontend: &Frontend) -> String {
    match frontend.served_here {
        Some(server) => {
            let service = &frontend.service;
            let others = match frontend.view(source).backends.len() {
                0 => "nobody else".to_owned(),
                _ => among(index, source, frontend),
            };
            format!("served on this node: {server} answers for {service} while it lives, and else {others}")
        }
        None => among(index, source, frontend),
    }
}

fn among(index: &Index, source: Source, frontend: &Frontend) -> String {
    let view = frontend.view(source);
    let count = match view.backends.len() {
        1 => "one endpoint".to_owned(),
        n => format!("{} endpoints", number(n)),
    };
    let mut words = format!("{} may use {count} of {}", who(source), frontend.service);
    let is_terminating =
        view.backends.iter().any(|backend| backend.state == BackendState::ServingTerminating);
    if is_terminating {
        words += ", terminating but still serving: none is ready";
    }
    words += &narrowing(index, source, frontend, is_terminating);
    words += masquerading(source, frontend);
    words
}

/// Which policy or hint made the set what it is.
fn narrowing(index: &Index, source: Source, frontend: &Frontend, is_terminating: bool) -> String {
    let is_local = frontend.policy == TrafficPolicy::Local;
    if is_local && (frontend.kind == FrontendKind::ClusterIp || source == Source::Outside) {
        return format!("; {} is Local, so only those on this node", policy_field(frontend.kind));
    }
    let mut words = String::new();
    if is_local {
        words += "; externalTrafficPolicy is Local, which does not bind traffic from inside the cluster";
    }
    match sets(index, frontend).map_or(Hints::None, |sets| sets.hints) {
        Hints::SameNode if !is_terminating => words += "; topology hints keep it on this node",
        Hints::SameZone if !is_terminating => {
            words += &format!("; topology hints keep it in zone {}", index.node().zone);
        }
        Hints::None | Hints::SameNode | Hints::SameZone => {}
    }
    words
}

fn masquerading(source: Source, frontend: &Frontend) -> &'static str {
    match frontend.masquerade {
        mode if !mode.applies_to(source) => "",
        Masquerade::Always if frontend.kind == FrontendKind::ClusterIp => "; masqueraded by --masquerade-all",
        Masquerade::Always => "; masqueraded, so that the reply comes back through this node",
        Masquerade::UnlessFromPod => "; masqueraded, as it does not come from a pod",
        Masquerade::FromNode => "; masqueraded, as it comes from the node",
        Masquerade::Never => "",
    }
}

/// Said whenever the source had to be guessed.
fn guess(index: &Index) -> &'static str {
    if index.node().detect_local.is_by_interface() {
        " (pods are told by their interface, which an address does not show: taken for pods are the addresses in \
         the node's pod CIDRs, or else in --cluster-cidr)"
    } else {
        ""
    }
}

fn sets(index: &Index, frontend: &Frontend) -> Option<EndpointSets> {
    let service = index.service(&frontend.service.service)?;
    let port = service.port(&frontend.service)?;
    Some(index.endpoint_sets(service, port, frontend.key.address.family()))
}

fn policy_field(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "internalTrafficPolicy",
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => {
            "externalTrafficPolicy"
        }
    }
}

fn who(source: Source) -> &'static str {
    match source {
        Source::Pod => "a pod",
        Source::Node => "the node",
        Source::Outside => "a client outside",
    }
}

fn number_are(n: usize) -> String {
    if n == 1 { "one is".to_owned() } else { format!("{} are", number(n)) }
}

fn number(n: usize) -> String {
    const WORDS: [&str; 13] = [
        "none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve",
    ];
    WORDS.get(n).map_or_else(|| n.to_string(), |word| (*word).to_owned())
}
