//! EndpointSlices: the endpoints of a Service's ports, with their conditions.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};

use super::{
    HEADLESS, ObjectError, Parsed, address_of_family, has_label, key, label, names::intern, port, protocol,
};
use crate::model::{
    address::IpFamily,
    backend::{Candidate, PodIdentity, SliceInfo, SliceKey, SlicePort, SliceSource, TopologyHints},
    service::ServiceKey,
};

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

pub fn slice_key(slice: &EndpointSlice) -> Result<SliceKey, ObjectError> {
    let ServiceKey { namespace, name } = key(&slice.metadata)?;
    Ok(SliceKey { namespace, name, source: SliceSource::Slice })
}

/// Converts a slice. Returns `None` for a slice that the load balancer does not use: without a Service, headless, or FQDN.
/// The `service-proxy-name` label is ignored: slices inherit it from their Service, which decides.
///
/// Endpoints on node `node_name` are local.
pub fn read(slice: &EndpointSlice, node_name: &str) -> Result<Option<Parsed<SliceInfo>>, ObjectError> {
    let key = slice_key(slice)?;
    let service = label(&slice.metadata, SERVICE_NAME).filter(|name| !name.is_empty());
    let Some(service) = service.filter(|_| !has_label(&slice.metadata, HEADLESS)) else { return Ok(None) };
    let family = match slice.address_type.as_str() {
        "IPv4" => IpFamily::V4,
        "IPv6" => IpFamily::V6,
        "FQDN" => return Ok(None),
        other => return Err(ObjectError::AddressType(other.to_owned())),
    };
    let mut ignored = Vec::new();
    let value = SliceInfo {
        service: ServiceKey { namespace: key.namespace.clone(), name: intern(service) },
        key,
        family,
        ports: ports(slice, &mut ignored),
        candidates: candidates(slice, family, node_name, &mut ignored),
        triggered: triggered(slice),
    };
    Ok(Some(Parsed { value, ignored }))
}

/// The time the pod or Service changed, noted by the control plane. Returns `None` if it is missing or invalid.
fn triggered(slice: &EndpointSlice) -> Option<Timestamp> {
    slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?.parse().ok()
}

fn ports(slice: &EndpointSlice, ignored: &mut Vec<ObjectError>) -> Box<[SlicePort]> {
    let stated = slice.ports.as_deref().unwrap_or_default();
    let mut ports = Vec::with_capacity(stated.len());
    for (n, stated) in stated.iter().enumerate() {
        match slice_port(n, stated) {
            Ok(port) => ports.extend(port),
            // An invalid port matches no port of any Service; the slice's other ports may.
            Err(error) => ignored.push(error),
        }
    }
    ports.into()
}

/// Converts a port. Returns `None` without a name (an empty name is a name) or without a number: such a port matches no
/// Service port.
fn slice_port(n: usize, stated: &EndpointPort) -> Result<Option<SlicePort>, ObjectError> {
    let number = stated.port.filter(|number| *number != 0);
    let Some((name, number)) = stated.name.as_deref().zip(number) else { return Ok(None) };
    Ok(Some(SlicePort {
        name: intern(name),
        protocol: protocol(|| format!("ports[{n}].protocol"), stated.protocol.as_deref())?,
        port: port(|| format!("ports[{n}].port"), number)?,
    }))
}

fn candidates(
    slice: &EndpointSlice,
    family: IpFamily,
    node_name: &str,
    ignored: &mut Vec<ObjectError>,
) -> Box<[Candidate]> {
    let mut candidates = Vec::with_capacity(slice.endpoints.as_ref().map_or(0, Vec::len));
    for (n, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        // Only the first address counts: no consumer of EndpointSlices uses more.
        let Some(text) = endpoint.addresses.first() else { continue };
        match address_of_family(|| format!("endpoints[{n}].addresses[0]"), text, family) {
            Ok(ip) => candidates.push(candidate(endpoint, ip, node_name)),
            Err(error) => ignored.push(error),
        }
    }
    candidates.into()
}

fn candidate(endpoint: &Endpoint, ip: IpAddr, node_name: &str) -> Candidate {
    let conditions = endpoint.conditions.as_ref();
    let is_local = !node_name.is_empty() && endpoint.node_name.as_deref() == Some(node_name);
    Candidate {
        ip,
        is_ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        is_serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
        is_terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        is_local,
        identity: identity(endpoint),
        pod: pod(endpoint).filter(|_| is_local).map(Into::into),
        node: endpoint.node_name.as_deref().map(intern),
        zone: endpoint.zone.as_deref().map(intern),
        hints: endpoint.hints.as_ref().and_then(hints),
    }
}

fn identity(endpoint: &Endpoint) -> PodIdentity {
    let target = endpoint.target_ref.as_ref();
    let name = target.and_then(|target| target.uid.as_deref().or(target.name.as_deref()));
    name.map_or(PodIdentity::default(), PodIdentity::of)
}

fn pod(endpoint: &Endpoint) -> Option<&str> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    target?.name.as_deref()
}

fn hints(stated: &EndpointHints) -> Option<Box<TopologyHints>> {
    let zones = stated.for_zones.as_deref().unwrap_or_default();
    let nodes = stated.for_nodes.as_deref().unwrap_or_default();
    let hints = TopologyHints {
        zones: zones.iter().map(|zone| intern(&zone.name)).collect(),
        nodes: nodes.iter().map(|node| intern(&node.name)).collect(),
    };
    (hints != TopologyHints::default()).then(|| Box::new(hints))
}
