//! Objects with all fields of a real API server, including those that the agent does not read.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// A Service with one TCP port, numbered for its ClusterIP.
pub fn service(name: &str, number: u32) -> Value {
    let [_, a, b, c] = number.to_be_bytes();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, &json!({"app": name})),
        "spec": {
            "clusterIP": format!("10.{}.{b}.{c}", 96 + (a & 15)),
            "clusterIPs": [format!("10.{}.{b}.{c}", 96 + (a & 15))],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
            "selector": {"app": name},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    })
}

/// The slice of a Service, with an endpoint for each of these numbers.
pub fn slice(service: &str, endpoints: impl IntoIterator<Item = u32>) -> Value {
    let name = format!("{service}-x7k2p");
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata(&name, &json!({"kubernetes.io/service-name": service, "app": service})),
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.into_iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The address of the endpoint with this number.
pub fn endpoint_address(number: u32) -> Ipv4Addr {
    let [_, a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(10, 128 + (a & 63), b, c)
}

fn endpoint(number: u32) -> Value {
    json!({
        "addresses": [endpoint_address(number)],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": format!("node-{}", number % 100),
        "targetRef": {
            "kind": "Pod", "namespace": "default", "name": format!("pod-{number}"),
            "uid": format!("00000000-0000-4000-8000-{number:012x}"),
        },
        "zone": format!("zone-{}", number % 3),
    })
}

pub fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

/// The objects of a directory of manifests, one per file.
pub fn objects_in(directory: &Path) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for entry in fs::read_dir(directory).context("cannot read the manifests")? {
        let text = fs::read_to_string(entry?.path()).context("cannot read a manifest")?;
        objects.push(serde_json::from_str(&text).context("a manifest of the harness is JSON")?);
    }
    Ok(objects)
}

/// The metadata that an API server adds to every object: a third of its size, often more.
fn metadata(name: &str, labels: &Value) -> Value {
    json!({
        "name": name,
        "namespace": "default",
        "uid": "6dd35ab5-8e0a-4c7e-bbb1-3ba4cbbd1cc5",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "generation": 3,
        "labels": labels,
        "managedFields": [{
            "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kube-controller-manager",
            "operation": "Update", "time": "2026-01-01T00:00:00Z",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {}}},
        }],
    })
}
