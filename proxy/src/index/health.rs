//! The number behind a `healthCheckNodePort`: ready endpoints of a Service on this node.

use std::{collections::BTreeSet, net::IpAddr};

use super::Index;
use crate::model::{address::IpFamily, service::ServiceKey};

impl Index {
    /// The number of addresses, not of ports. Terminating endpoints do not count: a load balancer then stops
    /// sending new connections while they finish the established ones.
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
