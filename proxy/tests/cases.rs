//! The behaviour of kube-proxy, checked on the built binary: every flow of `testdata/cases/` with `explain`, and every
//! case with `plan`. The results in `more.json` are derived from the rules that each case cites.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path, process::Command, thread};

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    id: String,
    node: Node,
    config: Config,
    objects: Vec<Value>,
    /// Whether an API server would accept all of the objects.
    api_valid: bool,
    #[serde(default)]
    flows: Vec<Flow>,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    ips: Vec<String>,
    labels: Value,
}

#[derive(Deserialize)]
struct Config {
    masquerade_all: bool,
    detect_local: String,
    cluster_cidr: String,
    nodeport_addresses: Vec<String>,
    localhost_nodeports: bool,
    service_cidrs: Vec<String>,
}

#[derive(Deserialize)]
struct Flow {
    name: String,
    from: String,
    to: String,
    port: u16,
    protocol: String,
    expect: Value,
}

/// Flows that kube-proxy's two modes treat differently, where Portreeve follows nftables and the case was written for
/// iptables: (case, flow, result, reason).
const DEVIATIONS: &[(&str, &str, &str, &str)] = &[];

fn cases() -> Vec<Case> {
    let files =
        [include_str!("../testdata/cases/services.json"), include_str!("../testdata/cases/more.json")];
    files.into_iter().flat_map(|text| serde_json::from_str::<Vec<Case>>(text).unwrap()).collect()
}

#[test]
fn every_flow_is_explained_as_kube_proxy_treats_it() {
    let wrong = in_parallel(&cases(), |case| {
        let dir = tempfile::tempdir().unwrap();
        write_manifests(case, dir.path());
        let check = |flow| differences(case, flow, &explain(case, flow, dir.path()));
        case.flows.iter().filter_map(check).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Parallel, as it starts a thousand processes.
fn in_parallel(cases: &[Case], check: impl Fn(&Case) -> Vec<String> + Sync) -> Vec<String> {
    let threads = 2 * thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let start = |share: usize| {
            let check = &check;
            scope.spawn(move || cases.iter().skip(share).step_by(threads).flat_map(check).collect::<Vec<_>>())
        };
        let workers: Vec<_> = (0..threads).map(start).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
fn every_case_has_a_plan_without_complaints() {
    let wrong = in_parallel(&cases(), |case| {
        let dir = tempfile::tempdir().unwrap();
        write_manifests(case, dir.path());
        let plan = portreeve("plan", case, dir.path(), &[]);
        // Parts of Services that clients cannot use are no complaints about the objects.
        let is_complaint = |skipped: &&Value| {
            !skipped["object"].as_str().is_some_and(|object| object.starts_with("Service "))
        };
        let complaints = plan["skipped"].as_array().unwrap().iter().filter(is_complaint);
        let is_whole = complaints.count() == 0 || !case.api_valid;
        let is_plan = plan["frontends"].is_array() && plan["dns"]["records"].is_u64();
        let wrong = (!is_whole || !is_plan).then(|| format!("{}: {plan}", case.id));
        wrong.into_iter().collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn write_manifests(case: &Case, dir: &Path) {
    let mut objects = case.objects.clone();
    objects.push(json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": case.node.name, "labels": case.node.labels}}));
    objects.push(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": case.config.service_cidrs}}));
    let documents: Vec<_> = objects.iter().map(Value::to_string).collect();
    fs::write(dir.join("objects.yaml"), documents.join("\n---\n")).unwrap();
}

fn explain(case: &Case, flow: &Flow, dir: &Path) -> Value {
    let host = if flow.to.contains(':') { format!("[{}]", flow.to) } else { flow.to.clone() };
    let to = format!("{host}:{}/{}", flow.port, flow.protocol.to_lowercase());
    portreeve("explain", case, dir, &["--from", &flow.from, "--to", &to])
}

fn portreeve(verb: &str, case: &Case, dir: &Path, more: &[&str]) -> Value {
    let config = &case.config;
    assert_eq!(
        config.detect_local == "none",
        config.cluster_cidr.is_empty(),
        "{}: the two go together",
        case.id
    );
    let every = ["0.0.0.0/0,::/0".to_owned()];
    let nodeports =
        if config.nodeport_addresses.is_empty() { &every } else { &config.nodeport_addresses[..] };
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.arg(verb).arg("--manifests").arg(dir).args(["-o", "json", "--node-name", &case.node.name]);
    command.args(["--cluster-cidr", &config.cluster_cidr, "--nodeport-addresses", &nodeports.join(",")]);
    command.args(["--localhost-nodeports", &config.localhost_nodeports.to_string()]);
    command.args(case.node.ips.iter().flat_map(|ip| ["--node-address", ip]));
    command.args(config.masquerade_all.then_some("--masquerade-all"));
    let output = command.args(more).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", case.id);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn differences(case: &Case, flow: &Flow, got: &Value) -> Option<String> {
    let name = format!("{} / {}", case.id, flow.name);
    let deviation = DEVIATIONS.iter().find(|(id, flow_name, ..)| *id == case.id && *flow_name == flow.name);
    if let Some((.., ours, _)) = deviation {
        return (got["result"] != *ours).then(|| format!("{name}: want {ours}, got {got}"));
    }
    let fields = flow.expect.as_object().unwrap();
    let differs = fields.iter().any(|(field, want)| match field.as_str() {
        "backends" => texts(want) != texts(&got[field]),
        _ => *want != got[field],
    });
    let by_backend = "masquerade_by_backend";
    let differs = differs || fields.get(by_backend) != got.get(by_backend);
    differs.then(|| format!("{name}: want {}, got {got}", flow.expect))
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}
