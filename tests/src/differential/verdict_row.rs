//! The rows of kube-proxy's table of verdicts (rule E3), and the verdicts outside it.

use std::fmt;

use proxy::model::{
    flow::{Flow, Outcome, Verdict},
    frontend::FrontendKind,
    node::Source,
    policy::TrafficPolicy,
};

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VerdictRow {
    ClusterIpEmpty,
    ClusterIpCluster,
    ClusterIpLocal,
    ClusterIpLocalEmpty,
    ExternalEmpty,
    ExternalCluster,
    ExternalLocalFromPod,
    ExternalLocalFromNode,
    ExternalLocal,
    ExternalLocalEmpty,
    SourceRanges,
    UndefinedPort,
    Unallocated,
    NotOurs,
}

impl VerdictRow {
    pub const ALL: [Self; 14] = [
        Self::ClusterIpEmpty,
        Self::ClusterIpCluster,
        Self::ClusterIpLocal,
        Self::ClusterIpLocalEmpty,
        Self::ExternalEmpty,
        Self::ExternalCluster,
        Self::ExternalLocalFromPod,
        Self::ExternalLocalFromNode,
        Self::ExternalLocal,
        Self::ExternalLocalEmpty,
        Self::SourceRanges,
        Self::UndefinedPort,
        Self::Unallocated,
        Self::NotOurs,
    ];

    pub fn of(flow: &Flow, verdict: &Verdict) -> Self {
        let Some(frontend) = &verdict.frontend else {
            return match verdict.outcome {
                Outcome::Reject => Self::UndefinedPort,
                Outcome::Drop => Self::Unallocated,
                Outcome::Dnat | Outcome::None => Self::NotOurs,
            };
        };
        let is_local = frontend.policy == TrafficPolicy::Local;
        if !frontend.admits(flow.source) {
            return Self::SourceRanges;
        }
        match (frontend.kind, verdict.outcome, verdict.source) {
            (FrontendKind::ClusterIp, Outcome::Reject, _) => Self::ClusterIpEmpty,
            (FrontendKind::ClusterIp, Outcome::Drop, _) => Self::ClusterIpLocalEmpty,
            (FrontendKind::ClusterIp, ..) if is_local => Self::ClusterIpLocal,
            (FrontendKind::ClusterIp, ..) => Self::ClusterIpCluster,
            (_, Outcome::Reject, _) => Self::ExternalEmpty,
            (_, Outcome::Drop, _) => Self::ExternalLocalEmpty,
            (_, _, _) if !is_local => Self::ExternalCluster,
            (_, _, Source::Pod) => Self::ExternalLocalFromPod,
            (_, _, Source::Node) => Self::ExternalLocalFromNode,
            (_, _, Source::Outside) => Self::ExternalLocal,
        }
    }
}

impl fmt::Display for VerdictRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
