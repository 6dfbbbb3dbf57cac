//! Frontends with endpoints, of which policy Local allows none on this node: kube-proxy's
//! `no_local_endpoints` metric.

use std::collections::{BTreeMap, BTreeSet};

use super::agent_state::AgentState;
use crate::model::{
    address::IpFamily,
    frontend::{Frontend, FrontendKey, FrontendKind, View, WhenEmpty},
    service::{ServicePortKey, TrafficPolicy},
};

/// The frontends are few, so they are counted anew for each pass.
#[derive(Default)]
pub struct NoLocalEndpoints {
    lacking: BTreeMap<FrontendKey, (bool, ServicePortKey)>,
}

impl NoLocalEndpoints {
    pub fn update(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        match frontend.filter(|frontend| drops_for_policy(frontend)) {
            Some(frontend) => {
                let is_internal = frontend.kind == FrontendKind::ClusterIp;
                self.lacking.insert(key, (is_internal, frontend.service.clone()));
            }
            None => drop(self.lacking.remove(&key)),
        }
    }

    pub fn publish(&self, state: &AgentState) {
        for family in IpFamily::BOTH {
            state.set_no_local_endpoints(FrontendKind::ClusterIp, family, self.count(true, family));
            state.set_no_local_endpoints(FrontendKind::NodePort, family, self.count(false, family));
        }
    }

    /// Counts service ports, not frontends.
    fn count(&self, is_internal: bool, family: IpFamily) -> usize {
        let of = self
            .lacking
            .iter()
            .filter(|(key, (internal, _))| *internal == is_internal && key.address.family() == family);
        of.map(|(_, (_, service))| service).collect::<BTreeSet<_>>().len()
    }
}

/// Dropping means that the policy excludes all endpoints; without any endpoint the frontend would reject.
fn drops_for_policy(frontend: &Frontend) -> bool {
    let view: &View = match frontend.kind {
        FrontendKind::ClusterIp => &frontend.internal,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => &frontend.external,
    };
    frontend.policy == TrafficPolicy::Local && view.backends.is_empty() && view.when_empty == WhenEmpty::Drop
}
