//! The objects as manifests that `plan` and `explain` read: the fields in use, and no others. The name server knows those
//! that have a part in DNS alone: headless Services, aliases and the names of endpoints.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use arcstr::ArcStr;
use dns::cluster::{
    snapshot::{Snapshot, View},
    zone::{self, ServiceKind},
};
use serde_json::{Map, Value, json};

use super::Objects;
use crate::{
    model::{
        address::IpFamily,
        backend::{Candidate, SliceInfo, SlicePort, SliceSource},
        node::NodeInfo,
        service::{Exclusion, PortInfo, ServiceInfo, ServiceKey, TrafficPolicy},
    },
    observe::control::OBJECTS_END,
};

/// The size of a piece in octets, at which the next one begins.
const PIECE: usize = 64 << 10;

impl Objects {
    /// Writes the objects in pieces of whole documents, up to an error of the reader. Each document is one line of JSON.
    pub fn write_manifests<E>(
        &self,
        names: Option<&Snapshot>,
        mut send: impl FnMut(String) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut piece = String::new();
        for document in self.documents(names) {
            piece += &format!("---\n{document}\n");
            if piece.len() >= PIECE {
                send(std::mem::take(&mut piece))?;
            }
        }
        send(piece + OBJECTS_END)
    }

    fn documents<'o>(&'o self, names: Option<&'o Snapshot>) -> impl Iterator<Item = Value> + 'o {
        let node = self.node.iter().map(node);
        let cidrs = (!self.service_cidrs.is_empty()).then(|| self.service_cidr());
        let services = self.services.iter().map(move |info| service(info, view(names, &info.key)));
        let slices = self.slices.iter().map(move |slice| {
            let hostnames = view(names, &slice.service).map(hostnames).unwrap_or_default();
            endpoint_slice(slice, &hostnames)
        });
        let is_headless = |view: &&View| matches!(view.kind(), ServiceKind::Headless);
        let headless = names.into_iter().flat_map(Snapshot::services).filter(is_headless);
        // The index also has those whose label does not tell that their Service is headless.
        let known: HashSet<(&str, &str)> =
            self.slices.iter().map(|slice| (&*slice.key.namespace, &*slice.key.name)).collect();
        let headless = headless.flat_map(move |view| {
            let is_new =
                |slice: &&Arc<zone::Slice>| !known.contains(&(&*slice.id.namespace, &*slice.id.name));
            let new = view.slices.iter().filter(is_new);
            new.flat_map(|slice| of_headless(view, slice)).collect::<Vec<_>>()
        });
        node.chain(cidrs).chain(services).chain(slices).chain(headless)
    }

    /// All networks in one object: which of them was in which has no effect.
    fn service_cidr(&self) -> Value {
        let cidrs: Vec<_> = self.service_cidrs.iter().map(ToString::to_string).collect();
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": cidrs},
        })
    }
}

fn view<'s>(names: Option<&'s Snapshot>, service: &ServiceKey) -> Option<&'s View> {
    names?.service(service.namespace.as_bytes(), service.name.as_bytes())
}

fn node(node: &NodeInfo) -> Value {
    // In the order of the index, whatever their types were.
    let address = |address: &IpAddr| json!({"type": "InternalIP", "address": address});
    let addresses: Vec<_> = node.addresses.iter().map(address).collect();
    let pod_cidrs: Vec<_> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    let mut spec = json!({"podCIDRs": pod_cidrs});
    if !node.is_eligible {
        spec["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    }
    let mut metadata = json!({"name": node.name});
    if !node.zone.is_empty() {
        metadata["labels"] = json!({"topology.kubernetes.io/zone": node.zone});
    }
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec, "status": {"addresses": addresses},
    })
}

fn service(info: &ServiceInfo, view: Option<&View>) -> Value {
    let mut metadata = json!({"namespace": *info.key.namespace, "name": *info.key.name});
    if let Some(created) = info.created {
        metadata["creationTimestamp"] = json!(created);
    }
    if !info.labels.is_empty() {
        let label = |(key, value): &(ArcStr, ArcStr)| (key.to_string(), json!(**value));
        metadata["labels"] = Value::Object(info.labels.iter().map(label).collect());
    }
    let spec = spec(info, view);
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    if !info.vips.is_empty() {
        let vips: Vec<_> = info.vips.iter().map(|ip| json!({"ip": ip})).collect();
        service["status"] = json!({"loadBalancer": {"ingress": vips}});
    }
    service
}

