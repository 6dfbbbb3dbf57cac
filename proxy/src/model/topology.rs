//! The endpoints of a service port that this node may use: readiness, topology hints, and terminating endpoints
//! as the fallback (kube-proxy's rules D1 to D9).

use std::net::SocketAddr;

use arcstr::ArcStr;

use super::{
    backend::{Backend, BackendState, Candidate},
    service::TrafficPolicy,
};

/// This node's name and zone, which topology hints refer to.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    pub node: &'a str,
    pub zone: &'a str,
}

/// The endpoints of a service port in one family, sorted by address, without duplicates.
pub type Candidates<'a> = [(SocketAddr, &'a Candidate)];

/// The endpoint sets that the policies of a service port require (kube-proxy's rule B11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequiredSets {
    pub cluster: bool,
    pub local: bool,
}

impl RequiredSets {
    pub fn of(internal: TrafficPolicy, external: TrafficPolicy, is_externally_accessible: bool) -> Self {
        let internal_local = internal == TrafficPolicy::Local;
        Self {
            cluster: !internal_local || is_externally_accessible,
            local: internal_local || (external == TrafficPolicy::Local && is_externally_accessible),
        }
    }
}

/// The endpoints of one service port in one family, by use (kube-proxy's rules D3 and D4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSets {
    pub cluster: Vec<Backend>,
    pub local: Vec<Backend>,
    /// All serving endpoints, whether or not new flows may get them: established flows keep theirs
    /// (kube-proxy's rule L3).
    pub serving: Vec<Backend>,
    /// Whether the service port is not empty (kube-proxy's rule D7): decides between REJECT and DROP if a set
    /// is empty.
    pub has_any: bool,
    /// The topology hints in effect on the cluster set.
    pub hints: HintMode,
    /// Number of endpoints in any state.
    pub total: usize,
    /// Number of endpoints that some node may use.
    pub usable: usize,
}

impl EndpointSets {
    pub fn new(candidates: &Candidates<'_>, required: RequiredSets, location: Location<'_>) -> Self {
        let ready = candidates.iter().map(|(_, candidate)| *candidate).filter(|c| c.is_ready);
        let hints = HintMode::in_effect(ready, location);
        let cluster = if required.cluster { cluster_set(candidates, hints, location) } else { Vec::new() };
        let local = if required.local { local_set(candidates) } else { Vec::new() };
        let usable = candidates.iter().filter(|(_, candidate)| is_usable(candidate)).count();
        let has_any = !cluster.is_empty() || (required.local && usable > 0);
        let serving = serving_set(candidates);
        Self { cluster, local, serving, has_any, hints, total: candidates.len(), usable }
    }
}

fn is_usable(candidate: &Candidate) -> bool {
    candidate.is_ready || candidate.is_serving_terminating()
}

fn cluster_set(candidates: &Candidates<'_>, hints: HintMode, location: Location<'_>) -> Vec<Backend> {
    ready_or_terminating(candidates, |c| hints.allow(c, location), |_| true)
}

fn local_set(candidates: &Candidates<'_>) -> Vec<Backend> {
    ready_or_terminating(candidates, |c| c.is_local, |c| c.is_local)
}

fn serving_set(candidates: &Candidates<'_>) -> Vec<Backend> {
    let (terminating, others) = (BackendState::ServingTerminating, BackendState::Ready);
    let mut serving = select(candidates, others, |c| c.is_serving && !c.is_terminating);
    serving.extend(select(candidates, terminating, |c| c.is_serving && c.is_terminating));
    serving
}

fn ready_or_terminating(
    candidates: &Candidates<'_>,
    may_use_ready: impl Fn(&Candidate) -> bool,
    may_use_terminating: impl Fn(&Candidate) -> bool,
) -> Vec<Backend> {
    let ready = select(candidates, BackendState::Ready, |c| c.is_ready && may_use_ready(c));
    if !ready.is_empty() {
        return ready;
    }
    select(candidates, BackendState::ServingTerminating, |c| {
        c.is_serving_terminating() && may_use_terminating(c)
    })
}

fn select(
    candidates: &Candidates<'_>,
    state: BackendState,
    permitted: impl Fn(&Candidate) -> bool,
) -> Vec<Backend> {
    let mut selected = Vec::with_capacity(candidates.len());
    let permitted = candidates.iter().filter(|(_, candidate)| permitted(candidate));
    selected.extend(permitted.map(|(address, Candidate { is_local, .. })| Backend {
        address: *address,
        is_local: *is_local,
        state,
    }));
    selected
}

/// The kind of topology hint that narrows the cluster set. One ready endpoint without a hint disables that kind
/// of hint: otherwise the endpoints with hints would be overloaded (kube-proxy's rule D2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintMode {
    None,
    SameNode,
    SameZone,
}

impl HintMode {
    fn in_effect<'a>(ready: impl Iterator<Item = &'a Candidate> + Clone, location: Location<'_>) -> Self {
        let all_and_one = |hints: fn(&Candidate) -> &[ArcStr], name: &str| {
            !name.is_empty()
                && ready.clone().all(|c| !hints(c).is_empty())
                && ready.clone().any(|c| hints(c).iter().any(|hint| **hint == *name))
        };
        if all_and_one(Candidate::node_hints, location.node) {
            Self::SameNode
        } else if all_and_one(Candidate::zone_hints, location.zone) {
            Self::SameZone
        } else {
            Self::None
        }
    }

    fn allow(self, candidate: &Candidate, location: Location<'_>) -> bool {
        match self {
            Self::None => true,
            Self::SameNode => candidate.node_hints().iter().any(|hint| **hint == *location.node),
            Self::SameZone => candidate.zone_hints().iter().any(|hint| **hint == *location.zone),
        }
    }
}
