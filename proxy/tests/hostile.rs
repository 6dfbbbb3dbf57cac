//! A thousand malformed files: each gives objects or an error with its name, none a panic, and a valid Service beside them
//! is served.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use proxy::{
    manifests,
    model::{
        address::{IpFamily, Protocol},
        flow::{Flow, FlowOutcome},
        policy::Policy,
    },
};
use serde_json::Value;

const FILES: usize = 1000;

/// First by name, so that no hostile object with the same name precedes it.
const GOOD_FILE: &str = "0-good.yaml";
const GOOD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: good}
spec: {clusterIP: 10.99.99.99, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: good, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1]}]
ports: [{name: http, port: 8080}]
";

const OBJECTS: [&str; 8] = [
    "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  labels: {app: web}\nspec:\n  type: LoadBalancer\n  clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10, \"fd00::1\"]\n  ipFamilies: [IPv4, IPv6]\n  externalIPs: [1.2.3.4]\n  loadBalancerSourceRanges: [\"203.0.113.0/24\"]\n  sessionAffinity: ClientIP\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n    nodePort: 30080\nstatus:\n  loadBalancer:\n    ingress:\n    - ip: 1.2.3.4\n      ipMode: VIP\n",
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  labels:\n    kubernetes.io/service-name: web\naddressType: IPv4\nendpoints:\n- addresses: [10.1.0.1]\n  conditions:\n    ready: true\n  nodeName: node-1\n  hints:\n    forZones:\n    - name: zone-a\nports:\n- name: http\n  port: 8080\n  protocol: TCP\n",
    "apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: db\nsubsets:\n- addresses:\n  - ip: 10.1.0.2\n  notReadyAddresses:\n  - ip: 10.1.0.3\n  ports:\n  - port: 5432\n",
    "apiVersion: v1\nkind: Node\nmetadata:\n  name: node-1\n  labels:\n    topology.kubernetes.io/zone: zone-a\nspec:\n  podCIDRs: [10.1.0.0/24]\nstatus:\n  addresses:\n  - type: InternalIP\n    address: 192.168.0.2\n",
    "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata:\n  name: kubernetes\nspec:\n  cidrs: [10.96.0.0/16]\n",
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: x}\n  spec: {clusterIP: None}\n- apiVersion: v1\n  kind: List\n  items: []\n",
    "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"json\"}, \"spec\": {\"clusterIP\": \"10.96.0.11\", \"ports\": [{\"port\": 80}]}}",
    "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: other\nspec:\n  template: |\n    kind: Service\n    ---x\n",
];

/// Replacements and insertions.
const NASTY: [&str; 40] = [
    "null",
    "~",
    "true",
    "0",
    "-1",
    "65536",
    "4294967296",
    "99999999999999999999",
    "1e999",
    ".nan",
    "\"\"",
    "''",
    "[]",
    "{}",
    "[[]]",
    "{a: {}}",
    "- ",
    "-",
    ":",
    "? ",
    "&a",
    "*a",
    "<<: *a",
    "!!binary x",
    "!!str 1",
    "|",
    ">",
    "#",
    "%YAML 9.9",
    "---",
    "...",
    "\t",
    "\r",
    "\u{0}",
    "\u{feff}",
    "ä\u{202e}",
    "::ffff:1.2.3.4",
    "1.2.3.4/0",
    "fe80::1%eth0",
    "List",
];

fn text() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), select(NASTY.to_vec()), 0..5_u8);
    let mangled = (prop::collection::vec(select(OBJECTS.to_vec()), 1..4), prop::collection::vec(edit, 0..6))
        .prop_map(|(objects, edits)| {
            let mut text = objects.join("---\n");
            for (from, to, nasty, how) in edits {
                text = edited(&text, from, to, nasty, how);
            }
            text
        });
    let noise = prop::collection::vec(select(NASTY.to_vec()), 0..12).prop_map(|pieces| pieces.join(" "));
    let deep = (1_usize..20_000, select(vec!["[", "{a: ", "- ", "{\"a\":", "(", "&a [", "a: "]))
        .prop_map(|(depth, piece)| piece.repeat(depth));
    let lists = (1_usize..200).prop_map(|depth| {
        let open = "{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[".repeat(depth);
        format!("{open}{}", "]}".repeat(depth))
    });
    prop_oneof![12 => mangled, 2 => noise, 1 => deep, 1 => lists]
}

