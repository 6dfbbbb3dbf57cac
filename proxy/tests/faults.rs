//! The faults that operators meet, each told by one command: `explain` or `plan` on the objects of the cluster.
//!
//! The faults of a running agent are conditions, see `observe::status`; dead name servers are in `cli::get`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "faults/table.rs"]
mod table;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use table::{FAULTS, Fault};

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
    let other = portreeve(
        &SOUND,
        &["explain", "--node-address", "198.51.100.7", "--from", "203.0.113.9", "--to", "198.51.100.7:30080"],
    );
    tells(
        &other,
        &[
            "30080/TCP is a NodePort of shop/web:http, but --nodeport-addresses does not include 198.51.100.7",
            "192.0.2.11 serves it",
        ],
    );
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

#[test]
fn an_address_that_no_service_has() {
    tells(&explain(&SOUND, "10.96.0.99:80"), &["none", "no Service has 10.96.0.99 with port 80/TCP"]);
    // The network of ClusterIPs tells more.
    let service = "type: NodePort, clusterIP: 10.96.0.10, ports: [{name: http, port: 80, nodePort: 30080}]}\n---\n\
        apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16]";
    let objects = Objects { service, ..SOUND };
    let text = explain(&objects, "10.96.0.99:80");
    tells(&text, &["10.96.0.99 is inside the ServiceCIDR 10.96.0.0/16"]);
    let json =
        portreeve(&objects, &["explain", "-o", "json", "--from", "10.244.0.9", "--to", "10.96.0.99:80"]);
    tells(&json, &["\"reason_code\": \"unallocated_address\""]);
}

#[test]
fn a_client_of_the_other_family() {
    let text = portreeve(&SOUND, &["explain", "--from", "fd00::9", "--to", "10.96.0.10:80", "-o", "json"]);
    tells(&text, &["\"reason_code\": \"mixed_families\""]);
}

/// The name of each reason in the machine's output.
#[test]
fn the_reasons_have_codes() {
    let local = "type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.10, \
        ports: [{name: http, port: 80, nodePort: 30080}]";
    let ranges = "type: LoadBalancer, clusterIP: 10.96.0.10, loadBalancerSourceRanges: [198.51.100.0/24], \
        ports: [{name: http, port: 80, nodePort: 30080}]}\n\
        status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}";
    for (objects, to, code) in [
        (Objects { endpoints: "", ..SOUND }, "10.96.0.10:80", "no_endpoint"),
        (Objects { service: local, ..SOUND }, "192.0.2.11:30080", "policy_has_no_local_endpoint"),
        (Objects { service: ranges, ..SOUND }, "203.0.113.10:80", "source_not_in_ranges"),
        (SOUND, "10.96.0.10:81", "undefined_port"),
        (SOUND, "127.0.0.1:30080", "node_port_not_served"),
        (SOUND, "192.0.2.77:80", "no_frontend"),
    ] {
        let text = portreeve(&objects, &["explain", "-o", "json", "--from", "203.0.113.9", "--to", to]);
        tells(&text, &[&format!("\"reason_code\": \"{code}\"")]);
    }
}

/// Each fault has a story of a running node that brings it about, and a line on the page; the page has no other.
#[test]
fn the_page_has_the_faults_that_stories_bring_about() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut faults = BTreeSet::new();
    for Fault { name, command, identifier, words, file, test, unstaged } in FAULTS {
        let source = fs::read_to_string(repository.join(file)).unwrap();
        let code = source
            .split_once(&format!("fn {test}("))
            .unwrap_or_else(|| panic!("{file} has no test {test}"))
            .1;
        // Up to the end of the function, or to the next test of a module.
        let body = code.split("\n}\n").next().unwrap().split("#[test]").next().unwrap();
        let is_held = body.contains(words) || body.contains(&format!("\"{name}\""));
        assert!(is_held, "{name}: neither `{words}` nor the name is in {test} of {file}");
        assert_eq!(file.starts_with("tests/tests/"), unstaged.is_none(), "{name}: {file} {unstaged:?}");
        assert!(faults.insert(format!("{name} | `{command}` | `{identifier}`")), "{name} is there twice");
    }
    let unstaged: Vec<_> = FAULTS.iter().filter(|fault| fault.unstaged.is_some()).collect();
    assert!(unstaged.len() <= 3, "{:?}", unstaged.iter().map(|fault| fault.name).collect::<Vec<_>>());
    let page = fs::read_to_string(repository.join("docs/troubleshooting.md")).unwrap();
    let table = page.split_once("| fault | command | identifier |").unwrap().1;
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| "));
    let rows: BTreeSet<String> =
        rows.map(|row| row.split(" | ").take(3).collect::<Vec<_>>().join(" | ")).collect();
    let missing: Vec<_> = faults.difference(&rows).collect();
    let more: Vec<_> = rows.difference(&faults).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "not on the page: {missing:#?}, without a story: {more:#?}"
    );
    assert!(FAULTS.len() >= 50, "{}", FAULTS.len());
}
