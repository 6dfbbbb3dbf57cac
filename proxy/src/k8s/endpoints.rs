//! core/v1 Endpoints, converted to the slices that the control plane's EndpointSlice mirroring controller would create.
//! Mirroring also depends on the selector of the Service of the same name, which the index knows.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointSubset, Endpoints},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};

use super::{ObjectError, Parsed, endpoint_slice, key, label};
use crate::model::{
    address::parse_ip,
    backend::{SliceSource, Slices},
};

const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of leader election as it was before Leases: an Endpoints object without real endpoints.
pub(super) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// The control plane's default for `--mirroring-max-endpoints-per-subset`.
const MAX_PER_SUBSET: usize = 1000;

/// Converts an object. Returns `None` if it is not mirrored.
pub fn read(endpoints: &Endpoints, node_name: &str) -> Result<Option<Parsed<Slices>>, ObjectError> {
    let mut slices = Vec::new();
    let Parsed { value: mirrored, mut ignored } = mirror(endpoints)?;
    for slice in &mirrored {
        if let Some(mut read) = endpoint_slice::read(slice, node_name)? {
            let n = u32::try_from(slices.len()).unwrap_or(u32::MAX);
            read.value.key.source = SliceSource::Endpoints(n);
            slices.push(Arc::new(read.value));
            ignored.extend(read.ignored);
        }
    }
    Ok(is_mirrored(endpoints).then(|| Parsed { value: slices.into(), ignored }))
}

/// Creates one slice per subset and family, with the labels of the Endpoints object and its name as the Service name.
pub fn mirror(endpoints: &Endpoints) -> Result<Parsed<Vec<EndpointSlice>>, ObjectError> {
    let service = key(&endpoints.metadata)?;
    let mut ignored = Vec::new();
    let mut slices = Vec::new();
    if is_mirrored(endpoints) {
        let mut metadata = endpoints.metadata.clone();
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(endpoint_slice::SERVICE_NAME.to_owned(), service.name.to_string());
        for (n, subset) in endpoints.subsets.iter().flatten().enumerate() {
            for (address_type, endpoints) in per_family(n, subset, &mut ignored) {
                slices.push(EndpointSlice {
                    address_type: address_type.to_owned(),
                    endpoints: Some(endpoints),
                    metadata: metadata.clone(),
                    ports: Some(ports(subset)),
                });
            }
        }
    }
    Ok(Parsed { value: slices, ignored })
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let metadata = &endpoints.metadata;
    let elects_leader = metadata.annotations.as_ref().is_some_and(|map| map.contains_key(LEADER));
    label(metadata, SKIP_MIRROR) != Some("true") && !elects_leader
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let stated = subset.ports.iter().flatten();
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: port.protocol.clone(),
    };
    stated.map(port).collect()
}

/// Splits a subset by family. Ready addresses come first, so that the limit cuts off unready ones.
fn per_family(
    n: usize,
    subset: &EndpointSubset,
    ignored: &mut Vec<ObjectError>,
) -> impl Iterator<Item = (&'static str, Vec<Endpoint>)> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (address, is_ready) in ready.chain(unready).take(MAX_PER_SUBSET) {
        match parse_ip(&address.ip) {
            Some(IpAddr::V4(_)) => v4.push(endpoint(address, is_ready)),
            Some(IpAddr::V6(_)) => v6.push(endpoint(address, is_ready)),
            None => ignored.push(ObjectError::Address {
                field: format!("subsets[{n}].addresses"),
                value: address.ip.clone(),
            }),
        }
    }
    [("IPv4", v4), ("IPv6", v6)].into_iter().filter(|(_, endpoints)| !endpoints.is_empty())
}

fn endpoint(address: &EndpointAddress, is_ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(is_ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}
