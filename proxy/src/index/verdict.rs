//! The verdict on one flow: its frontend, whether the frontend admits its source, and the backends that it may
//! get.

use std::collections::BTreeMap;

use proxy_ebpf::abi::DropReason;

use super::{Index, reason};
use crate::model::{
    address::{IpFamily, Protocol},
    backend::{Backend, BackendState},
    flow::{BackendChoice, Flow, FlowOutcome, FlowVerdict, Plane},
    frontend::{Frontend, FrontendAddress, FrontendKey, View, WhenEmpty},
    node::Source,
    reason::Reason,
};

/// Frontends that are not in the tables of the node, with the reason.
pub type NotProgrammed = BTreeMap<FrontendKey, String>;

impl Index {
    /// Decides a flow as the data plane does.
    pub fn explain(&self, flow: &Flow) -> FlowVerdict {
        self.explain_without(flow, &NotProgrammed::new())
    }

    /// Like `explain`, on a node that lacks some frontends.
    pub fn explain_without(&self, flow: &Flow, missing: &NotProgrammed) -> FlowVerdict {
        let source = self.node().source(flow.source);
        if IpFamily::of(flow.source) != IpFamily::of(flow.destination.ip()) {
            return without_frontend(self, flow, source, FlowOutcome::None, Reason::MixedFamilies);
        }
        let mut candidates = candidates(self, flow);
        let is_programmed = |frontend: &Frontend| !missing.contains_key(&frontend.key);
        if let Some(at) = candidates.iter().position(is_programmed) {
            return with_frontend(self, flow, source, candidates.swap_remove(at));
        }
        let (outcome, reason) = unclaimed(self, flow);
        let Some((first, cause)) =
            candidates.first().and_then(|first| Some((first, missing.get(&first.key)?)))
        else {
            return without_frontend(self, flow, source, outcome, reason);
        };
        let reason = Reason::NotProgrammed { service: first.service.clone(), cause: cause.clone() };
        FlowVerdict {
            frontend: candidates.into_iter().next(),
            ..without_frontend(self, flow, source, outcome, reason)
        }
    }

    /// The reason, with the data of the objects, for a refusal that the kernel reports for a flow.
    pub fn explain_refusal(&self, flow: &Flow, reason: DropReason) -> Reason {
        let FlowVerdict { reason: modelled, frontend, .. } = self.explain(flow);
        Reason::of_refusal(reason, modelled, frontend.map(|frontend| frontend.service))
    }
}

/// An address that a Service claims precedes the NodePorts on an address of the node (kube-proxy's rule E1).
fn candidates(index: &Index, flow: &Flow) -> Vec<Frontend> {
    let key = |address| FrontendKey { address, port: flow.destination.port(), protocol: flow.protocol };
    let address = flow.destination.ip();
    let claimed = index.frontend(&key(FrontendAddress::Ip(address)));
    let serves_nodeports = index.node().serves_nodeport_to(address, flow.source, flow.protocol);
    let node_port =
        serves_nodeports.then(|| index.frontend(&key(FrontendAddress::NodePort(IpFamily::of(address)))));
    claimed.into_iter().chain(node_port.flatten()).collect()
}

fn with_frontend(index: &Index, flow: &Flow, source: Source, frontend: Frontend) -> FlowVerdict {
    let (outcome, choices) = if frontend.admits(flow.source) {
        choices(flow, source, &frontend)
    } else {
        (FlowOutcome::Drop, Vec::new())
    };
    FlowVerdict {
        outcome,
        source,
        is_source_inferred: index.node().detect_local.is_by_interface(),
        plane: plane(index, flow, source, outcome, Some(&frontend)),
        reason: reason::of_frontend(index, flow, source, outcome, &frontend),
        choices,
        frontend: Some(frontend),
    }
}

fn choices(flow: &Flow, source: Source, frontend: &Frontend) -> (FlowOutcome, Vec<BackendChoice>) {
    let View { backends, when_empty, .. } = frontend.view(source);
    let own =
        frontend.served_here.map(|address| Backend { address, is_local: true, state: BackendState::Ready });
    if own.is_none() && backends.is_empty() {
        let outcome = match when_empty {
            WhenEmpty::Reject => FlowOutcome::Reject,
            WhenEmpty::Drop => FlowOutcome::Drop,
        };
        return (outcome, Vec::new());
    }
    let by_policy = frontend.masquerade.applies_to(source);
    // Without SNAT a backend that reaches itself through the frontend would see its own address as the source,
    // and reply to itself past the reverse NAT.
    let choice = |backend: &Backend| {
        let is_hairpin = backend.is_local && backend.address.ip() == flow.source;
        BackendChoice { backend: *backend, masquerade: by_policy || is_hairpin }
    };
    let served = own.iter().chain(backends.iter()).filter(|backend| !frontend.refuses(backend));
    let choices: Vec<_> = served.map(choice).collect();
    (if choices.is_empty() { FlowOutcome::Reject } else { FlowOutcome::Dnat }, choices)
}

/// The outcome if no frontend has this address and port. Packets to Service addresses must not leave the node
/// even so.
fn unclaimed(index: &Index, flow: &Flow) -> (FlowOutcome, Reason) {
    let address = flow.destination.ip();
    // Packets that enter the node for one of its addresses are delivered to the node.
    let is_delivered_here = index.node().owns(address) && !index.node().owns(flow.source);
    if is_delivered_here {
        return (FlowOutcome::None, reason::not_service_traffic(index, flow));
    }
    if let Some(owner) = index.cluster_ip_owner(address) {
        return (FlowOutcome::Reject, reason::undefined_port(index, flow, owner));
    }
    match index.service_cidrs().find(|network| network.contains(address)) {
        Some(network) => (FlowOutcome::Drop, Reason::UnallocatedAddress { address, network }),
        None => (FlowOutcome::None, reason::not_service_traffic(index, flow)),
    }
}

fn without_frontend(
    index: &Index,
    flow: &Flow,
    source: Source,
    outcome: FlowOutcome,
    reason: Reason,
) -> FlowVerdict {
    FlowVerdict {
        outcome,
        source,
        is_source_inferred: index.node().detect_local.is_by_interface(),
        frontend: None,
        choices: Vec::new(),
        plane: plane(index, flow, source, outcome, None),
        reason,
    }
}

/// The connect hook cannot drop silently, and SCTP sockets do not pass it. It knows the source of the node's connections to its own
/// addresses alone.
fn plane(
    index: &Index,
    flow: &Flow,
    source: Source,
    outcome: FlowOutcome,
    frontend: Option<&Frontend>,
) -> Plane {
    let is_seen = source != Source::Outside && flow.protocol != Protocol::Sctp;
    let is_filtered = frontend.is_some_and(|frontend| !frontend.source_ranges.is_empty());
    let is_source_known = source == Source::Node && index.node().owns(flow.destination.ip());
    let is_decided = !is_filtered || is_source_known;
    if is_seen && is_decided && outcome != FlowOutcome::Drop { Plane::Socket } else { Plane::Packet }
}
