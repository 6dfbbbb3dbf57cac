//! `portreeve report`, and the commands that answer from its archive. The data plane in it needs root:
//! `tests/tests/report.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "only a part of it is needed here")]
#[path = "screens/terminal.rs"]
mod terminal;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::{Value, json};

/// Documents as the agent sends them.
const OBJECTS: &str = r#"---
{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-of-alice"},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.11"}]}}
---
{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"shop-of-alice","name":"secretweb","labels":{"owner":"alice"}},"spec":{"clusterIP":"10.96.0.10","ports":[{"name":"http","port":80}]}}
---
{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"shop-of-alice","name":"ready"},"spec":{"clusterIP":"None"}}
---
{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"default","name":"kubernetes"},"spec":{"clusterIP":"10.96.0.1","ports":[{"name":"https","port":443}]}}
---
{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"namespace":"shop-of-alice","name":"secretweb-x7","labels":{"kubernetes.io/service-name":"secretweb"}},"addressType":"IPv4","ports":[{"name":"http","port":8080}],"endpoints":[{"addresses":["10.244.1.4"],"nodeName":"node-of-alice","targetRef":{"kind":"Pod","name":"secretweb-pod-1"},"conditions":{"ready":true}}]}
# end
"#;

const LOG: &str = "2026-01-01T00:00:00Z  INFO ready frontends=2 node=node-of-alice\n\
    2026-01-01T00:00:01Z DEBUG change service=shop-of-alice/secretweb slice=shop-of-alice/secretweb-x7\n\
    2026-01-01T00:00:02Z  WARN object skipped object=\"EndpointSlice old-of-alice/gone-x1\" 10.244.1.4:8080\n";

const METRICS: &str = "# HELP portreeve_x Of a Service.\n# TYPE portreeve_x counter\n\
    portreeve_x{namespace=\"shop-of-alice\",service=\"secretweb\",port=\"http\"} 3\n";

fn policy() -> Value {
    json!({
        "node_name": "node-of-alice", "node_addresses": [], "bind_address": null, "nodeport_addresses": ["primary"],
        "localhost_nodeports": true, "cluster_cidrs": ["10.244.0.0/16"], "detect_local": "ClusterCIDR",
        "pod_interface": null, "masquerade_all": false, "external_ips": true, "name_server": null, "has_names": true,
    })
}

fn status() -> Value {
    json!({
        "version": "1.2.3", "process": 4711, "node": "node-of-alice", "started": "2026-01-01T00:00:00Z",
        "phase": "serving", "last_sync": "2026-01-01T00:00:00Z", "pending_since": null, "frontends": 3,
        "unwritten_frontends": 0, "skipped_objects": 0, "reattachments": 0, "cgroup": "/sys/fs/cgroup",
        "cgroup_scope": "Root", "planes": {"socket_lb": "all", "packet": true}, "devices": [], "ports": [],
        "tables": [], "conditions": [],
    })
}

/// As the agent sends them, and it ends.
const EVENTS: &str = r#"{"listening":{"node":"node-of-alice"}}

{"event":{"time":"2026-01-01T12:00:00Z","node":"node-of-alice","verdict":"refused","event":"refused","reason":"no_endpoint","message":null,"plane":"socket","hook":"connect","interface":null,"ip_version":"IPv4","protocol":"TCP","service":"shop-of-alice/secretweb","port_name":"http","source":{"ip":"10.244.1.4","port":null,"pod":"shop-of-alice/secretweb-pod-1","node":null},"destination":{"ip":"10.96.0.10","port":80,"pod":null,"node":null},"backend":null,"process":{"id":7,"command":"alices-client"},"duration_seconds":null}}
{"lost_events":{"source":"ring","count":3}}
"#;

