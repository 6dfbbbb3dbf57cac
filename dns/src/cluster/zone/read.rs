//! Conversion from Kubernetes' types to the values of [`super`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::{
    api::{
        core::v1::{self as core, ServiceSpec},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};

use super::{
    Endpoints, External, LocalPods, ObjectName, Pod, Port, Protocol, Service, ServiceKey, ServiceKind, Slice,
    dashed, is_label,
};
use crate::{
    address::parse_ip,
    cluster::name::Name,
    config::{Kubernetes, Labels, PodsMode, Selector},
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The labels of slices of imported Services (KEP-1645).
const IMPORTED_NAME: &str = "multicluster.kubernetes.io/service-name";
const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const DEFAULT_NAMESPACE: &str = "default";

/// Options for the conversion: data that no answer needs is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Endpoints without a hostname are named after their pod.
    pub endpoint_pod_names: bool,
    /// Pods are kept, for `pods verified`.
    pub pods: bool,
    /// The topology zones of endpoints are kept.
    pub zones: bool,
    /// The Services of several clusters are kept.
    pub multicluster: bool,
    /// External addresses of Services are kept.
    pub external: bool,
    /// The selector for Services and pods with names.
    pub labels: Option<Selector>,
    /// The selector for Namespaces with names; it applies to the objects in them, too.
    pub namespace_labels: Option<Selector>,
    /// The node whose pods are kept by name, for query statistics; empty: none.
    pub node: Box<str>,
}

impl ReadOptions {
    /// The union of the needs of all `kubernetes` directives.
    pub fn of<'k>(directives: impl Iterator<Item = &'k Kubernetes> + Clone) -> Self {
        let any = |needs: fn(&Kubernetes) -> bool| directives.clone().any(needs);
        Self {
            endpoint_pod_names: any(|options| options.endpoint_pod_names),
            pods: any(|options| options.pods == PodsMode::Verified),
            zones: any(|options| options.zonal),
            multicluster: any(|options| !options.multicluster.0.is_empty()),
            external: false,
            labels: directives.clone().find_map(|options| options.labels.clone()),
            namespace_labels: directives.clone().find_map(|options| options.namespace_labels.clone()),
            node: "".into(),
        }
    }

    /// Whether a Service or pod with these labels has a name.
    pub fn selects(&self, labels: Option<&Labels>) -> bool {
        is_selected(self.labels.as_ref(), labels)
    }

    pub fn selects_namespace(&self, labels: Option<&Labels>) -> bool {
        is_selected(self.namespace_labels.as_ref(), labels)
    }
}

fn is_selected(selector: Option<&Selector>, labels: Option<&Labels>) -> bool {
    selector.is_none_or(|selector| selector.matches(labels.unwrap_or(&Labels::new())))
}

pub fn service(service: &core::Service, options: &ReadOptions) -> Service {
    let no_spec = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&no_spec);
    Service {
        kind: kind(spec),
        has_selector: spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()),
        external: if options.external { external(service, spec) } else { None },
    }
}

/// The load balancer may state a name instead of an address.
fn external(service: &core::Service, spec: &ServiceSpec) -> Option<Box<External>> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = || balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let stated = spec.external_ips.iter().flatten().map(String::as_str);
    let stated = stated.chain(ingress().filter_map(|ingress| ingress.ip.as_deref()));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in stated.filter_map(parse_ip) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let names = ingress().filter(|ingress| ingress.ip.as_deref().is_none_or(str::is_empty));
    let names = names.filter_map(|ingress| external_name(ingress.hostname.as_deref()?));
    let names: Box<[Name]> = names.collect();
    let ports = spec.ports.iter().flatten().filter_map(|stated| {
        let name = stated.name.as_deref().filter(|name| !name.is_empty());
        // A name that no query could contain is none.
        let named = port(name, stated.protocol.as_deref(), Some(stated.port));
        named.or_else(|| port_of("", stated.protocol.as_deref(), Some(stated.port)))
    });
    let has_any = !addresses.is_empty() || !names.is_empty();
    has_any.then(|| Box::new(External { addresses: addresses.into(), names, ports: ports.collect() }))
}

fn kind(spec: &ServiceSpec) -> ServiceKind {
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().and_then(external_name);
        return target.map_or(ServiceKind::Nothing, ServiceKind::ExternalName);
    }
    let stated = || spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    if stated().any(|text| text == "None") {
        return ServiceKind::Headless;
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in stated().filter_map(|text| parse_ip(text)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return ServiceKind::Nothing;
    }
    let ports = spec.ports.iter().flatten();
    let ports = ports
        .filter_map(|stated| port(stated.name.as_deref(), stated.protocol.as_deref(), Some(stated.port)));
    ServiceKind::ClusterIp { addresses: addresses.into(), ports: ports.collect() }
}

