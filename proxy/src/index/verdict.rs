//! The verdict on one flow: which frontend it means, whether that one lets it in, and whom it may reach.

use super::{Index, reason};
use crate::model::{
    address::{IpFamily, Protocol},
    backend::{Backend, BackendState},
    flow::{Choice, Flow, Outcome, Plane, Verdict},
    frontend::{Frontend, FrontendAddress, FrontendKey, View, WhenEmpty},
    node::Source,
};

pub fn decide(index: &Index, flow: &Flow) -> Verdict {
    let source = index.node().source(flow.source);
    if IpFamily::of(flow.source) != IpFamily::of(flow.destination.ip()) {
        let reason =
            "source and destination are of different address families, and nothing translates across".into();
        return without_frontend(flow, source, Outcome::None, reason);
    }
    match frontend(index, flow) {
        Some(frontend) => through(index, flow, source, frontend),
        None => {
            let (outcome, reason) = unclaimed(index, flow);
            without_frontend(flow, source, outcome, reason)
        }
    }
}

/// An address that a Service claims for itself wins over the NodePort on an address of the node.
fn frontend(index: &Index, flow: &Flow) -> Option<Frontend> {
    let key = |address| FrontendKey { address, port: flow.destination.port(), protocol: flow.protocol };
    let address = flow.destination.ip();
    if let Some(frontend) = index.frontend(&key(FrontendAddress::Ip(address))) {
        return Some(frontend);
    }
    if !serves_nodeports(index, flow) {
        return None;
    }
    index.frontend(&key(FrontendAddress::NodePort(IpFamily::of(address))))
}

/// Loopback belongs to each network namespace alone: only the node itself can mean the node's.
pub fn serves_nodeports(index: &Index, flow: &Flow) -> bool {
    let (node, address) = (index.node(), flow.destination.ip());
    node.serves_nodeports(address) && (!address.is_loopback() || node.owns(flow.source))
}

fn through(index: &Index, flow: &Flow, source: Source, frontend: Frontend) -> Verdict {
    let (outcome, choices) = if frontend.admits(flow.source) {
        among(flow, source, &frontend)
    } else {
        (Outcome::Drop, Vec::new())
    };
    Verdict {
        outcome,
        source,
        plane: plane(flow, source, outcome, Some(&frontend)),
        reason: reason::through(index, flow, source, outcome, &frontend),
        choices,
        frontend: Some(frontend),
    }
}

fn among(flow: &Flow, source: Source, frontend: &Frontend) -> (Outcome, Vec<Choice>) {
    let View { backends, when_empty, .. } = frontend.view(source);
    let own =
        frontend.served_here.map(|address| Backend { address, is_local: true, state: BackendState::Ready });
    if own.is_none() && backends.is_empty() {
        let outcome = match when_empty {
            WhenEmpty::Reject => Outcome::Reject,
            WhenEmpty::Drop => Outcome::Drop,
        };
        return (outcome, Vec::new());
    }
    let by_policy = frontend.masquerade.applies_to(source);
    // A backend that dials itself would see its own address come in, and answer itself instead of the frontend.
    let choice = |backend: &Backend| {
        let is_hairpin = backend.is_local && backend.address.ip() == flow.source;
        Choice { backend: *backend, masquerade: by_policy || is_hairpin }
    };
    (Outcome::Dnat, own.iter().chain(backends.iter()).map(choice).collect())
}

/// No frontend has this address and port. Service addresses must not leak out even so.
fn unclaimed(index: &Index, flow: &Flow) -> (Outcome, String) {
    let address = flow.destination.ip();
    // What comes in from outside for an address of the node is delivered to the node.
    let is_delivered_here = index.node().owns(address) && !index.node().owns(flow.source);
    if is_delivered_here {
        return (Outcome::None, reason::not_ours(index, flow));
    }
    if let Some(owner) = index.cluster_ip_owner(address) {
        return (Outcome::Reject, reason::undefined_port(index, flow, owner));
    }
    match index.service_cidrs().find(|network| network.contains(address)) {
        Some(network) => (Outcome::Drop, reason::unallocated(address, network)),
        None => (Outcome::None, reason::not_ours(index, flow)),
    }
}

fn without_frontend(flow: &Flow, source: Source, outcome: Outcome, reason: String) -> Verdict {
    let plane = plane(flow, source, outcome, None);
    Verdict { outcome, source, frontend: None, choices: Vec::new(), plane, reason }
}

/// A connect hook knows neither the source address nor how to be silent, and SCTP does not pass it.
fn plane(flow: &Flow, source: Source, outcome: Outcome, frontend: Option<&Frontend>) -> Plane {
    let is_seen = source != Source::Outside && flow.protocol != Protocol::Sctp;
    let is_filtered = frontend.is_some_and(|frontend| !frontend.source_ranges.is_empty());
    if is_seen && !is_filtered && outcome != Outcome::Drop { Plane::Socket } else { Plane::Packet }
}
