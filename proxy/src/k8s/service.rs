//! Services, with the API server's defaults. Values that the API server would refuse and kube-proxy tolerates are
//! tolerated.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    num::NonZeroU32,
};

use arcstr::ArcStr;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};

use super::{
    ObjectError, Parsed, SERVICE_PROXY_NAME, address_of_family, has_label, key, names::intern, port,
    protocol, specified_address,
};
use crate::model::{
    address::{IpFamily, PerFamily, parse_network},
    service::{Exclusion, PortInfo, ServiceInfo, TrafficPolicy},
    small_list::SmallList,
};

const DEFAULT_AFFINITY_SECONDS: NonZeroU32 = NonZeroU32::new(10_800).expect("three hours are not zero");

pub fn read(service: &Service) -> Result<Parsed<ServiceInfo>, ObjectError> {
    let no_spec = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&no_spec);
    let mut info = ServiceInfo {
        key: key(&service.metadata)?,
        exclusion: exclusion(service, spec),
        has_selector: spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()),
        cluster_ips: PerFamily::default(),
        local_ips: SmallList::default(),
        ports: Box::default(),
        external_ips: SmallList::default(),
        vips: SmallList::default(),
        source_ranges: PerFamily::default(),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: external_policy(spec),
        affinity: affinity(spec),
        health_check_node_port: health_check_node_port(spec),
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
        labels: labels(service).into(),
    };
    let mut ignored = Vec::new();
    if info.is_served() {
        info.cluster_ips = cluster_ips(spec, &mut ignored)?;
        info.ports = ports(spec, &mut ignored)?.into();
        info.external_ips = external_ips(spec, &mut ignored).into();
        info.vips = vips(service, &mut ignored).into();
        info.source_ranges = source_ranges(spec, &mut ignored);
    }
    ignored.extend(without_address(&info));
    Ok(Parsed { value: info, ignored })
}

fn labels(service: &Service) -> Vec<(ArcStr, ArcStr)> {
    let labels = service.metadata.labels.iter().flatten();
    labels.map(|(key, value)| (intern(key), intern(value))).collect()
}

fn exclusion(service: &Service, spec: &ServiceSpec) -> Option<Exclusion> {
    if has_label(&service.metadata, SERVICE_PROXY_NAME) {
        return Some(Exclusion::ForeignProxy);
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(Exclusion::ExternalName);
    }
    match spec.cluster_ip.as_deref() {
        None | Some("") => Some(Exclusion::NoClusterIp),
        Some("None") => Some(Exclusion::Headless),
        Some(_) => None,
    }
}

/// Returns the error of a Service that lacks an address but is served otherwise.
fn without_address(info: &ServiceInfo) -> Option<ObjectError> {
    if info.exclusion == Some(Exclusion::NoClusterIp) {
        return Some(ObjectError::NoClusterIp);
    }
    let has_none = info.cluster_ips == PerFamily::default();
    (info.is_served() && has_none).then_some(ObjectError::NoClusterIps)
}

/// The ClusterIP of each family. Objects from before dual-stack have no `ipFamilies`: their family is that of
/// `clusterIP`. An invalid address costs its own family only. Errors: no valid address is left.
fn cluster_ips(
    spec: &ServiceSpec,
    ignored: &mut Vec<ObjectError>,
) -> Result<PerFamily<Option<IpAddr>>, ObjectError> {
    let mut addresses = PerFamily::default();
    let families = spec.ip_families.as_deref().unwrap_or_default();
    if families.is_empty() {
        let text = spec.cluster_ip.as_deref().unwrap_or_default();
        let ip = specified_address(|| "spec.clusterIP".to_owned(), text)?;
        *addresses.get_mut(IpFamily::of(ip)) = Some(ip);
        return Ok(addresses);
    }
    let texts = spec.cluster_ips.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    for (n, (family, text)) in families.iter().zip(texts).enumerate() {
        let Some(family) = ip_family(family) else { continue };
        match address_of_family(|| format!("spec.clusterIPs[{n}]"), text, family) {
            Ok(ip) => drop(addresses.get_mut(family).get_or_insert(ip)),
            Err(error) => errors.push(error),
        }
    }
    if addresses == PerFamily::default() && !errors.is_empty() {
        return Err(errors.swap_remove(0));
    }
    ignored.extend(errors);
    Ok(addresses)
}

fn ip_family(name: &str) -> Option<IpFamily> {
    match name {
        "IPv4" => Some(IpFamily::V4),
        "IPv6" => Some(IpFamily::V6),
        _ => None,
    }
}

