//! What a `healthCheckNodePort` answers: how many endpoints of a Service this node can serve from itself.

use std::{collections::BTreeSet, net::IpAddr};

use super::Index;
use crate::model::{address::IpFamily, service::ServiceKey};

impl Index {
    /// The number of pods, not of ports: an address counts once. Terminating endpoints never count, so that a load
    /// balancer turns away while they still serve what they have.
    pub fn local_ready_endpoints(&self, service: &ServiceKey, family: IpFamily) -> usize {
        let Some(info) = self.service(service).filter(|info| info.is_served()) else { return 0 };
        let mut local: BTreeSet<IpAddr> = BTreeSet::new();
        for port in &info.ports {
            let candidates = self.candidates(&info.port_key(port), family);
            let counts = candidates.iter().filter(|(_, candidate)| candidate.is_ready && candidate.is_local);
            local.extend(counts.map(|(address, _)| address.ip()));
        }
        local.len()
    }
}
