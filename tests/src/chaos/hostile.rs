//! Objects that a tenant could write to hurt others. None of them may have an effect on the Services of the run.

use std::net::IpAddr;

use serde_json::{Value, json};

/// The objects with this number, as the text of a manifest.
pub fn manifest(number: usize, claimed: [IpAddr; 2]) -> String {
    let object = match number {
        0 => return "kind: Service\nmetadata: [not, an, object]\n---\n{ unfinished".to_owned(),
        1 => younger_claim(claimed),
        2 => many_frontends(),
        _ => foreign_addresses(claimed),
    };
    object.to_string()
}

fn service(name: &str, spec: &Value) -> Value {
    // The youngest claim loses.
    json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": {"name": name, "namespace": "zz-hostile", "creationTimestamp": "2099-01-01T00:00:00Z"}})
}

/// The cluster IPs of another tenant's Service.
fn younger_claim(claimed: [IpAddr; 2]) -> Value {
    let ports = json!([{"name": "web", "port": 80, "protocol": "TCP", "targetPort": 9}]);
    service("claim", &json!({"clusterIP": claimed[0], "clusterIPs": claimed, "ports": ports}))
}

fn many_frontends() -> Value {
    let ports: Vec<Value> =
        (1..60).map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"})).collect();
    let addresses: Vec<String> = (0..300).map(|at| format!("198.18.{}.{}", at / 200, at % 200 + 1)).collect();
    service("many", &json!({"clusterIP": "10.96.200.200", "ports": ports, "externalIPs": addresses}))
}

/// A slice that names another tenant's Service, with addresses that no pod has.
fn foreign_addresses(claimed: [IpAddr; 2]) -> Value {
    let addresses = [claimed[0].to_string(), "127.0.0.1".to_owned(), "not an address".to_owned()];
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "foreign", "namespace": "zz-hostile",
            "labels": {"kubernetes.io/service-name": "chaos-0"}},
        "ports": [{"name": "p0", "port": 9, "protocol": "TCP"}],
        "endpoints": [{"addresses": addresses, "conditions": {"ready": true}}]})
}
