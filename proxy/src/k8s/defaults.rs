//! The API server's defaults, for objects from files: a manifest serves here as it would in a cluster. The conversions to
//! the model know the defaults that are the same for every object (a protocol of TCP, the policies, the timeout of
//! affinity); here are those that depend on the rest of the object, and on the writer.
//!
//! An object that an API server would refuse is used as far as possible, and named in the API server's words.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    core::v1::{Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};

use super::object::Object;
use crate::model::address::{IpFamily, parse_ip};

const HEADLESS: &str = "None";

/// Sets the defaults of an object and returns the reasons for which an API server would refuse it.
pub fn apply(object: &mut Object) -> Vec<String> {
    match object {
        Object::Service(service) => of_service(service),
        Object::EndpointSlice(slice) => of_slice(slice),
        // The defaults of Endpoints ports are those of the slices that mirror them. The others have none in use.
        Object::Endpoints(_)
        | Object::Node(_)
        | Object::ServiceCidr(_)
        | Object::Namespace(_)
        | Object::Pod(_)
        | Object::ServiceImport(_) => Vec::new(),
    }
}

fn of_service(service: &mut Service) -> Vec<String> {
    let Some(spec) = &mut service.spec else { return Vec::new() };
    let type_ = spec.type_.get_or_insert_default();
    if type_.is_empty() {
        "ClusterIP".clone_into(type_);
    }
    let mut refusals = unsupported(spec);
    refusals.extend(port_refusals(spec));
    if spec.type_.as_deref() == Some("ExternalName") {
        return refusals;
    }
    refusals.extend(cluster_ips(spec));
    families(spec);
    refusals
}

/// `MaxClientIPServiceAffinitySeconds` of the API.
const MAX_AFFINITY: i32 = 86_400;

fn unsupported(spec: &ServiceSpec) -> Vec<String> {
    let mut refusals = Vec::new();
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    refusals.extend(unsupported_value("spec.type", spec.type_.as_deref(), &types));
    let affinities = ["ClientIP", "None"];
    refusals.extend(unsupported_value("spec.sessionAffinity", spec.session_affinity.as_deref(), &affinities));
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(seconds) = client_ip.and_then(|client_ip| client_ip.timeout_seconds)
        && !(1..=MAX_AFFINITY).contains(&seconds)
    {
        refusals.push(format!(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: {seconds}: must be greater than 0 and less \
             than {MAX_AFFINITY}"
        ));
    }
    refusals
}

/// Values are compared as they are. An empty one is absent.
fn unsupported_value(path: &str, value: Option<&str>, supported: &[&str]) -> Option<String> {
    let value = value.filter(|value| !value.is_empty() && !supported.contains(value))?;
    let supported: Vec<_> = supported.iter().map(|one| format!("{one:?}")).collect();
    Some(format!("{path}: Unsupported value: {value:?}: supported values: {}", supported.join(", ")))
}

/// `clusterIPs` follows `clusterIP`.
fn cluster_ips(spec: &mut ServiceSpec) -> Option<String> {
    let stated = spec.cluster_ip.as_deref().unwrap_or_default();
    let all = spec.cluster_ips.get_or_insert_default();
    match (stated, all.first()) {
        ("", None) => None,
        ("", Some(_)) => Some(invalid_cluster_ips(all, "must be empty when `clusterIP` is not specified")),
        (stated, None) => {
            all.push(stated.to_owned());
            None
        }
        (stated, Some(first)) if stated != first => {
            Some(invalid_cluster_ips(all, "first value must match `clusterIP`"))
        }
        _ => None,
    }
}

fn invalid_cluster_ips(all: &[String], rule: &str) -> String {
    format!("spec.clusterIPs: Invalid value: {all:?}: {rule}")
}

