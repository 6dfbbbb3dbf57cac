//! The rows of kube-proxy's table of verdicts (rule E3), and the verdicts outside it.

use std::fmt;

use proxy::model::{
    flow::{Flow, FlowOutcome, FlowVerdict},
    frontend::FrontendKind,
    node::Source,
    service::TrafficPolicy,
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

    pub fn of(flow: &Flow, verdict: &FlowVerdict) -> Self {
        let Some(frontend) = &verdict.frontend else {
            return match verdict.outcome {
                FlowOutcome::Reject => Self::UndefinedPort,
                FlowOutcome::Drop => Self::Unallocated,
                FlowOutcome::Dnat | FlowOutcome::None => Self::NotOurs,
            };
        };
        let is_local = frontend.policy == TrafficPolicy::Local;
        if !frontend.admits(flow.source) {
            return Self::SourceRanges;
        }
        match (frontend.kind, verdict.outcome, verdict.source) {
            (FrontendKind::ClusterIp, FlowOutcome::Reject, _) => Self::ClusterIpEmpty,
            (FrontendKind::ClusterIp, FlowOutcome::Drop, _) => Self::ClusterIpLocalEmpty,
            (FrontendKind::ClusterIp, ..) if is_local => Self::ClusterIpLocal,
            (FrontendKind::ClusterIp, ..) => Self::ClusterIpCluster,
            (_, FlowOutcome::Reject, _) => Self::ExternalEmpty,
            (_, FlowOutcome::Drop, _) => Self::ExternalLocalEmpty,
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
