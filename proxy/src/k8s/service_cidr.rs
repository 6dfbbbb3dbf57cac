//! ServiceCIDRs (KEP-1880): the networks of ClusterIPs. An address in one of them that no Service has is unreachable.

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::{ObjectError, Parsed};
use crate::model::address::parse_network;

pub fn read(cidr: &ServiceCIDR) -> Parsed<Vec<IpNetwork>> {
    let mut ignored = Vec::new();
    let mut networks = Vec::new();
    let stated = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    for (n, text) in stated.iter().enumerate() {
        match parse_network(text) {
            Some(network) => networks.push(network),
            None => {
                ignored.push(ObjectError::Network { field: format!("spec.cidrs[{n}]"), value: text.clone() })
            }
        }
    }
    Parsed { value: networks, ignored }
}