fn spec(info: &ServiceInfo, view: Option<&View>) -> Value {
    let mut spec = Map::new();
    let mut set = |field: &str, value: Value| drop(spec.insert(field.to_owned(), value));
    set("type", json!(service_type(info)));
    set_addresses(info, view, &mut set);
    if let Some(ServiceKind::ExternalName(name)) = view.map(View::kind) {
        set("externalName", json!(name.to_hickory().to_string().trim_end_matches('.')));
    }
    if info.has_selector {
        set("selector", json!({"pods": "not-in-the-report"}));
    }
    set("ports", ports(info, view));
    if !info.external_ips.is_empty() {
        set("externalIPs", json!(&info.external_ips[..]));
    }
    let ranges = IpFamily::BOTH.into_iter().flat_map(|family| info.source_ranges.get(family).iter());
    let ranges: Vec<_> = ranges.map(ToString::to_string).collect();
    if !ranges.is_empty() {
        set("loadBalancerSourceRanges", json!(ranges));
    }
    for (field, policy) in
        [("internalTrafficPolicy", info.internal_policy), ("externalTrafficPolicy", info.external_policy)]
    {
        if policy == TrafficPolicy::Local {
            set(field, json!("Local"));
        }
    }
    if let Some(seconds) = info.affinity {
        set("sessionAffinity", json!("ClientIP"));
        set("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": seconds}}));
    }
    if let Some(number) = info.health_check_node_port {
        set("healthCheckNodePort", json!(number));
    }
    Value::Object(spec)
}

/// A type that gives the other fields the effect that they have.
fn service_type(info: &ServiceInfo) -> &'static str {
    let is_local = info.external_policy == TrafficPolicy::Local;
    if info.exclusion == Some(Exclusion::ExternalName) {
        "ExternalName"
    } else if info.health_check_node_port.is_some() || !info.vips.is_empty() {
        "LoadBalancer"
    } else if info.ports.iter().any(|port| port.node_port.is_some()) {
        "NodePort"
    } else if is_local && info.external_ips.is_empty() {
        "LoadBalancer"
    } else {
        "ClusterIP"
    }
}

fn set_addresses(info: &ServiceInfo, view: Option<&View>, set: &mut impl FnMut(&str, Value)) {
    let addresses = IpFamily::BOTH.into_iter().filter_map(|family| *info.cluster_ips.get(family));
    // The index has no addresses of a Service that it does not serve.
    let of_view = view.filter(|_| !info.is_served()).map(View::own_addresses).unwrap_or_default();
    let addresses: Vec<IpAddr> = addresses.chain(of_view.iter().copied()).collect();
    match (info.exclusion, addresses.first()) {
        (Some(Exclusion::Headless), _) => set("clusterIP", json!("None")),
        (_, Some(first)) => {
            set("clusterIP", json!(first));
            set("clusterIPs", json!(addresses));
            let families = addresses.iter().map(|ip| IpFamily::of(*ip).to_string());
            set("ipFamilies", json!(families.collect::<Vec<_>>()));
        }
        (Some(Exclusion::ForeignProxy), None) => set("clusterIP", json!("None")),
        (_, None) => {}
    }
}

/// The index has no ports of a Service that it does not serve, the name server those with a name. One that would need a port
/// has one that means nothing.
fn ports(info: &ServiceInfo, view: Option<&View>) -> Value {
    let of_view = match view.map(View::kind) {
        Some(ServiceKind::ClusterIp { ports, .. }) if !info.is_served() => {
            ports.iter().map(named_port).collect()
        }
        Some(_) | None => Vec::new(),
    };
    let mut ports: Vec<_> = info.ports.iter().map(port).chain(of_view).collect();
    let needs_port = matches!(info.exclusion, Some(Exclusion::ForeignProxy | Exclusion::NoClusterIp));
    if ports.is_empty() && needs_port {
        ports.push(json!({"port": 1}));
    }
    Value::Array(ports)
}

fn named_port(port: &zone::Port) -> Value {
    json!({"name": *port.name, "protocol": port.protocol.label().to_uppercase(), "port": port.number})
}

fn port(port: &PortInfo) -> Value {
    let mut value = json!({"port": port.port, "protocol": port.protocol.to_string()});
    if !port.name.is_empty() {
        value["name"] = json!(*port.name);
    }
    if let Some(number) = port.node_port {
        value["nodePort"] = json!(number);
    }
    value
}

