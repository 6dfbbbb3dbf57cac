//! The faults that operators meet, each told by one command: `explain` or `plan` on the objects of the cluster.
//!
//! The faults of a running agent are conditions, see `observe::status`; dead name servers are in `cli::get`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

/// Fields of the Service, the name of the slice's port, and the endpoints.
struct Objects {
    service: &'static str,
    port_name: &'static str,
    endpoints: &'static str,
}

const SOUND: Objects = Objects {
    service: "type: NodePort, clusterIP: 10.96.0.10, ports: [{name: http, port: 80, nodePort: 30080}]",
    port_name: "http",
    endpoints: "{addresses: [10.244.1.4], nodeName: node-2, conditions: {ready: true}}",
};

fn portreeve(objects: &Objects, arguments: &[&str]) -> String {
    let Objects { service, port_name, endpoints } = objects;
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: web}}\nspec: {{{service}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: shop, name: web-1, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
         ports: [{{name: {port_name}, port: 8080}}]\nendpoints: [{endpoints}]\n"
    );
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .args(arguments)
        .args([
            "--node-name",
            "node-1",
            "--node-address",
            "192.0.2.11",
            "--nodeport-addresses",
            "192.0.2.0/24",
        ])
        .args(["--cluster-cidr", "10.244.0.0/16", "--manifests"])
        .arg(directory.path())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn explain(objects: &Objects, to: &str) -> String {
    portreeve(objects, &["explain", "--from", "203.0.113.9", "--to", to])
}

#[track_caller]
fn tells(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "`{words}` is missing in:\n{text}");
    }
}

#[test]
fn no_endpoints() {
    let objects = Objects { endpoints: "", ..SOUND };
    tells(&explain(&objects, "192.0.2.11:30080"), &["reject", "shop/web:http has no IPv4 endpoints"]);
}

#[test]
fn endpoints_that_are_not_ready() {
    let objects = Objects {
        endpoints: "{addresses: [10.244.1.4], nodeName: node-2, conditions: {ready: false}}",
        ..SOUND
    };
    let text = explain(&objects, "192.0.2.11:30080");
    tells(&text, &["reject", "the only IPv4 endpoint of shop/web:http is not ready"]);
}

#[test]
fn another_port_name_in_the_slice() {
    let objects = Objects { port_name: "web", ..SOUND };
    let mismatch = "endpoints for port `web` (TCP) instead";
    tells(&explain(&objects, "192.0.2.11:30080"), &["shop/web:http has no IPv4 endpoints", mismatch]);
    tells(&portreeve(&objects, &["plan"]), &["Service shop/web", mismatch]);
}

#[test]
fn policy_local_and_no_pod_here() {
    let service = "type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.10, \
        ports: [{name: http, port: 80, nodePort: 30080}]";
    let objects = Objects { service, ..SOUND };
    let text = explain(&objects, "192.0.2.11:30080");
    tells(&text, &["drop", "externalTrafficPolicy is Local", "1 is on other nodes"]);
    tells(&portreeve(&objects, &["plan"]), &["drop"]);
}

#[test]
fn a_client_outside_of_the_source_ranges() {
    // The braces close the specification, and open the status.
    let service = "type: LoadBalancer, clusterIP: 10.96.0.10, loadBalancerSourceRanges: [198.51.100.0/24], \
        ports: [{name: http, port: 80, nodePort: 30080}]}\n\
        status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}";
    let objects = Objects { service, ..SOUND };
    let reason = "203.0.113.9 is in none of the loadBalancerSourceRanges of shop/web (198.51.100.0/24)";
    tells(&explain(&objects, "203.0.113.10:80"), &["drop", reason]);
    tells(&portreeve(&objects, &["plan", "-o", "wide"]), &["SOURCE RANGES", "198.51.100.0/24"]);
}

#[test]
fn a_wrong_port_or_protocol() {
    tells(
        &explain(&SOUND, "10.96.0.10:81"),
        &["10.96.0.10 is the ClusterIP of shop/web, which defines 80/TCP and not 81/TCP"],
    );
    tells(&explain(&SOUND, "10.96.0.10:80/udp"), &["shop/web, which defines 80/TCP and not 80/UDP"]);
}

#[test]
fn a_node_port_at_an_address_that_does_not_serve_it() {
    let text = portreeve(&SOUND, &["explain", "--from", "203.0.113.9", "--to", "127.0.0.1:30080"]);
    tells(&text, &["none", "192.0.2.11"]);
}

#[test]
fn two_services_with_one_address() {
    let second = "---\napiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: zzz}\n\
        spec: {clusterIP: 10.96.0.11, externalIPs: [203.0.113.10], ports: [{port: 80}]}\n";
    let directory = tempfile::tempdir().unwrap();
    let first = second.replace("zzz", "aaa").replace("10.96.0.11", "10.96.0.12");
    fs::write(directory.path().join("objects.yaml"), format!("{first}{second}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .args(["plan", "--node-name", "node-1", "--manifests"])
        .arg(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    tells(&text, &["Service shop/zzz", "203.0.113.10:80/TCP is served for shop/aaa"]);
    assert_eq!(output.status.code(), Some(0), "the objects are valid");
}