/// The ports, one per name and protocol. Of two ports with the same name and protocol the later counts. An invalid port
/// costs itself only. Errors: no valid port is left; then the last known state of the Service stays.
fn ports(spec: &ServiceSpec, ignored: &mut Vec<ObjectError>) -> Result<Vec<PortInfo>, ObjectError> {
    let mut ports: Vec<PortInfo> = Vec::new();
    let mut errors = Vec::new();
    let mut positions = HashMap::new();
    for (n, stated) in spec.ports.iter().flatten().enumerate() {
        let info = match port_info(n, stated, ignored) {
            Ok(info) => info,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        match positions.entry((info.name.clone(), info.protocol)) {
            Entry::Occupied(position) => {
                if let Some(twin) = ports.get_mut(*position.get()) {
                    *twin = info;
                }
            }
            Entry::Vacant(unknown) => {
                unknown.insert(ports.len());
                ports.push(info);
            }
        }
    }
    if ports.is_empty() && !errors.is_empty() {
        return Err(errors.swap_remove(0));
    }
    ignored.extend(errors);
    Ok(ports)
}

fn port_info(
    n: usize,
    stated: &ServicePort,
    ignored: &mut Vec<ObjectError>,
) -> Result<PortInfo, ObjectError> {
    let field = |name: &str| format!("spec.ports[{n}].{name}");
    let mut info = PortInfo {
        name: intern(stated.name.as_deref().unwrap_or_default()),
        protocol: protocol(|| field("protocol"), stated.protocol.as_deref())?,
        port: port(|| field("port"), stated.port)?,
        node_port: None,
    };
    match stated.node_port.filter(|number| *number != 0).map(|number| port(|| field("nodePort"), number)) {
        Some(Ok(number)) => info.node_port = Some(number),
        Some(Err(error)) => ignored.push(error),
        None => {}
    }
    Ok(info)
}

fn external_ips(spec: &ServiceSpec, ignored: &mut Vec<ObjectError>) -> Vec<IpAddr> {
    let texts = spec.external_ips.iter().flatten().map(String::as_str).enumerate();
    specified_addresses(texts, |n| format!("spec.externalIPs[{n}]"), ignored)
}

fn vips(service: &Service, ignored: &mut Vec<ObjectError>) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let ours = ingress.iter().enumerate().filter(|(_, entry)| is_ours(entry));
    let texts = ours.filter_map(|(n, entry)| Some((n, entry.ip.as_deref()?)));
    specified_addresses(texts, |n| format!("status.loadBalancer.ingress[{n}].ip"), ignored)
}

/// Parses addresses. Invalid ones are reported, blank ones are ignored silently.
fn specified_addresses<'a>(
    texts: impl Iterator<Item = (usize, &'a str)>,
    field: impl Fn(usize) -> String,
    ignored: &mut Vec<ObjectError>,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (n, text) in texts.filter(|(_, text)| !text.trim().is_empty()) {
        match specified_address(|| field(n), text) {
            Ok(address) => addresses.push(address),
            Err(error) => ignored.push(error),
        }
    }
    addresses
}

/// Whether the node serves this address. With `ipMode: Proxy` (KEP-1860) traffic from inside the cluster goes to the
/// load balancer too.
fn is_ours(entry: &LoadBalancerIngress) -> bool {
    matches!(entry.ip_mode.as_deref(), None | Some("VIP"))
}

/// The source ranges of each family. A zero-length prefix admits every client: the family then has no filter, even if
/// further ranges are listed.
fn source_ranges(spec: &ServiceSpec, ignored: &mut Vec<ObjectError>) -> PerFamily<SmallList<IpNetwork>> {
    let mut ranges = PerFamily::<Vec<IpNetwork>>::default();
    for (n, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        let text = text.trim();
        match parse_network(text) {
            Some(network) => ranges.get_mut(IpFamily::of(network.ip())).push(network),
            None if text.is_empty() => {}
            None => {
                let field = format!("spec.loadBalancerSourceRanges[{n}]");
                ignored.push(ObjectError::Network { field, value: text.to_owned() });
            }
        }
    }
    for family in IpFamily::BOTH {
        let ranges = ranges.get_mut(family);
        if ranges.iter().any(|range| range.prefix() == 0) {
            ranges.clear();
        }
    }
    PerFamily { v4: ranges.v4.into(), v6: ranges.v6.into() }
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

/// The external traffic policy. `Local` applies only to Services with an external address or a NodePort.
fn external_policy(spec: &ServiceSpec) -> TrafficPolicy {
    let is_external = match spec.type_.as_deref() {
        Some("LoadBalancer" | "NodePort") => true,
        None | Some("" | "ClusterIP") => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        Some(_) => false,
    };
    if is_external { policy(spec.external_traffic_policy.as_deref()) } else { TrafficPolicy::Cluster }
}

fn affinity(spec: &ServiceSpec) -> Option<NonZeroU32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let seconds = seconds.and_then(|seconds| NonZeroU32::new(u32::try_from(seconds).ok()?));
    Some(seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS))
}

fn health_check_node_port(spec: &ServiceSpec) -> Option<u16> {
    let is_wanted =
        spec.type_.as_deref() == Some("LoadBalancer") && external_policy(spec) == TrafficPolicy::Local;
    let number = spec.health_check_node_port.filter(|_| is_wanted)?;
    u16::try_from(number).ok().filter(|number| *number != 0)
}