/// The names of endpoints below their Service, by address.
fn hostnames(view: &View) -> HashMap<IpAddr, &str> {
    let v4 = view.slices.iter().flat_map(|slice| named(&slice.v4));
    let v6 = view.slices.iter().flat_map(|slice| named(&slice.v6));
    v4.chain(v6).map(|(name, ip)| (ip, name)).collect()
}

fn named<A: Copy + Into<IpAddr>>(endpoints: &zone::Endpoints<A>) -> impl Iterator<Item = (&str, IpAddr)> {
    endpoints.named.iter().map(|(name, ip)| (&**name, (*ip).into()))
}

fn endpoint_slice(slice: &SliceInfo, hostnames: &HashMap<IpAddr, &str>) -> Value {
    let name = match slice.key.source {
        SliceSource::Slice => slice.key.name.to_string(),
        SliceSource::Endpoints(n) => format!("{}.endpoints-{n}", slice.key.name),
    };
    let port = |SlicePort { name, protocol, port }: &SlicePort| json!({"name": **name, "protocol": protocol.to_string(), "port": port});
    let ports: Vec<_> = slice.ports.iter().map(port).collect();
    let endpoint = |candidate: &Candidate| endpoint(candidate, hostnames.get(&candidate.ip).copied());
    let endpoints: Vec<_> = slice.candidates.iter().map(endpoint).collect();
    let mut metadata = metadata(&slice.key.namespace, &name, &slice.service.name);
    if let Some(time) = slice.triggered {
        metadata["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": time});
    }
    slice_manifest(metadata, slice.family, ports, endpoints)
}

fn metadata(namespace: &str, name: &str, service: &str) -> Value {
    json!({"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}})
}

fn slice_manifest(metadata: Value, family: IpFamily, ports: Vec<Value>, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": family.to_string(), "ports": ports, "endpoints": endpoints,
    })
}

fn endpoint(candidate: &Candidate, hostname: Option<&str>) -> Value {
    let Candidate {
        ip,
        is_ready,
        is_serving,
        is_terminating,
        is_local: _,
        identity: _,
        pod,
        node,
        zone,
        hints,
    } = candidate;
    let conditions = json!({"ready": is_ready, "serving": is_serving, "terminating": is_terminating});
    let mut value = json!({"addresses": [ip], "conditions": conditions});
    for (field, text) in [("nodeName", node), ("zone", zone)] {
        if let Some(text) = text {
            value[field] = json!(**text);
        }
    }
    if let Some(pod) = pod {
        value["targetRef"] = json!({"kind": "Pod", "name": **pod});
    }
    if let Some(hostname) = hostname {
        value["hostname"] = json!(hostname);
    }
    if let Some(hints) = hints {
        let named = |names: &[ArcStr]| names.iter().map(|name| json!({"name": **name})).collect::<Vec<_>>();
        value["hints"] = json!({"forZones": named(&hints.zones), "forNodes": named(&hints.nodes)});
    }
    value
}

/// A slice for each family: those of headless Services are known to the name server alone, which keeps what is ready.
fn of_headless(view: &View, slice: &zone::Slice) -> Vec<Value> {
    let ports: Vec<_> = slice.ports.iter().map(named_port).collect();
    let families = [
        (IpFamily::V4, slice.id.name.to_string(), of_names(&slice.v4)),
        (IpFamily::V6, format!("{}.ipv6", slice.id.name), of_names(&slice.v6)),
    ];
    let families = families.into_iter().filter(|(.., endpoints)| !endpoints.is_empty());
    let slices = families.map(|(family, name, endpoints)| {
        let mut metadata = metadata(&slice.id.namespace, &name, view.key.name());
        metadata["labels"]["service.kubernetes.io/headless"] = json!("");
        slice_manifest(metadata, family, ports.clone(), endpoints)
    });
    slices.collect()
}

fn of_names<A: Copy + Into<IpAddr>>(endpoints: &zone::Endpoints<A>) -> Vec<Value> {
    let named = named(endpoints).map(|(name, ip)| json!({"addresses": [ip], "hostname": name}));
    let unnamed = endpoints.unnamed.iter().map(|ip| json!({"addresses": [(*ip).into()]}));
    named.chain(unnamed).collect()
}

#[cfg(test)]
mod tests;
