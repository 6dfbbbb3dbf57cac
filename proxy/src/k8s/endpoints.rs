//! core/v1 Endpoints, turned into the slices that the control plane's mirroring would make of them. Whether they are
//! mirrored at all hangs on the Service of the same name too, which the index knows.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};

use super::{HEADLESS, ObjectError, Read, has_label, key, label, port, protocol};
use crate::model::{
    address::{IpFamily, parse_ip},
    backend::{Candidate, SliceInfo, SlicePort},
    service::ServiceKey,
};

const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Before Leases, leaders were elected by writing into Endpoints objects that nobody connects to.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// The control plane's default for `--mirroring-max-endpoints-per-subset`.
const MAX_PER_SUBSET: usize = 1000;

/// `None`: an object that is not mirrored.
pub fn read(endpoints: &Endpoints) -> Result<Option<Read<Arc<[SliceInfo]>>>, ObjectError> {
    let service = key(&endpoints.metadata)?;
    if !is_mirrored(endpoints) {
        return Ok(None);
    }
    let mut slices = Vec::new();
    let mut left_out = Vec::new();
    for (n, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let ports = ports(n, subset.ports.as_deref().unwrap_or_default())?;
        let candidates = candidates(n, subset, &mut left_out);
        slices.extend(per_family(&service, &ports, candidates));
    }
    Ok(Some(Read { value: slices.into(), left_out }))
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let metadata = &endpoints.metadata;
    let elects_leader = metadata.annotations.as_ref().is_some_and(|map| map.contains_key(LEADER));
    // The headless label would be copied to the slices, where it hides them.
    label(metadata, SKIP_MIRROR) != Some("true") && !elects_leader && !has_label(metadata, HEADLESS)
}

fn ports(subset: usize, stated: &[EndpointPort]) -> Result<Box<[SlicePort]>, ObjectError> {
    let mut ports = Vec::with_capacity(stated.len());
    for (n, stated) in stated.iter().enumerate() {
        let field = |name: &str| format!("subsets[{subset}].ports[{n}].{name}");
        ports.push(SlicePort {
            name: stated.name.as_deref().unwrap_or_default().into(),
            protocol: protocol(|| field("protocol"), stated.protocol.as_deref())?,
            port: port(|| field("port"), stated.port)?,
        });
    }
    Ok(ports.into())
}

fn candidates(n: usize, subset: &EndpointSubset, left_out: &mut Vec<ObjectError>) -> Vec<Candidate> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let mut candidates = Vec::new();
    for (address, is_ready) in ready.chain(unready).take(MAX_PER_SUBSET) {
        match parse_ip(&address.ip) {
            Some(ip) => candidates.push(candidate(address, ip, is_ready)),
            None => left_out.push(ObjectError::Address {
                field: format!("subsets[{n}].addresses"),
                value: address.ip.clone(),
            }),
        }
    }
    candidates
}

fn candidate(address: &EndpointAddress, ip: std::net::IpAddr, is_ready: bool) -> Candidate {
    Candidate {
        ip,
        is_ready,
        is_serving: true,
        is_terminating: false,
        node: address.node_name.as_deref().map(Arc::from),
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

fn per_family<'a>(
    service: &'a ServiceKey,
    ports: &'a [SlicePort],
    candidates: Vec<Candidate>,
) -> impl Iterator<Item = SliceInfo> + 'a {
    let (v4, v6): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.ip.is_ipv4());
    [(IpFamily::V4, v4), (IpFamily::V6, v6)].into_iter().filter(|(_, candidates)| !candidates.is_empty()).map(
        |(family, candidates)| SliceInfo {
            service: service.clone(),
            family,
            ports: ports.into(),
            candidates: candidates.into(),
        },
    )
}
