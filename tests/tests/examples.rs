//! Every example is parsed and planned completely, as its README states. Needs no privileges.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::Value;
use tests::{
    agent::portreeve,
    cluster::pod_network,
    examples::{self, Example},
};

fn all() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(examples::directory()).expect("there are examples");
    let directories = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut all: Vec<_> = directories
        .map(|path| (path.file_name().expect("a directory has a name").to_string_lossy().into_owned(), path))
        .collect();
    all.sort();
    assert!(all.len() >= 2, "examples are missing");
    all
}

fn plan(directory: &Path, node: &str) -> Value {
    let mut command = Command::new(portreeve().expect("portreeve is built"));
    command.arg("plan").arg("--manifests").arg(directory).args(["--node-name", node, "--output", "json"]);
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{node}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("plan prints JSON")
}

/// The backends of a ClusterIP on node-1, according to the example's slices.
fn promised(slices: &[EndpointSlice], service: &Service, port: Option<&str>, v4: bool) -> BTreeSet<String> {
    let of_service = slices.iter().filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get("kubernetes.io/service-name")) == service.metadata.name.as_ref()
            && slice.metadata.namespace == service.metadata.namespace
            && slice.address_type == if v4 { "IPv4" } else { "IPv6" }
    });
    let spec = service.spec.as_ref().expect("a Service has a spec");
    let is_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let mut promised = BTreeSet::new();
    for slice in of_service {
        let named = |name: &Option<String>| name.as_deref().unwrap_or_default() == port.unwrap_or_default();
        let ports =
            slice.ports.iter().flatten().filter(|port| named(&port.name)).filter_map(|port| port.port);
        for number in ports {
            let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
                    && (!is_local || endpoint.node_name.as_deref() == Some("node-1"))
            });
            promised.extend(ready.map(|endpoint| match v4 {
                true => format!("{}:{number}", endpoint.addresses[0]),
                false => format!("[{}]:{number}", endpoint.addresses[0]),
            }));
        }
    }
    promised
}

#[test]
fn every_cluster_ip_reaches_the_endpoints_of_its_slices() {
    for (name, directory) in all() {
        let example = Example::load(&directory).expect("it loads");
        let plan = plan(&directory, "node-1");
        assert_eq!(plan["skipped"], Value::Array(Vec::new()), "{name}");
        let frontends = plan["frontends"].as_array().expect("a list");
        for service in &example.services {
            check_service(&name, &example, service, frontends);
        }
    }
}

fn check_service(name: &str, example: &Example, service: &Service, frontends: &[Value]) {
    let spec = service.spec.as_ref().expect("a Service has a spec");
    let ips = spec.cluster_ips.iter().flatten().filter(|ip| *ip != "None");
    for ip in ips {
        for port in spec.ports.iter().flatten() {
            let frontend = frontends.iter().find(|frontend| {
                frontend["kind"] == "ClusterIP"
                    && frontend["address"] == **ip
                    && frontend["port"] == port.port
            });
            let frontend = frontend.unwrap_or_else(|| panic!("{name}: no frontend for {ip}:{}", port.port));
            let backends = frontend["internal"].as_array().expect("a list").iter();
            let backends: BTreeSet<_> =
                backends.map(|backend| backend.as_str().expect("text").to_owned()).collect();
            let promised = promised(&example.slices, service, port.name.as_deref(), !ip.contains(':'));
            assert!(!promised.is_empty(), "{name}: no endpoint serves {ip}:{}", port.port);
            assert_eq!(backends, promised, "{name}: {ip}:{}", port.port);
        }
    }
}

#[test]
fn both_nodes_plan_the_same_frontends() {
    for (name, directory) in all() {
        let keys = |node| {
            let plan = plan(&directory, node);
            let frontends = plan["frontends"].as_array().expect("a list").clone();
            assert!(plan["dns"]["records"].as_u64() > Some(0), "{name}: no name on {node}");
            frontends
                .iter()
                .map(|frontend| format!("{} {}", frontend["address"], frontend["port"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(keys("node-1"), keys("node-2"), "{name}");
    }
}

#[test]
fn every_pod_has_an_address_of_its_node_and_objects_are_unique() {
    for (name, directory) in all() {
        let example = Example::load(&directory).expect("it loads");
        for (pod, promised) in example.pods().expect("the slices are sound") {
            let number = promised.node.strip_prefix("node-").and_then(|number| number.parse().ok());
            let network = pod_network(number.expect("nodes are numbered"));
            assert!(promised.v4.is_none_or(|v4| network.v4.contains(v4)), "{name}: {pod} {promised:?}");
            assert!(promised.v6.is_none_or(|v6| network.v6.contains(v6)), "{name}: {pod} {promised:?}");
        }
        let mut seen = BTreeSet::new();
        for object in &example.objects {
            assert!(seen.insert(object), "{name}: {object} is there twice");
        }
        assert!(directory.join("README.md").exists(), "{name} has no README");
    }
}
