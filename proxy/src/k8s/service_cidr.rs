//! ServiceCIDRs: where ClusterIPs come from, and so where an address that no Service has leads nowhere.

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::{ObjectError, Read};
use crate::model::address::parse_network;

pub fn read(cidr: &ServiceCIDR) -> Read<Vec<IpNetwork>> {
    let mut left_out = Vec::new();
    let mut networks = Vec::new();
    let stated = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    for (n, text) in stated.iter().enumerate() {
        match parse_network(text) {
            Some(network) => networks.push(network),
            None => {
                left_out.push(ObjectError::Network { field: format!("spec.cidrs[{n}]"), value: text.clone() })
            }
        }
    }
    Read { value: networks, left_out }
}