fn answer(request: &[u8]) -> Vec<u8> {
    let json = |value: Value| serde_json::to_vec(&value).unwrap();
    match std::str::from_utf8(request).unwrap() {
        "" => json(status()),
        "objects" => OBJECTS.as_bytes().to_vec(),
        "policy" => json(policy()),
        "log" => json(json!(LOG)),
        "metrics" => json(json!(METRICS)),
        "configuration" => {
            json(json!({"arguments": ["run", "--node-name=node-of-alice"], "configuration": {"mode": ""}}))
        }
        "names" => json(json!({
            "since": "2026-01-01T12:00:00Z", "upstreams": [],
            "clients": [{"kind": "pod", "client": "shop-of-alice/secretweb-pod-1", "addresses": ["10.244.1.4"],
                         "queries": 3, "topics": {"service": 3}, "troubles": {}}],
        })),
        events if events.starts_with("events {") => EVENTS.as_bytes().to_vec(),
        _ => json(Value::Null),
    }
}

fn agent(run_dir: &Path, answer: fn(&[u8]) -> Vec<u8>) {
    let listener = UnixListener::bind(run_dir.join("nowhere.sock")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let _ = stream.read_to_end(&mut request);
            // The client may be gone.
            let _ = stream.write_all(&answer(&request));
        }
    });
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.current_dir(directory).args(arguments).stdin(Stdio::null());
    command.env_remove("KUBECONFIG").env("NO_COLOR", "1");
    command
}

/// `report` beside the agent whose socket is in the directory, if there is one.
fn report(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = command(directory, &["report", "--bpffs", "/nowhere", "--run-dir"]);
    command.arg(directory).args(arguments).output().unwrap()
}