/// Replaces a value, deletes a range, inserts, repeats a line or truncates.
fn edited(text: &str, from: prop::sample::Index, to: prop::sample::Index, nasty: &str, how: u8) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return nasty.to_owned();
    }
    let line = from.index(lines.len());
    match how {
        0 => match lines[line].split_once(": ") {
            Some((name, _)) => lines[line] = format!("{name}: {nasty}"),
            None => lines[line] = nasty.to_owned(),
        },
        1 => drop(lines.remove(line)),
        2 => lines.insert(line, nasty.to_owned()),
        3 => lines.insert(line, lines[to.index(lines.len())].clone()),
        _ => {
            let cut = lines[line].chars().count();
            lines[line] = lines[line].chars().take(to.index(cut + 1)).collect();
        }
    }
    lines.join("\n")
}

fn files() -> Vec<Vec<u8>> {
    let mut runner = TestRunner::new(Config::default());
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    let file = prop_oneof![9 => text().prop_map(String::into_bytes), 1 => bytes];
    (0..FILES).map(|_| file.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn whatever_files_hold_there_is_a_plan_or_a_complaint() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(GOOD_FILE), GOOD).unwrap();
    let (mut with_objects, mut with_complaints) = (0, 0);
    for (n, bytes) in files().iter().enumerate() {
        let path = dir.path().join(format!("{n}.yaml"));
        fs::write(&path, bytes).unwrap();
        let (has_objects, has_complaints) = alone(&path, bytes);
        with_objects += usize::from(has_objects);
        with_complaints += usize::from(has_complaints);
    }
    assert!(with_objects > FILES / 4 && with_complaints > FILES / 4, "{with_objects}, {with_complaints}");
    together(dir.path());
    through_the_binary(dir.path());
}

/// A file fails to load only if it is not text. Returns whether it gave objects, and errors.
fn alone(path: &Path, bytes: &[u8]) -> (bool, bool) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(loaded) = manifests::load(path) else {
        assert!(std::str::from_utf8(bytes).is_err(), "{text}");
        return (false, true);
    };
    let (objects, complaints) = (loaded.objects.len(), loaded.skipped.len());
    let (_, skipped) = loaded.to_index(policy());
    assert!(skipped.len() >= complaints, "complaints do not get lost: {text}");
    for skip in &skipped {
        assert!(!skip.reason.is_empty() && skip.object.contains(".yaml"), "{skip:?}: {text}");
    }
    (objects > 0, !skipped.is_empty())
}

fn together(dir: &Path) {
    let (index, _) = manifests::load(dir).unwrap().to_index(policy());
    let keys: Vec<_> = index.frontends().map(|frontend| frontend.key).collect();
    for key in keys {
        let port = key.port;
        let address = match key.address.family() {
            IpFamily::V4 => "192.168.0.2",
            IpFamily::V6 => "fd00::1",
        };
        let destination = format!("[{address}]:{port}").replace("[192.168.0.2]", "192.168.0.2");
        let flow = flow("10.1.0.9", &destination);
        assert!(!index.explain(&flow).reason.to_string().is_empty());
    }
    let verdict = index.explain(&flow("10.1.0.9", "10.99.99.99:80"));
    let backends: Vec<_> = verdict.choices.iter().map(|choice| choice.backend.address.to_string()).collect();
    assert_eq!((verdict.outcome, backends), (FlowOutcome::Dnat, vec!["10.1.0.1:8080".to_owned()]));
}

fn through_the_binary(dir: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.arg("plan").arg("--manifests").arg(dir).args(["-o", "json", "--node-name", "node-1"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let good =
        plan["frontends"].as_array().unwrap().iter().filter(|frontend| frontend["service"] == "good/web");
    assert_eq!(good.count(), 1);
    assert!(!plan["skipped"].as_array().unwrap().is_empty());
}

fn policy() -> Policy {
    Policy { node_name: "node-1".to_owned(), ..Policy::default() }
}

fn flow(source: &str, destination: &str) -> Flow {
    Flow {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: Protocol::Tcp,
    }
}

/// An unreadable file is skipped in a directory, and an error if it is the argument.
#[test]
fn a_file_asked_for_by_name_is_read_or_the_answer_is_no() {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("binary.yaml");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    for (path, want) in [
        (binary.as_path(), "not UTF-8 text"),
        (&dir.path().join("absent.yaml"), "No such file or directory"),
        (Path::new("/dev/null"), "not a regular file"),
    ] {
        let error = manifests::load(path).unwrap_err();
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains(want), "{}: {reason}", path.display());
    }
    let of_directory = manifests::load(dir.path()).unwrap();
    assert_eq!(of_directory.skipped.len(), 1);
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.args(["plan", "--manifests", "/dev/stdin", "-o", "json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(GOOD.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["frontends"][0]["service"], "good/web");
    assert_eq!(plan["skipped"], Value::Array(Vec::new()));
}