/// A port as an object states it.
#[derive(Clone, Copy, Debug)]
pub struct StatedPort<'o> {
    pub name: Option<&'o str>,
    pub protocol: Option<&'o str>,
    pub number: i32,
}

/// A ServiceImport with the addresses of the cluster set, or a headless one.
pub fn import<'o>(
    is_headless: bool,
    ips: impl Iterator<Item = &'o str>,
    ports: impl Iterator<Item = StatedPort<'o>>,
) -> Service {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in ips.filter_map(parse_ip) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let ports = ports.filter_map(|stated| port(stated.name, stated.protocol, Some(stated.number)));
    let kind = match is_headless {
        true => ServiceKind::Headless,
        false => ServiceKind::ClusterIp { addresses: addresses.into(), ports: ports.collect() },
    };
    // Endpoints objects are not mirrored for it.
    Service { kind, has_selector: true, external: None }
}

/// Whether an ExternalName has an invalid target, which deserves a warning to its owner.
pub fn is_unresolvable_alias(service: &core::Service, read: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    kind == Some("ExternalName") && read.kind == ServiceKind::Nothing
}

/// The target of an ExternalName. Returns `None` for an address, which is not a name that could be resolved.
fn external_name(text: &str) -> Option<Name> {
    let text = text.trim_end_matches('.');
    if text.parse::<IpAddr>().is_ok() { None } else { Name::from_text(text) }
}

fn port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    port_of(name.filter(|name| is_label(name))?, protocol, number)
}

fn port_of(name: &str, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    let number = u16::try_from(number?).ok().filter(|number| *number != 0)?;
    let protocol = match protocol.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some(Port { name: name.to_ascii_lowercase().into(), protocol, number })
}

/// Returns `None` for a slice without a Service, or of type FQDN.
pub fn slice(id: &ObjectName, slice: &EndpointSlice, options: &ReadOptions) -> Option<Slice> {
    let labels = slice.metadata.labels.as_ref()?;
    let namespace = slice.metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let key = |name: &String| ServiceKey::new(namespace.unwrap_or(DEFAULT_NAMESPACE), name);
    let own = labels.get(SERVICE_NAME).and_then(key);
    let imported = labels.get(IMPORTED_NAME).filter(|_| options.multicluster).and_then(key);
    let cluster = labels.get(SOURCE_CLUSTER).filter(|cluster| is_label(cluster));
    let imported = imported.zip(cluster.map(|cluster| cluster.to_ascii_lowercase()));
    if own.is_none() && imported.is_none() {
        return None;
    }
    if slice.address_type == "FQDN" {
        return None;
    }
    let mut endpoints = ReadyEndpoints::default();
    for endpoint in slice.endpoints.iter().flatten() {
        endpoints.add(endpoint, options);
    }
    endpoints.zones.sort_unstable();
    endpoints.zones.dedup();
    let ports = slice.ports.iter().flatten();
    let ports =
        ports.filter_map(|stated| port(stated.name.as_deref(), stated.protocol.as_deref(), stated.port));
    let of = |service| Slice {
        id: id.clone(),
        service,
        cluster: None,
        imported: None,
        ports: ports.collect(),
        v4: sorted(endpoints.v4),
        v6: sorted(endpoints.v6),
        zones: endpoints.zones.into(),
        triggered: triggered(&slice.metadata),
        local_pods: local_pods(slice, id, options),
    };
    // A slice may serve an imported Service, and a Service of this cluster that stands for it.
    Some(match (own, imported) {
        (Some(own), None) => of(own),
        (None, Some((service, cluster))) => Slice { cluster: Some(cluster.into()), ..of(service) },
        (Some(own), Some((service, cluster))) => {
            let own = of(own);
            let imported = Slice { service, cluster: Some(cluster.into()), ..own.clone() };
            Slice { imported: Some(Arc::new(imported)), ..own }
        }
        (None, None) => return None,
    })
}

fn local_pods(slice: &EndpointSlice, id: &ObjectName, options: &ReadOptions) -> Option<Arc<LocalPods>> {
    let endpoints = slice.endpoints.iter().flatten();
    let local = endpoints
        .filter(|endpoint| !options.node.is_empty() && endpoint.node_name.as_deref() == Some(&*options.node));
    let pod = |endpoint: &Endpoint| {
        let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
        // In the namespace of the Service, whatever `targetRef` says.
        let name = target.name.as_deref()?.into();
        Some((parse_ip(endpoint.addresses.first()?)?, ObjectName { namespace: id.namespace.clone(), name }))
    };
    let pods: Box<[_]> = local.filter_map(pod).collect();
    (!pods.is_empty()).then(|| Arc::new(LocalPods(pods)))
}