/// The families of a Service that states none are those of its addresses. A Service whose lists contradict each other
/// keeps none: its family is that of `clusterIP`.
fn families(spec: &mut ServiceSpec) {
    let addresses = spec.cluster_ips.as_deref().unwrap_or_default();
    let is_consistent = addresses.first() == spec.cluster_ip.as_ref() && addresses != [HEADLESS];
    let families = spec.ip_families.get_or_insert_default();
    if families.is_empty() && is_consistent {
        let found: Option<Vec<_>> = addresses.iter().map(|text| parse_ip(text).map(IpFamily::of)).collect();
        families.extend(found.into_iter().flatten().map(|family| family.to_string()));
    }
}

fn port_refusals(spec: &ServiceSpec) -> Vec<String> {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut refusals = Vec::new();
    let type_ = spec.type_.as_deref().unwrap_or_default();
    if ports.is_empty() && type_ != "ExternalName" && spec.cluster_ip.as_deref() != Some(HEADLESS) {
        refusals.push("spec.ports: Required value".to_owned());
    }
    let mut names = BTreeSet::new();
    for (n, port) in ports.iter().enumerate() {
        if type_ == "ClusterIP" && port.node_port.is_some_and(|port| port != 0) {
            let rule = "Forbidden: may not be used when `type` is 'ClusterIP'";
            refusals.push(format!("spec.ports[{n}].nodePort: {rule}"));
        }
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => refusals.push(format!("spec.ports[{n}].name: Required value")),
            "" => {}
            name if names.insert(name) => {}
            name => refusals.push(format!("spec.ports[{n}].name: Duplicate value: {name:?}")),
        }
    }
    refusals
}

/// The API's limits of an EndpointSlice.
const MAX_PORTS: usize = 20_000;
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;

fn too_many(path: &str, count: usize, most: usize) -> Option<String> {
    (count > most).then(|| format!("{path}: Too many: {count}: must have at most {most} items"))
}

