//! What clients cannot use although the objects are valid has its cause in `explain` and `plan`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

use serde_json::{Value, json};

/// A Service with this spec and status, and a slice for it with these ports.
fn service(name: &str, fields: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n{fields}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
         endpoints: [{{addresses: [10.244.0.6]}}]\nports: {ports}\n---\n"
    )
}

fn portreeve(manifests: &str, verb: &str, args: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), manifests).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .args([verb, "-o", "json", "--node-name", "node-1", "--node-address", "192.0.2.11", "--manifests"])
        .arg(directory.path())
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn explain(manifests: &str, to: &str) -> Value {
    portreeve(manifests, "explain", &["--from", "203.0.113.9", "--to", to])
}

#[test]
fn a_mismatch_of_port_names_is_named() {
    let fields = "spec: {type: NodePort, clusterIP: 10.96.1.4, ports: [{port: 80, nodePort: 30950}]}";
    let manifests = service("hello", fields, "[{name: http, port: 80}]");
    let explained = explain(&manifests, "192.0.2.11:30950");
    assert_eq!((&explained["result"], &explained["reason_code"]), (&json!("reject"), &json!("no_endpoint")));
    let cause = "the EndpointSlices of the Service have endpoints for port `http` (TCP) instead";
    assert_eq!(
        explained["reason"],
        format!("default/hello has no IPv4 endpoints for the unnamed port (TCP): {cause}")
    );
    assert_eq!(
        portreeve(&manifests, "plan", &[])["skipped"],
        json!([{"object": "Service default/hello",
            "reason": format!("the unnamed port (TCP) has no IPv4 endpoints: {cause}"), "reason_code": "port_names"}])
    );
    // A port that waits for its first endpoint is no mismatch.
    let waiting = service("hello", fields, "[{port: 80}]").replace("{addresses: [10.244.0.6]}", "");
    assert_eq!(portreeve(&waiting, "plan", &[])["skipped"], json!([]));
    assert_eq!(explain(&waiting, "192.0.2.11:30950")["reason"], "default/hello has no IPv4 endpoints");
}

#[test]
fn a_lost_claim_on_an_address_is_named() {
    let fields = |ip: &str| {
        format!(
            "spec: {{type: LoadBalancer, clusterIP: {ip}, ports: [{{port: 80}}]}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: 198.51.100.31}}]}}}}"
        )
    };
    let one = service("one", &fields("10.96.1.31"), "[{port: 8080}]");
    let two = service("two", &fields("10.96.1.32"), "[{port: 8080}]");
    let skipped = &portreeve(&(one + &two), "plan", &[])["skipped"];
    assert_eq!(
        *skipped,
        json!([{"object": "Service default/two", "reason": "LoadBalancer 198.51.100.31:80/TCP is served for default/one, \
            which precedes it: ClusterIPs precede other addresses, then the lowest name counts", "reason_code": "lost_claim"}])
    );
}

#[test]
fn a_health_check_port_that_is_a_node_port_is_named() {
    let nodeport = "spec: {type: NodePort, clusterIP: 10.96.1.33, ports: [{port: 80, nodePort: 30999}]}";
    let balanced = "spec: {type: LoadBalancer, clusterIP: 10.96.1.34, externalTrafficPolicy: Local, \
        healthCheckNodePort: 30999, ports: [{port: 80, nodePort: 30998}]}";
    let manifests = service("web", nodeport, "[{port: 80}]") + &service("balanced", balanced, "[{port: 80}]");
    assert_eq!(
        portreeve(&manifests, "plan", &[])["skipped"],
        json!([{"object": "Service default/balanced",
            "reason": "IPv4 health checks at port 30999 do not arrive: it is the NodePort of default/web", "reason_code": "health_check_port"}])
    );
}

