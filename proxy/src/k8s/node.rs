//! The Node object: addresses, zone, pod CIDRs, and whether the node is being removed.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;

use super::{ObjectError, key, label};
use crate::model::{
    address::{parse_ip, parse_network},
    node::NodeInfo,
};

const ZONE: &str = "topology.kubernetes.io/zone";
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

pub fn read(node: &Node) -> Result<NodeInfo, ObjectError> {
    let pod_cidrs = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    Ok(NodeInfo {
        name: key(&node.metadata)?.name.to_string(),
        addresses: addresses(node, "InternalIP").chain(addresses(node, "ExternalIP")).collect(),
        zone: label(&node.metadata, ZONE).unwrap_or_default().to_owned(),
        pod_cidrs: pod_cidrs.iter().filter_map(|text| parse_network(text)).collect(),
        is_eligible: node.metadata.deletion_timestamp.is_none() && !is_to_be_deleted(node),
    })
}

fn addresses<'a>(node: &'a Node, kind: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    addresses.iter().filter(move |entry| entry.type_ == kind).filter_map(|entry| parse_ip(&entry.address))
}

fn is_to_be_deleted(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == TO_BE_DELETED)
}