/// A port without a name has the empty name, which is that of a Service's only port without one.
fn of_slice(slice: &mut EndpointSlice) -> Vec<String> {
    let mut refusals = Vec::new();
    let mut names = BTreeSet::new();
    for (n, port) in slice.ports.iter_mut().flatten().enumerate() {
        let name = port.name.get_or_insert_default();
        let protocol = port.protocol.get_or_insert_default();
        if protocol.is_empty() {
            "TCP".clone_into(protocol);
        }
        if !names.insert(name.clone()) {
            refusals.push(format!("ports[{n}].name: Duplicate value: {name:?}"));
        }
    }
    if slice.address_type.is_empty() {
        refusals.push("addressType: Required value".to_owned());
    }
    refusals.extend(unsupported_value("addressType", Some(&slice.address_type), &["FQDN", "IPv4", "IPv6"]));
    refusals.extend(too_many("ports", slice.ports.iter().flatten().count(), MAX_PORTS));
    refusals.extend(too_many("endpoints", slice.endpoints.iter().flatten().count(), MAX_ENDPOINTS));
    for (n, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let path = format!("endpoints[{n}].addresses");
        if endpoint.addresses.is_empty() {
            refusals.push(format!("{path}: Required value: must contain at least 1 address"));
        }
        refusals.extend(too_many(&path, endpoint.addresses.len(), MAX_ADDRESSES));
    }
    refusals
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> (Value, Vec<String>) {
        let mut object = Object::Service(serde_json::from_value(json!({"spec": spec})).unwrap());
        let refusals = apply(&mut object);
        let Object::Service(service) = object else { unreachable!() };
        (serde_json::to_value(service.spec).unwrap(), refusals)
    }

    #[test]
    fn addresses_and_families_of_a_service_follow_from_each_other() {
        for (name, spec, ips, families) in [
            ("one address", json!({"clusterIP": "10.96.0.1"}), json!(["10.96.0.1"]), json!(["IPv4"])),
            ("IPv6", json!({"clusterIP": "fd00::1"}), json!(["fd00::1"]), json!(["IPv6"])),
            (
                "two addresses",
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.1"]}),
                json!(["fd00::1", "10.96.0.1"]),
                json!(["IPv6", "IPv4"]),
            ),
            (
                "stated families stay",
                json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4"]}),
                json!(["10.96.0.1", "fd00::1"]),
                json!(["IPv4"]),
            ),
            ("headless", json!({"clusterIP": "None"}), json!(["None"]), json!([])),
            ("no address", json!({}), json!([]), json!([])),
        ] {
            let mut spec = spec;
            spec["ports"] = json!([{"port": 1}]);
            let (spec, refusals) = service(spec);
            assert_eq!((&spec["clusterIPs"], &spec["ipFamilies"]), (&ips, &families), "{name}");
            assert_eq!((&spec["type"], refusals), (&json!("ClusterIP"), vec![]), "{name}");
        }
    }

    #[test]
    fn refusals_have_the_words_of_an_api_server() {
        for (spec, want) in [
            (
                json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.2"], "ports": [{"port": 1}]}),
                vec![r#"spec.clusterIPs: Invalid value: ["10.96.0.2"]: first value must match `clusterIP`"#],
            ),
            (
                json!({"clusterIPs": ["10.96.0.2"], "ports": [{"port": 1}]}),
                vec![
                    r#"spec.clusterIPs: Invalid value: ["10.96.0.2"]: must be empty when `clusterIP` is not specified"#,
                ],
            ),
            (
                json!({"ports": [{"port": 1}, {"name": "a", "port": 2}, {"name": "a", "port": 3}]}),
                vec!["spec.ports[0].name: Required value", r#"spec.ports[2].name: Duplicate value: "a""#],
            ),
            (json!({"ports": [{"port": 1}], "sessionAffinity": ""}), vec![]),
            (json!({}), vec!["spec.ports: Required value"]),
            (json!({"clusterIP": "None"}), vec![]),
            (json!({"type": "ExternalName"}), vec![]),
            (
                json!({"type": "Headless", "sessionAffinity": "Cookie", "ports": [{"port": 1, "nodePort": 30000}]}),
                vec![
                    r#"spec.type: Unsupported value: "Headless": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
                    r#"spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None""#,
                ],
            ),
            (
                json!({"ports": [{"port": 1, "nodePort": 30000}],
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
                vec![
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less \
                     than 86400",
                    "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                ],
            ),
            (json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30000}]}), vec![]),
        ] {
            assert_eq!(service(spec.clone()).1, want, "{spec}");
        }
    }

    #[test]
    fn a_slice_port_has_an_empty_name_and_tcp() {
        let slice = json!({"addressType": "IPv4", "ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}]});
        let mut object = Object::EndpointSlice(serde_json::from_value(slice).unwrap());
        assert_eq!(apply(&mut object), [r#"ports[1].name: Duplicate value: """#]);
        let Object::EndpointSlice(slice) = object else { unreachable!() };
        let ports = slice.ports.unwrap();
        let got: Vec<_> = ports.iter().map(|port| (port.name.as_deref(), port.protocol.as_deref())).collect();
        assert_eq!(got, [(Some(""), Some("TCP")), (Some(""), Some("UDP"))]);
    }

    #[test]
    fn a_slice_that_an_api_server_would_refuse_is_named() {
        let slice = |fields: Value| {
            let mut object = Object::EndpointSlice(serde_json::from_value(fields).unwrap());
            apply(&mut object)
        };
        let endpoint = json!({"addresses": ["10.1.0.1"]});
        assert_eq!(slice(json!({"addressType": "IPv4", "endpoints": [endpoint]})), Vec::<String>::new());
        assert_eq!(slice(json!({"addressType": "", "endpoints": []})), ["addressType: Required value"]);
        let addresses: Vec<_> = (0..101).map(|n| format!("10.1.0.{n}")).collect();
        assert_eq!(
            slice(json!({"addressType": "IP", "endpoints": [{"addresses": []}, {"addresses": addresses}]})),
            [
                r#"addressType: Unsupported value: "IP": supported values: "FQDN", "IPv4", "IPv6""#,
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "endpoints[1].addresses: Too many: 101: must have at most 100 items",
            ]
        );
        let many: Vec<_> = (0..1001).map(|_| &endpoint).collect();
        assert_eq!(
            slice(json!({"addressType": "IPv4", "endpoints": many})),
            ["endpoints: Too many: 1001: must have at most 1000 items"]
        );
    }
}
