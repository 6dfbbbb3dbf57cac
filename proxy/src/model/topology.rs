//! Which endpoints of a service port may be used from this node: readiness, topology hints, the terminating fallback.

use std::net::SocketAddr;

use arcstr::ArcStr;

use super::{
    backend::{Backend, BackendState, Candidate},
    policy::TrafficPolicy,
};

/// Where we are, as far as hints care.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub node: &'a str,
    pub zone: &'a str,
}

/// The endpoints of a service port in one family by their addresses, in order, each once.
pub type Candidates<'a> = [(SocketAddr, &'a Candidate)];

/// Which of the two sets the policies of a service port ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    pub cluster: bool,
    pub local: bool,
}

impl Uses {
    pub fn of(internal: TrafficPolicy, external: TrafficPolicy, is_externally_accessible: bool) -> Self {
        let internal_local = internal == TrafficPolicy::Local;
        Self {
            cluster: !internal_local || is_externally_accessible,
            local: internal_local || (external == TrafficPolicy::Local && is_externally_accessible),
        }
    }
}

/// The endpoints of one service port in one family, sorted by what they may be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSets {
    pub cluster: Vec<Backend>,
    pub local: Vec<Backend>,
    /// Every serving endpoint, offered or not: flows that have one may keep it (kube-proxy's rule L3).
    pub serving: Vec<Backend>,
    /// Whether anybody anywhere can serve: tells "refuse" from "not from here".
    pub has_any: bool,
    /// What narrowed the cluster set down.
    pub hints: Hints,
    /// How many endpoints there are in any state, and how many of them could serve somebody.
    pub known: usize,
    pub able: usize,
}

impl EndpointSets {
    pub fn new(candidates: &Candidates<'_>, uses: Uses, place: Place<'_>) -> Self {
        let ready = candidates.iter().map(|(_, candidate)| *candidate).filter(|c| c.is_ready);
        let hints = Hints::in_force(ready, place);
        let cluster = if uses.cluster { cluster_set(candidates, hints, place) } else { Vec::new() };
        let local = if uses.local { local_set(candidates) } else { Vec::new() };
        let able = candidates.iter().filter(|(_, candidate)| can_serve(candidate)).count();
        let has_any = !cluster.is_empty() || (uses.local && able > 0);
        let serving = serving_set(candidates);
        Self { cluster, local, serving, has_any, hints, known: candidates.len(), able }
    }
}

fn can_serve(candidate: &Candidate) -> bool {
    candidate.is_ready || candidate.is_last_resort()
}

fn cluster_set(candidates: &Candidates<'_>, hints: Hints, place: Place<'_>) -> Vec<Backend> {
    ready_or_last_resort(candidates, |c| hints.allow(c, place), |_| true)
}

fn local_set(candidates: &Candidates<'_>) -> Vec<Backend> {
    ready_or_last_resort(candidates, |c| c.is_local, |c| c.is_local)
}

fn serving_set(candidates: &Candidates<'_>) -> Vec<Backend> {
    let (terminating, others) = (BackendState::ServingTerminating, BackendState::Ready);
    let mut serving = select(candidates, others, |c| c.is_serving && !c.is_terminating);
    serving.extend(select(candidates, terminating, |c| c.is_serving && c.is_terminating));
    serving
}

fn ready_or_last_resort(
    candidates: &Candidates<'_>,
    may_use_ready: impl Fn(&Candidate) -> bool,
    may_use_terminating: impl Fn(&Candidate) -> bool,
) -> Vec<Backend> {
    let ready = select(candidates, BackendState::Ready, |c| c.is_ready && may_use_ready(c));
    if !ready.is_empty() {
        return ready;
    }
    select(candidates, BackendState::ServingTerminating, |c| c.is_last_resort() && may_use_terminating(c))
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

/// Which kind of topology hint narrows the cluster set. One ready endpoint without a hint disables its kind, for a
/// half-hinted Service would overload the hinted endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hints {
    None,
    SameNode,
    SameZone,
}

impl Hints {
    fn in_force<'a>(ready: impl Iterator<Item = &'a Candidate> + Clone, place: Place<'_>) -> Self {
        let all_and_one = |hints: fn(&Candidate) -> &[ArcStr], name: &str| {
            !name.is_empty()
                && ready.clone().all(|c| !hints(c).is_empty())
                && ready.clone().any(|c| hints(c).iter().any(|hint| **hint == *name))
        };
        if all_and_one(Candidate::node_hints, place.node) {
            Self::SameNode
        } else if all_and_one(Candidate::zone_hints, place.zone) {
            Self::SameZone
        } else {
            Self::None
        }
    }

    fn allow(self, candidate: &Candidate, place: Place<'_>) -> bool {
        match self {
            Self::None => true,
            Self::SameNode => candidate.node_hints().iter().any(|hint| **hint == *place.node),
            Self::SameZone => candidate.zone_hints().iter().any(|hint| **hint == *place.zone),
        }
    }
}