/// The files of an archive, each below its one directory.
fn files(archive: &Path) -> BTreeMap<String, String> {
    let mut tar = tar::Archive::new(GzDecoder::new(fs::File::open(archive).unwrap()));
    let files = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let name = path.strip_prefix("portreeve-report/").unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    files.collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A directory with the archive `a.tar.gz` of a running agent.
fn archive(arguments: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    agent(directory.path(), answer);
    let output = report(directory.path(), &[&["--output", "a.tar.gz"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    directory
}

/// The output of a command on that archive.
fn offline(directory: &Path, arguments: &[&str]) -> String {
    let output = command(directory, arguments).args(["--report", "a.tar.gz"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_an_agent_the_archive_says_what_is_missing_and_why() {
    let directory = tempfile::tempdir().unwrap();
    let output = report(directory.path(), &["--output", "a.tar.gz"]);
    assert!(output.status.success(), "{output:?}");
    let path = directory.path().join("a.tar.gz");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let files = files(&path);
    let of_kernel = ["kernel.json", "sysctls.txt", "check.json", "routes.txt", "rules.txt", "links.txt"];
    for name in ["report.json", "missing.txt", "status.json"].into_iter().chain(of_kernel) {
        assert!(files.contains_key(name), "{name} is not in {:?}", files.keys());
    }
    let missing = &files["missing.txt"];
    for name in [
        "objects.yaml",
        "events.jsonl",
        "log.txt",
        "metrics.txt",
        "configuration.json",
        "policy.json",
        "maps/dns.json",
    ] {
        let line = missing.lines().find(|line| line.starts_with(&format!("{name}: ")));
        assert!(line.is_some_and(|line| line.contains("no agent runs")), "{name} in\n{missing}");
    }
    assert!(missing.contains("maps/services.json: no data plane at /nowhere"), "{missing}");
    let head = json(&files["report.json"]);
    assert_eq!((head["report_version"].as_u64(), head["anonymized"].as_str()), (Some(1), Some("nothing")));
    assert_eq!(json(&files["kernel.json"])["release"].as_str().unwrap().trim(), kernel_release());

    let told = |arguments: &[&str], words: &str| {
        let output = command(directory.path(), arguments).args(["--report", "a.tar.gz"]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains(words), "{error}");
    };
    told(&["plan"], "a.tar.gz has no objects: no agent runs");
    told(&["get", "services"], "a.tar.gz has no maps/services.json: no data plane at /nowhere");
}

/// The node's tools print them; a tool that fails or is not there is named.
#[test]
fn firewall_rules_are_those_that_the_nodes_tools_print() {
    let directory = tempfile::tempdir().unwrap();
    let tools = directory.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for (name, script) in
        [("nft", "#!/bin/sh\necho \"table inet mine $*\"\n"), ("ip6tables-save", "#!/bin/sh\nexit 3\n")]
    {
        fs::write(tools.join(name), script).unwrap();
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let arguments = ["report", "--bpffs", "/nowhere", "--run-dir", "/nowhere", "--output", "a.tar.gz"];
    let output = command(directory.path(), &arguments).env("PATH", &tools).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let files = files(&directory.path().join("a.tar.gz"));
    assert_eq!(files["nftables.txt"], "table inet mine list ruleset\n");
    let missing = &files["missing.txt"];
    assert!(missing.contains("iptables.txt: cannot run iptables-save: No such file"), "{missing}");
    assert!(missing.contains("ip6tables.txt: ip6tables-save failed: exit status: 3"), "{missing}");
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

#[test]
fn an_archive_is_written_to_a_new_file_only() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("there"), "mine").unwrap();
    symlink("elsewhere", at("link")).unwrap();
    for name in ["there", "link"] {
        let output = report(directory.path(), &["--output", name]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(error.contains(&format!("{name} exists")), "{error}");
    }
    assert_eq!(fs::read_to_string(at("there")).unwrap(), "mine");
    assert!(!at("elsewhere").exists());

    let output = report(directory.path(), &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    let mut names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let name =
        names.find_map(|name| name.into_string().ok().filter(|name| name.ends_with(".tar.gz"))).unwrap();
    assert!(name.starts_with("portreeve-report-") && told.contains(&name), "{name}: {told}");

    let output = report(directory.path(), &["--output", "-"]);
    assert_eq!(output.stdout.get(..2), Some(&[0x1f, 0x8b][..]), "gzip on standard output");
    let mut on_terminal = command(directory.path(), &["report", "--output", "-", "--bpffs", "/nowhere"]);
    on_terminal.arg("--run-dir").arg(directory.path());
    assert_eq!(terminal::in_terminal(on_terminal, 80), "", "no archive on a terminal");
}

#[test]
fn plan_and_explain_answer_from_the_report() {
    let directory = archive(&[]);
    let directory = directory.path();
    let plan = offline(directory, &["plan"]);
    assert!(plan.contains("shop-of-alice/secretweb:http  ClusterIP  10.96.0.10  80/TCP"), "{plan}");
    // Node, pod networks and addresses are those of the agent, without flags.
    assert!(plan.contains("1 (1 local)"), "{plan}");
    let explain = |from: &str| {
        let to = ["--to", "10.96.0.10:80", "-o", "json"];
        json(&offline(directory, &[&["explain", "--from", from][..], &to].concat()))
    };
    assert_eq!(explain("10.244.1.9")["masquerade"], false, "a pod, as the agent has the cluster's network");
    assert_eq!(explain("203.0.113.9")["masquerade"], true);
    let name = offline(directory, &["explain", "--dns", "secretweb", "--namespace", "shop-of-alice"]);
    assert!(name.contains("10.96.0.10"), "{name}");
    let clients = offline(directory, &["get", "dns"]);
    assert!(clients.contains("shop-of-alice/secretweb-pod-1  3"), "{clients}");

    let conflict =
        command(directory, &["plan", "--report", "a.tar.gz", "--node-name", "x"]).output().unwrap();
    assert_eq!(conflict.status.code(), Some(2), "the policy is that of the report");
    let files = files(&directory.join("a.tar.gz"));
    assert_eq!(files["log.txt"], LOG);
    assert_eq!(files["metrics.txt"], METRICS);
    assert!(files["flags.txt"].contains("--node-name=node-of-alice"));
    assert!(
        files["missing.txt"].lines().all(|line| !line.starts_with("objects")),
        "{}",
        files["missing.txt"]
    );
}

#[test]
fn events_are_lines_and_can_be_left_out() {
    let directory = archive(&[]);
    let found = files(&directory.path().join("a.tar.gz"));
    let lines: Vec<Value> = found["events.jsonl"].lines().map(json).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        (&lines[0]["service"], &lines[0]["reason"]),
        (&"shop-of-alice/secretweb".into(), &"no_endpoint".into())
    );
    assert_eq!(lines[1], json!({"lost_events": {"source": "ring", "count": 3}}));
    let missing = &found["missing.txt"];
    assert!(missing.contains("events.jsonl: not whole: the agent at "), "{missing}");

    let without = archive(&["--events=0"]);
    let found = files(&without.path().join("a.tar.gz"));
    assert!(
        !found.contains_key("events.jsonl") && !found["missing.txt"].contains("events.jsonl"),
        "{found:?}"
    );
}

/// The name that stands for another one, found by what is beside it.
fn hashed(files: &BTreeMap<String, String>, before: &str, file: &str) -> String {
    let rest = files[file].split_once(before).unwrap_or_else(|| panic!("{before} in\n{}", files[file])).1;
    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
}

#[test]
fn names_are_replaced_everywhere_and_alike() {
    let directory = archive(&["--anonymize"]);
    let files_of = |directory: &Path| files(&directory.join("a.tar.gz"));
    let files = files_of(directory.path());
    for (file, text) in &files {
        for name in ["alice", "secretweb", "gone-x1"] {
            assert!(!text.contains(name), "{name} in {file}:\n{text}");
        }
    }
    let service = hashed(&files, "service=\"", "metrics.txt");
    let namespace = hashed(&files, "namespace=\"", "metrics.txt");
    let node = hashed(&files, "node=", "log.txt");
    assert!(files["log.txt"].contains(&format!("service={namespace}/{service} ")), "{}", files["log.txt"]);
    assert!(files["flags.txt"].contains(&format!("--node-name={node}\n")), "{}", files["flags.txt"]);
    assert!(files["log.txt"].contains("10.244.1.4:8080"), "addresses stay");
    assert!(files["objects.yaml"].contains("\"kubernetes\""), "each cluster has this name");
    assert_eq!(json(&files["report.json"])["anonymized"], "names");
    // A Service may have the name of a state.
    assert!(files["objects.yaml"].contains("\"conditions\":{\"ready\":true}"), "{}", files["objects.yaml"]);

    let plan = offline(directory.path(), &["plan"]);
    assert!(plan.contains(&format!("{namespace}/{service}:http  ClusterIP  10.96.0.10")), "{plan}");
    let other = archive(&["--anonymize"]);
    let again = files_of(other.path());
    assert_ne!(hashed(&again, "service=\"", "metrics.txt"), service, "each archive has a key of its own");
}

#[test]
fn addresses_are_replaced_with_their_networks() {
    let directory = archive(&["--anonymize=addresses"]);
    let files = files(&directory.path().join("a.tar.gz"));
    for (file, text) in &files {
        for address in ["10.244.1.4", "10.244.0.0", "10.96.0.10", "192.0.2.11", "secretweb"] {
            assert!(!text.contains(address), "{address} in {file}:\n{text}");
        }
    }
    let plan = json(&offline(directory.path(), &["plan", "-o", "json"]));
    let frontends = plan["frontends"].as_array().unwrap();
    let web = frontends.iter().find(|one| one["port"] == 80).unwrap();
    let backend = web["internal"][0].as_str().unwrap();
    assert!(files["log.txt"].contains(backend), "{backend} in {}", files["log.txt"]);
    let to = format!("{}:80", web["address"].as_str().unwrap());
    let from = backend.split(':').next().unwrap();
    let explained = json(&offline(directory.path(), &["explain", "--from", from, "--to", &to, "-o", "json"]));
    assert_eq!(explained["masquerade"], true, "the hairpin of a pod");
    assert_eq!(json(&files["report.json"])["anonymized"], "names and addresses");
}

/// An agent that is killed in the middle of its objects, and is busy otherwise.
#[test]
fn objects_that_end_early_are_said_to_be_a_part() {
    let directory = tempfile::tempdir().unwrap();
    agent(directory.path(), |request| match request {
        b"objects" => OBJECTS.split_at(OBJECTS.find("EndpointSlice").unwrap()).0.as_bytes().to_vec(),
        b"policy" => b"null".to_vec(),
        _ => answer(request),
    });
    assert!(report(directory.path(), &["--output", "a.tar.gz"]).status.success());
    let files = files(&directory.path().join("a.tar.gz"));
    let missing = &files["missing.txt"];
    assert!(missing.contains("objects.yaml: only the first 4 objects are there\n"), "{missing}");
    assert!(missing.contains("policy.json: the agent's loop is busy\n"), "{missing}");
    assert_eq!(files["objects.yaml"].lines().filter(|line| line.starts_with('{')).count(), 4);
}

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(octets).unwrap();
    encoder.finish().unwrap()
}

/// An archive of entries: the raw name, the kind, and the content.
fn crafted(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    gzip(&tar.into_inner().unwrap())
}

#[test]
fn hostile_archives_are_refused_in_a_sentence() {
    use tar::EntryType;
    let head = |version: u64| json!({"report_version": version, "portreeve": "9.9.9"}).to_string();
    let regular = EntryType::Regular;
    let version_9 = crafted(&[("portreeve-report/report.json", regular, head(9).as_bytes())]);
    let good = head(1);
    let good = ("portreeve-report/report.json", regular, good.as_bytes());
    let mut cut = crafted(&[good, ("portreeve-report/objects.yaml", regular, OBJECTS.as_bytes())]);
    cut.truncate(cut.len() / 2);
    // 1 GiB of zeros, which gzip makes a thousand times smaller.
    let bomb = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let mut header = tar::Header::new_gnu();
        header.set_path("portreeve-report/objects.yaml").unwrap();
        header.set_size(1 << 30);
        header.set_cksum();
        encoder.write_all(header.as_bytes()).unwrap();
        for _ in 0..1024 {
            encoder.write_all(&[0; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap()
    };
    let many: Vec<_> = (0..2_000).map(|_| ("portreeve-report/x", regular, &b""[..])).collect();
    for (case, octets, words) in [
        (
            "another version",
            version_9,
            "is a report of version 9 (portreeve 9.9.9), this portreeve reads version 1",
        ),
        ("no report", crafted(&[("x/y", regular, b"z")]), "is no report: it has no report.json"),
        ("no gzip", b"objects".to_vec(), "is no report: no gzip archive"),
        ("nothing", Vec::new(), "is no report"),
        ("cut", cut, "is damaged"),
        ("a bomb", bomb, "is too large"),
        ("many files", crafted(&many), "has too many files"),
        (
            "a directory upwards",
            crafted(&[good, ("portreeve-report/../../../tmp/up", regular, b"x")]),
            "has no objects",
        ),
        ("an absolute path", crafted(&[good, ("/tmp/absolute", regular, b"x")]), "has no objects"),
        (
            "a link",
            crafted(&[good, ("portreeve-report/objects.yaml", EntryType::Symlink, b"")]),
            "has no objects",
        ),
        (
            "a device",
            crafted(&[good, ("portreeve-report/objects.yaml", EntryType::Char, b"")]),
            "has no objects",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.tar.gz"), octets).unwrap();
        let output = command(directory.path(), &["plan", "--report", "a.tar.gz"]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{case}: {error}");
        assert!(error.contains(words), "{case}: {error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "{case}: nothing is extracted");
    }
}
