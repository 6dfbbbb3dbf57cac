//! The screens of commands: the same at every width, in a terminal, in a pipe and without colour; and the exit codes of
//! `plan`. The screens of the tables of `get` from the maps need root: `tests/tests/screens.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "screens/terminal.rs"]
mod terminal;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use expect_test::{Expect, expect};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use terminal::{in_terminal, screen, uncoloured};

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {namespace: shop-of-a-long-name, name: web-frontend-with-a-long-name}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: shop-of-a-long-name
  name: web-1
  labels: {kubernetes.io/service-name: web-frontend-with-a-long-name}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.4], nodeName: node-1, conditions: {ready: true}}
- {addresses: [10.244.2.4], nodeName: node-2, conditions: {ready: true}}
"#;

fn portreeve(arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.args(arguments).arg(directory).env_remove("NO_COLOR").env_remove("COLUMNS").stdin(Stdio::null());
    command
}

/// Exit code and output of `plan`; stderr is empty.
fn plan(objects: &str, args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), objects).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .args(["plan", "--node-name", "node-1", "--node-address", "192.0.2.11", "--manifests"])
        .arg(directory.path())
        .args(args)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, "", "everything is said once, in the output");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[track_caller]
fn check(args: &[&str], want: &Expect) {
    for environment in
        [("COLUMNS", "80"), ("COLUMNS", "160"), ("NO_COLOR", "1"), ("LANG", "C"), ("TERM", "dumb")]
    {
        let (code, text) = plan(OBJECTS, args, &[environment]);
        assert_eq!(code, Some(0));
        want.assert_eq(&text);
    }
}