#[test]
fn a_service_beyond_its_share_of_the_tables_is_named() {
    let ports: Vec<_> = (1..=17_000).map(|n| format!("{{name: p{n}, port: {n}}}")).collect();
    let fields = format!("spec: {{clusterIP: 10.96.1.35, ports: [{}]}}", ports.join(", "));
    let manifests = service("huge", &fields, "[{name: p1, port: 80}]")
        + &service(
            "web",
            "spec: {clusterIP: 10.96.1.36, \
        ports: [{port: 80}]}",
            "[{port: 80}]",
        );
    assert_eq!(
        portreeve(&manifests, "plan", &[])["skipped"],
        json!([{"object": "Service default/huge", "reason": "616 frontends are not served: Service default/huge has used \
            up its share of SERVICES (16384 entries)", "reason_code": "not_programmed"}])
    );
    // The ports are written in their order.
    let last = explain(&manifests, "10.96.1.35:17000");
    assert_eq!((&last["result"], &last["reason_code"]), (&json!("reject"), &json!("not_programmed")));
    assert_eq!(
        last["reason"],
        "the frontend of default/huge:p17000 is not programmed: Service default/huge has used up its share of \
         SERVICES (16384 entries)"
    );
    assert_eq!(explain(&manifests, "10.96.1.35:1")["result"], "dnat");
    let larger = &["--from", "203.0.113.9", "--to", "10.96.1.35:17000", "--max-service-ports", "80000"];
    assert_eq!(portreeve(&manifests, "explain", larger)["reason_code"], "no_endpoint");
}

#[test]
fn a_service_beyond_its_share_of_source_ranges_is_closed_and_named() {
    let balanced = |name: &str, n: u8, ranges: &str| {
        let fields = format!(
            "spec: {{type: LoadBalancer, clusterIP: 10.96.2.{n}, ports: [{{port: 80, nodePort: 310{n}}}], \
             loadBalancerSourceRanges: [{ranges}]}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: 198.51.100.{n}}}]}}}}"
        );
        service(name, &fields, "[{port: 8080}]")
    };
    let many: Vec<_> = (0..17_000).map(|n| format!("203.{}.{}.0/24", n / 256, n % 256)).collect();
    let manifests = balanced("huge", 41, &many.join(", ")) + &balanced("web", 42, "203.0.113.0/24");
    let share = "Service default/huge has used up its share of SOURCE_RANGES_V4 (16384 entries)";
    let plan = portreeve(&manifests, "plan", &[]);
    assert_eq!(
        plan["skipped"],
        json!([{"object": "Service default/huge", "reason": format!("1 frontends are not served: {share}"),
            "reason_code": "not_programmed"}])
    );
    let reasons: Vec<_> = plan["frontends"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|frontend| Some((&frontend["address"], frontend.get("not_programmed")?)))
        .collect();
    assert_eq!(reasons, [(&json!("198.51.100.41"), &json!(share))]);
    let closed = explain(&manifests, "198.51.100.41:80");
    assert_eq!((&closed["result"], &closed["reason_code"]), (&json!("none"), &json!("not_programmed")));
    assert!(closed["reason"].as_str().unwrap().ends_with(share), "{closed}");
    assert_eq!(explain(&manifests, "198.51.100.42:80")["result"], "dnat");
}

#[test]
fn sctp_to_another_port_is_refused_in_every_tool() {
    let fields = "spec: {type: NodePort, clusterIP: 10.96.1.38, \
        ports: [{name: ngap, port: 38412, protocol: SCTP, nodePort: 31412}]}";
    let manifests = service("amf", fields, "[{name: ngap, port: 38412, protocol: SCTP}]");
    let refused = explain(&manifests, "192.0.2.11:31412/sctp");
    assert_eq!(
        (&refused["result"], &refused["backends"], &refused["reason_code"]),
        (&json!("reject"), &json!([]), &json!("sctp_port_differs"))
    );
    let kept = explain(&manifests, "10.96.1.38:38412/sctp");
    assert_eq!((&kept["result"], &kept["backends"]), (&json!("dnat"), &json!(["10.244.0.6:38412"])));

    let plan = portreeve(&manifests, "plan", &[]);
    let backends: Vec<_> = plan["frontends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frontend| (&frontend["kind"], &frontend["internal"], &frontend["when_empty"]))
        .collect();
    let (cluster_ip, node_port, reject) = (json!("ClusterIP"), json!("NodePort"), json!("reject"));
    let (served, none) = (json!(["10.244.0.6:38412"]), json!([]));
    assert_eq!(backends, [(&cluster_ip, &served, &reject), (&node_port, &none, &reject)]);
    assert_eq!(
        plan["skipped"],
        json!([{"object": "Service default/amf", "reason": "NodePort *:31412/SCTP is refused for endpoints with port 38412: \
            SCTP's checksum allows no translation of ports", "reason_code": "sctp_ports"}])
    );
}