/// The time of the pod's or Service's change, noted by the control plane. Returns `None` if it cannot be
/// parsed.
fn triggered(metadata: &ObjectMeta) -> Option<SystemTime> {
    let time: Timestamp = metadata.annotations.as_ref()?.get(TRIGGER_TIME)?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(time.as_millisecond()).ok()?))
}

#[derive(Default)]
struct ReadyEndpoints {
    v4: Vec<(Option<Box<str>>, Ipv4Addr)>,
    v6: Vec<(Option<Box<str>>, Ipv6Addr)>,
    zones: Vec<(Name, IpAddr)>,
}

impl ReadyEndpoints {
    /// Adds a ready endpoint: one without a `ready` condition is ready; `serving` and `terminating` are
    /// ignored. Only the first address is used, as in all readers of slices.
    fn add(&mut self, endpoint: &Endpoint, options: &ReadOptions) {
        let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let Some(address) = endpoint.addresses.first().and_then(|text| parse_ip(text)).filter(|_| is_ready)
        else {
            return;
        };
        let name = endpoint_label(endpoint, options);
        // A hostname equal to the dashed address must not become a second name.
        let name = name.filter(|name| name.as_bytes() != dashed(address).as_bytes());
        let zone = endpoint.zone.as_deref().filter(|_| options.zones);
        let zone = zone.and_then(|zone| Name::from_text(&zone.to_ascii_lowercase()));
        self.zones.extend(zone.map(|zone| (zone, address)));
        match address {
            IpAddr::V4(address) => self.v4.push((name, address)),
            IpAddr::V6(address) => self.v6.push((name, address)),
        }
    }
}

fn endpoint_label(endpoint: &Endpoint, options: &ReadOptions) -> Option<Box<str>> {
    let hostname = endpoint.hostname.as_deref().filter(|hostname| is_label(hostname));
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
    let pod = pod.filter(|name| options.endpoint_pod_names && is_label(name));
    hostname.or(pod).map(|name| name.to_ascii_lowercase().into())
}

fn sorted<A: Ord + Copy>(endpoints: Vec<(Option<Box<str>>, A)>) -> Endpoints<A> {
    let (mut named, mut unnamed) = (Vec::new(), Vec::new());
    for (name, address) in endpoints {
        match name {
            Some(name) => named.push((name, address)),
            None => unnamed.push(address),
        }
    }
    named.sort_unstable();
    named.dedup();
    unnamed.sort_unstable();
    unnamed.dedup();
    Endpoints { unnamed: unnamed.into(), named: named.into() }
}

/// Returns `None` for a pod that has ended: its address may be reused.
pub fn pod(pod: &core::Pod) -> Option<Pod> {
    let status = pod.status.as_ref()?;
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed" | "Unknown"));
    if has_ended || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses: Vec<_> = all.filter_map(parse_ip).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let namespace = pod.metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE).to_ascii_lowercase().into();
    Some(Pod { namespace, addresses: addresses.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    /// As in the load balancer, which serves these addresses: leading zeros are decimal.
    #[test]
    fn addresses_with_leading_zeros_are_read() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let spec = json!({"clusterIP": "10.96.0.041", "clusterIPs": ["10.96.0.041", "fd00::0000a"]});
        let ServiceKind::ClusterIp { addresses, .. } =
            service(&from_value(json!({"spec": spec})).unwrap(), &ReadOptions::default()).kind
        else {
            panic!("no cluster IP")
        };
        assert_eq!(*addresses, [ip("10.96.0.41"), ip("fd00::a")]);

        let id = ObjectName { namespace: "default".into(), name: "hl-x".into() };
        let slice_of = json!({
            "metadata": {"name": "hl-x", "labels": {SERVICE_NAME: "hl"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["010.244.001.020"]}, {"addresses": ["10.244.1.300"]}],
        });
        let slice = slice(&id, &from_value(slice_of).unwrap(), &ReadOptions::default()).unwrap();
        assert_eq!(*slice.v4.unnamed, ["10.244.1.20".parse::<Ipv4Addr>().unwrap()]);

        let status = json!({"podIP": "10.244.001.030", "podIPs": [{"ip": "10.244.001.030"}]});
        let pod = pod(&from_value(json!({"metadata": {}, "status": status})).unwrap()).unwrap();
        assert_eq!(*pod.addresses, [ip("10.244.1.30")]);
    }
}