#[test]
fn a_plan_has_one_line_per_frontend_at_every_width() {
    check(
        &[],
        &expect![[r#"
        SERVICE                                                 TYPE       ADDRESS     PORT(S)    INTERNAL     EXTERNAL
        shop-of-a-long-name/web-frontend-with-a-long-name:http  ClusterIP  10.96.0.10  80/TCP     2 (1 local)  2 (1 local)
        shop-of-a-long-name/web-frontend-with-a-long-name:http  NodePort   *           30080/TCP  2 (1 local)  1 (1 local)

        2 frontends, 7 DNS records
    "#]],
    );
    check(
        &["-o", "wide"],
        &expect![[r#"
        SERVICE                                                 TYPE       ADDRESS     PORT(S)    INTERNAL                         EXTERNAL                         AFFINITY  SOURCE RANGES
        shop-of-a-long-name/web-frontend-with-a-long-name:http  ClusterIP  10.96.0.10  80/TCP     10.244.1.4:8080,10.244.2.4:8080  10.244.1.4:8080,10.244.2.4:8080  10800s    -
        shop-of-a-long-name/web-frontend-with-a-long-name:http  NodePort   *           30080/TCP  10.244.1.4:8080,10.244.2.4:8080  10.244.1.4:8080                  10800s    -

        2 frontends, 7 DNS records
    "#]],
    );
}

/// A NodePort is a frontend of each family, whose addresses look alike in JSON only.
#[test]
fn no_two_rows_of_a_plan_are_equal() {
    let objects = OBJECTS.replace(
        "clusterIP: 10.96.0.10",
        "clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10, \"fd96::10\"]\n  ipFamilies: [IPv4, IPv6]",
    );
    let (_, text) = plan(&objects, &[], &[]);
    let rows: Vec<_> = text.lines().filter(|line| line.contains("NodePort")).collect();
    assert_eq!(rows.len(), 2, "{text}");
    let addresses: Vec<_> = rows.iter().filter_map(|row| row.split_whitespace().nth(2)).collect();
    assert_eq!(addresses, ["*", "[*]"], "{text}");
}

#[test]
fn a_plan_with_skipped_parts_has_an_exit_code_of_its_own() {
    let misspelt = OBJECTS.replace("externalTrafficPolicy", "externalTraficPolicy");
    let (code, text) = plan(&misspelt, &[], &[]);
    assert_eq!(code, Some(3));
    let reason = "unknown field \"spec.externalTraficPolicy\"";
    assert_eq!(text.matches(reason).count(), 1, "{text}");
    let (code, text) = plan(&misspelt, &["-o", "json"], &[]);
    assert_eq!(code, Some(0), "JSON says it itself");
    assert!(text.contains("spec.externalTraficPolicy"), "{text}");
}

#[test]
fn an_explanation_is_the_same_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let screen = |arguments: &[&str]| {
        let all = [&["explain"], arguments, &["--manifests"]].concat();
        screen(|| portreeve(&all, directory.path()), false, str::to_owned)
    };
    let node = ["--node-name", "node-1", "--node-address", "192.0.2.11", "--cluster-cidr", "10.244.0.0/16"];
    let flow = ["--from", "10.244.1.9", "--to", "10.96.0.10:80"];
    expect![[r#"
        RESULT    dnat
        FRONTEND  ClusterIP 10.96.0.10:80/TCP of shop-of-a-long-name/web-frontend-with-a-long-name:http
        SOURCE    pod
        BACKENDS  10.244.1.4:8080  local
                  10.244.2.4:8080
        PLANE     socket
        REASON    a pod may use 2 endpoints of shop-of-a-long-name/web-frontend-with-a-long-name:http
    "#]]
    .assert_eq(&screen(&[&node[..], &flow].concat()));
    expect![[r#"
        RESULT  not of the cluster: an upstream answers
        REASON  namespace shop-of-a-long-name has no Service web; it has web-frontend-with-a-long-name

        QUERY                                               ANSWER    REASON
        web.shop-of-a-long-name.default.svc.cluster.local.  NXDOMAIN  there is no namespace default, or it has no Service
        web.shop-of-a-long-name.svc.cluster.local.          NXDOMAIN  namespace shop-of-a-long-name has no Service web; it has web-frontend-with-a-long-name
        web.shop-of-a-long-name.cluster.local.              NXDOMAIN  no name of the cluster has this form
        web.shop-of-a-long-name.                            upstream  not below cluster.local
    "#]]
    .assert_eq(&screen(&["--dns", "web.shop-of-a-long-name"]));
}

#[test]
fn a_plan_is_the_same_in_a_terminal() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    let arguments = ["plan", "--node-name", "node-1", "--node-address", "192.0.2.11", "--manifests"];
    let text = screen(|| portreeve(&arguments, directory.path()), false, str::to_owned);
    assert_eq!(text, plan(OBJECTS, &[], &[]).1);
}

/// The text of a line depends on the machine, and may change meanwhile.
#[test]
fn a_check_is_one_line_per_finding_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let command = || portreeve(&["check", "--bpffs", "/nowhere", "--run-dir"], directory.path());
    let mut coloured = command();
    coloured.env("TERM", "xterm-256color");
    let coloured = in_terminal(coloured, 80);
    assert!(coloured.contains('\u{1b}'), "colour is for terminals: {coloured:?}");
    let mut narrow = command();
    narrow.env("NO_COLOR", "1");
    let piped = String::from_utf8(command().env("LANG", "C").output().unwrap().stdout).unwrap();
    let mut wide = command();
    wide.env("NO_COLOR", "1");
    for text in [uncoloured(&coloured), in_terminal(narrow, 80), in_terminal(wide, 160), piped] {
        assert!(text.is_ascii(), "readable in every locale: {text}");
        for line in text.lines() {
            let starts = ["ok    ", "warn  ", "fail  ", "      "].iter().any(|start| line.starts_with(start));
            assert!(starts, "{line:?} is no line of a finding");
        }
        for name in ["kernel", "cgroup2", "bpffs", "agent"] {
            assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(name)), "{name}: {text}");
        }
    }
}

/// As an agent sends it.
fn status() -> Value {
    let now = Timestamp::now();
    let condition = |r#type: &str, status: &str, reason: &str, message: &str| {
        let since = (now - 90.minutes()).to_string();
        json!({"type": r#type, "status": status, "since": since, "reason": reason, "message": message})
    };
    let long = "upstream 192.0.2.53:53 fails: no answer to 10 queries in a row; names outside of the cluster are not resolved";
    let heard = json!({"last_heard": (now - 5.seconds()).to_string()});
    json!({
        "version": "1.2.3",
        "process": 4711,
        "node": "node-1",
        "started": (now - 3.hours()).to_string(),
        "phase": "serving",
        "last_sync": (now - 2.minutes()).to_string(),
        "pending_since": null,
        "frontends": 3,
        "unwritten_frontends": 0,
        "skipped_objects": 0,
        "reattachments": 0,
        "source": {
            "name": "https://api.cluster-of-a-long-name.example.org:6443",
            "is_api_server": true,
            "kinds": {"Services": heard},
        },
        "cgroup": "/sys/fs/cgroup",
        "cgroup_scope": "Root",
        "planes": {"socket_lb": "all", "packet": true},
        "devices": [
            {"device": "eth0", "role": "external", "hooks": ["tc_external_ingress", "tc_external_egress"]},
        ],
        "ports": [{"server": "health", "address": "0.0.0.0:10256"}],
        "tables": [{"name": "SLOTS", "used": 10, "capacity": 524_288}],
        "conditions": [
            condition("Synced", "True", "AsExpected", ""),
            condition("UpstreamsReliable", "False", "Failing", long),
        ],
    })
}

/// An agent that answers each request in `directory`: the empty one with its status.
fn agent(directory: &Path, answer: fn(&[u8]) -> Value) {
    let listener = UnixListener::bind(directory.join("nowhere.sock")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let _ = stream.read_to_end(&mut request);
            // The client may be gone.
            let _ = stream.write_all(&serde_json::to_vec(&answer(&request)).unwrap());
        }
    });
}

#[test]
fn a_status_is_the_same_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    agent(directory.path(), |_| status());
    let command = || portreeve(&["status", "--bpffs", "/nowhere", "--run-dir"], directory.path());
    let text = screen(command, true, str::to_owned);
    expect![[r#"
        STATE        degraded
        AGENT        process 4711, version 1.2.3, for 3h
        NODE         node-1
        LAST SYNC    2m ago
        FRONTENDS    3 published, 0 not written
        SINCE START  0 objects skipped, 0 hooks repaired
        SOURCE       API server https://api.cluster-of-a-long-name.example.org:6443, last heard 5s ago
        CGROUP       /sys/fs/cgroup, the root: all processes
        PLANES       socket LB all, packet LB on
        NAME SERVER  none
        PORTS        health 0.0.0.0:10256
        DEVICES      eth0: external, tc_external_ingress, tc_external_egress
        TABLES       SLOTS 10 of 524288 (0 %)

        TYPE               STATUS  SINCE  REASON      MESSAGE
        Synced             True    90m    AsExpected  -
        UpstreamsReliable  False   90m    Failing     upstream 192.0.2.53:53 fails: no answer to 10 queries in a row; names outside of the cluster are not resolved
    "#]]
    .assert_eq(&text);
}

/// As an agent that serves DNS sends it.
fn query_statistics() -> Value {
    let client = |kind: &str, client: &str, addresses: &[&str], slow: u64| {
        json!({
            "kind": kind, "client": client, "addresses": addresses, "queries": 20_514,
            "topics": {"service": 2_510, "search": 15_000, "external": 3_004},
            "troubles": {"refused": 0, "failed": 0, "slow": slow},
        })
    };
    json!({
        "since": "2026-01-01T12:00:00Z",
        "clients": [
            client("pod", "payments-of-a-long-name/checkout-7c9d8b6f5-x2x4p", &["10.244.1.9", "fd00::9"], 12),
            client("address", "10.244.3.9", &["10.244.3.9"], 0),
        ],
        "upstreams": [{"address": "192.0.2.53:53", "answers": 2_990, "failed": 2, "slow": 12}],
    })
}

#[test]
fn dns_clients_are_the_same_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    agent(directory.path(), |request| {
        assert_eq!(request, b"names");
        query_statistics()
    });
    let screen = |more: &[&str]| {
        let arguments = [&["get", "dns"], more, &["--bpffs", "/nowhere", "--run-dir"]].concat();
        screen(|| portreeve(&arguments, directory.path()), false, str::to_owned)
    };
    expect![[r#"
        CLIENT                                            QUERIES  ABOUT                                      TROUBLE
        payments-of-a-long-name/checkout-7c9d8b6f5-x2x4p  20514    15000 search, 3004 external, 2510 service  12 slow
        10.244.3.9                                        20514    15000 search, 3004 external, 2510 service  -

        since 2026-01-01T12:00:00Z
        upstream 192.0.2.53:53, since the start: 2990 answered, 12 slow, 2 failed
    "#]].assert_eq(&screen(&[]));
    expect![[r#"
        CLIENT                                            QUERIES  SERVICE  HEADLESS  ALIAS  POD  REVERSE  DOMAIN  ABSENT  SEARCH  LOCAL  EXTERNAL  INVALID  REFUSED  FAILED  SLOW  ADDRESSES
        payments-of-a-long-name/checkout-7c9d8b6f5-x2x4p  20514    2510     0         0      0    0        0       0       15000   0      3004      0        0        0       12    10.244.1.9,fd00::9
        10.244.3.9                                        20514    2510     0         0      0    0        0       0       15000   0      3004      0        0        0       0     10.244.3.9

        since 2026-01-01T12:00:00Z
        upstream 192.0.2.53:53, since the start: 2990 answered, 12 slow, 2 failed
    "#]].assert_eq(&screen(&["-o", "wide"]));
    expect![[r#"
        10.244.3.9
        payments-of-a-long-name/checkout-7c9d8b6f5-x2x4p
    "#]]
    .assert_eq(&screen(&["-o", "name"]));
    let template = r#"jsonpath={.items[*].client}{"\n"}"#;
    expect![[r#"
        payments-of-a-long-name/checkout-7c9d8b6f5-x2x4p 10.244.3.9
    "#]]
    .assert_eq(&screen(&["-o", template]));
}

/// The lines of the machine depend on it; those of the agent are its faults.
#[test]
fn a_check_of_an_agent_is_the_same_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    agent(directory.path(), |_| status());
    let command = || portreeve(&["check", "--bpffs", "/nowhere", "--run-dir"], directory.path());
    let of_agent = |text: &str| {
        let lines =
            text.split_inclusive('\n').skip_while(|line| line.split_whitespace().nth(1) != Some("agent"));
        let mut lines = lines.enumerate().take_while(|(n, line)| {
            *n == 0 || line.starts_with(' ') || line.split_whitespace().nth(1) == Some("agent")
        });
        lines.by_ref().map(|(_, line)| line).collect()
    };
    expect![[r#"
        warn  agent             UpstreamsReliable is False (Failing): upstream 192.0.2.53:53 fails: no answer to 10 queries in a row; names outside of the cluster are not resolved
                                -> query the upstreams of the Corefile with dig from this node
    "#]].assert_eq(&screen(command, true, of_agent));
}
