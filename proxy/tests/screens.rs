//! The screens of commands: the same at every width, in a terminal, in a pipe and without colour; and the exit codes of
//! `plan`. The screens of `get` are in `cli::get`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    process::{Command, Stdio},
    ptr, thread,
};

use expect_test::{Expect, expect};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

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

/// The output of a command in a terminal of this width, with the terminal's line ends removed.
fn in_terminal(mut command: Command, columns: u16) -> String {
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the three pointers are to values that outlive the call; name and settings are optional.
    let opened = unsafe {
        libc::openpty(&raw mut master, &raw mut slave, ptr::null_mut(), ptr::null(), &raw const size)
    };
    assert_eq!(opened, 0);
    // SAFETY: on success both are new descriptors without another owner.
    let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let mut child = command.stdout(slave).stderr(Stdio::null()).spawn().unwrap();
    // The terminal is closed when its last user is gone.
    drop(command);
    let mut text = Vec::new();
    // A closed terminal reads as EIO.
    let _ = File::from(master).read_to_end(&mut text);
    child.wait().unwrap();
    String::from_utf8(text).unwrap().replace("\r\n", "\n")
}

/// Without the sequences that set a colour.
fn uncoloured(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').unwrap().1)
}

/// The same screen everywhere: in terminals of two widths and in a pipe, for every environment. Returns the screen.
fn screen(command: impl Fn() -> Command, has_colour: bool) -> String {
    let piped = |environment: (&str, &str)| {
        let output = command().env(environment.0, environment.1).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let want = piped(("COLUMNS", "80"));
    for environment in
        [("COLUMNS", "160"), ("NO_COLOR", "1"), ("LANG", "C"), ("LC_ALL", "C"), ("TERM", "dumb")]
    {
        assert_eq!(piped(environment), want, "{environment:?}");
    }
    for columns in [80, 160] {
        let mut plain = command();
        plain.env("NO_COLOR", "1");
        assert_eq!(in_terminal(plain, columns), want, "at {columns} columns, NO_COLOR");
        let mut coloured = command();
        coloured.env_remove("NO_COLOR").env("TERM", "xterm-256color");
        let coloured = in_terminal(coloured, columns);
        assert_eq!(uncoloured(&coloured), want, "at {columns} columns");
        assert_eq!(coloured != want, has_colour, "colour is for terminals: {coloured:?}");
    }
    assert!(want.is_ascii(), "readable in every locale: {want}");
    want
}

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
        screen(|| portreeve(&all, directory.path()), false)
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
    let text = screen(|| portreeve(&arguments, directory.path()), false);
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
    for text in [uncoloured(&coloured), in_terminal(narrow, 80), piped] {
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

/// An agent that only tells its status.
#[test]
fn a_status_is_the_same_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("nowhere.sock")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
            // The client may be gone.
            let _ = stream.write_all(&serde_json::to_vec(&status()).unwrap());
        }
    });
    let text = screen(|| portreeve(&["status", "--bpffs", "/nowhere", "--run-dir"], directory.path()), true);
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
        Synced             True    1h     AsExpected  -
        UpstreamsReliable  False   1h     Failing     upstream 192.0.2.53:53 fails: no answer to 10 queries in a row; names outside of the cluster are not resolved
    "#]]
    .assert_eq(&text);
}
