//! What a user gets wrong is named in the user's words: the file or flag, the field and the value. No message shows a type
//! of this program or quotes a library's API.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

/// Words of Rust and of libraries, in lower case.
const FORBIDDEN: &[&str] = &[
    "invalid type:",
    "invalid value: ",
    "expected struct",
    "expected a sequence",
    "expected a map",
    "expected i32",
    "expected u32",
    "untagged enum",
    "unknown variant",
    "missing field",
    "invalid digit found",
    "invalid socket address",
    "stream did not contain",
    "mapping start",
    "sequence start",
    "panicked",
    "os {",
    "some(",
    "error(",
    "err(",
    "utf8error",
    "..=",
    "::",
    "<input>",
    "serde",
    "saphyr",
    "hyper",
    "tower",
    "rustls",
    "errorresponse",
    "deserializ",
    "exitstatus",
];

/// Runs the program on a file with this content, named FILE in the arguments; `None`: there is no such file. Returns all
/// that it prints.
fn output(content: Option<&[u8]>, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file.yaml");
    if let Some(content) = content {
        fs::write(&file, content).unwrap();
    }
    fs::create_dir(directory.path().join("empty")).unwrap();
    fs::write(directory.path().join("corefile"), ".:0 {\n bind 127.0.0.1\n kubernetes cluster.local\n}\n")
        .unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let argument = |text: &&str| {
        text.replace("COREFILE", &path(&directory.path().join("corefile")))
            .replace("FILE", &path(&file))
            .replace("DIRECTORY", &path(&directory.path().join("empty")))
    };
    let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .args(arguments.iter().map(argument))
        .env("NO_COLOR", "1")
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let text = [output.stderr, output.stdout].concat();
    String::from_utf8(text).unwrap().replace(&path(directory.path()), "")
}

fn check(content: Option<&[u8]>, arguments: &[&str], wanted: &[&str]) {
    let text = output(content, arguments);
    let shown = content.map(String::from_utf8_lossy).unwrap_or_default();
    for word in wanted {
        assert!(text.contains(word), "{arguments:?} on {shown}: no `{word}` in\n{text}");
    }
    let lower = text.to_lowercase();
    for word in FORBIDDEN {
        assert!(!lower.contains(word), "{arguments:?} on {shown}: `{word}` in\n{text}");
    }
}

const PLAN: &[&str] =
    &["plan", "-o", "json", "--node-name", "n", "--node-address", "192.0.2.1", "--manifests", "FILE"];

#[test]
fn faults_of_kube_proxys_file() {
    let plan = ["plan", "--node-name", "n", "--manifests", "DIRECTORY", "--config", "FILE"];
    let not = "/file.yaml is not a kube-proxy configuration: ";
    for (fields, wanted) in [
        ("mode: 3", "mode: `3` is not a string"),
        ("mode: foo", "mode: `foo` is not iptables, ipvs, nftables or empty"),
        ("clusterCIDR: 10.0.0.0/99", "clusterCIDR: `10.0.0.0/99` is not a network in CIDR notation"),
        ("conntrack: abc", "conntrack: `abc` is not a map of fields"),
        ("conntrack: [a]", "conntrack: the list `[\"a\"]` is not a map of fields"),
        ("conntrack: {min: 1.5}", "conntrack.min: `1.5` is not an integer"),
        ("iptables: {syncPeriod: 5}", "iptables.syncPeriod: `5` is not a duration"),
        ("featureGates: {A: x}", "featureGates.A: `x` is not true or false"),
        ("nodePortAddresses: [300.0.0.0/8]", "nodePortAddresses: `300.0.0.0/8` is not `primary`"),
        ("healthzBindAddress: '1.2.3.4:99999'", "healthzBindAddress: `99999` is not a port"),
        ("oomScoreAdj: 5000", "oomScoreAdj: must be within -1000 and 1000"),
        ("foo: bar", "unknown field `foo`"),
        ("mode: [", "unclosed bracket '['"),
        ("a: b: c", "at line 3"),
    ] {
        let text =
            format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{fields}");
        check(Some(text.as_bytes()), &plan, &["/file.yaml", wanted]);
    }
    for (content, wanted) in [
        (None, "cannot read /file.yaml: No such file or directory"),
        (Some(&b"\xff\xfe\0binary"[..]), "cannot read /file.yaml: not UTF-8 text"),
        (Some(b""), &format!("{not}apiVersion is missing")),
        (Some(b"- a\n"), &format!("{not}apiVersion is missing")),
        (Some(b"\0\0"), &format!("{not}unexpected character")),
        (Some(b"apiVersion: v1\nkind: Service\n"), &format!("{not}kind Service of v1")),
    ] {
        check(content, &plan, &[wanted]);
    }
    check(None, &["plan", "--manifests", "DIRECTORY", "--config", "DIRECTORY"], &["/empty: Is a directory"]);
}

#[test]
fn faults_of_manifests() {
    let service =
        |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n");
    for (text, wanted) in [
        (service("3"), "spec: expected a structure, found"),
        (service("{ports: abc}"), "spec.ports: expected a list, found text"),
        (
            service("{clusterIP: 10.96.0.1, ports: [{port: abc}]}"),
            "spec.ports[0].port: expected a 32-bit integer",
        ),
        (
            service("{clusterIP: 10.96.0.1, ports: [{port: 99999}]}"),
            "spec.ports[0].port: 99999 is not a port",
        ),
        (service("{clusterIP: abc, ports: [{port: 80}]}"), "abc"),
        (
            service("{clusterIP: 10.96.0.1, ports: [{port: 80, protocol: FOO}]}"),
            "`FOO` is not TCP, UDP or SCTP",
        ),
        ("kind: Service\n".to_owned(), "kind or apiVersion is missing"),
        ("a: [\n".to_owned(), "invalid YAML: unclosed bracket"),
        ("apiVersion: v1\nkind: List\nitems: 3\n".to_owned(), "a List without items"),
    ] {
        check(Some(text.as_bytes()), PLAN, &["file.yaml:1", wanted]);
    }
    check(None, PLAN, &["cannot read manifests from /file.yaml: No such file or directory"]);
    check(Some(b"\xff\xfe"), PLAN, &["cannot read manifests from /file.yaml: not UTF-8 text"]);
}

#[test]
fn faults_of_a_corefile() {
    for (text, wanted) in [
        (".:53 {\n forward . abc\n}\n", "abc"),
        (".:53 {\n foo\n}\n", "foo"),
        (".:53 {\n health abc\n}\n", "abc"),
        (".:53 {\n reload abc\n}\n", "abc"),
        (".:53 {\n bufsize 99999\n}\n", "99999"),
        (".:53 {\n forward . 1.1.1.1 {\n max_fails x\n }\n}\n", "x"),
        (".:53 {\n rewrite name regex ( x\n}\n", "("),
        (".:99999 {\n}\n", "99999"),
        (".:53 {\n", "}"),
    ] {
        check(Some(text.as_bytes()), &["dns", "check", "FILE"], &["/file.yaml", wanted]);
    }
    check(None, &["dns", "check", "FILE"], &["/file.yaml", "No such file or directory"]);
    check(Some(b"\xff\xfe"), &["dns", "check", "FILE"], &["/file.yaml", "not UTF-8 text"]);
}

/// Each run ends by the missing Corefile, before anything listens.
#[test]
fn a_public_listen_address_is_announced() {
    const EVERY: &str =
        "WARN public listen address without --dns-allow: every client that reaches it is answered";
    const OPENED: &str = "WARN public listen address, and --dns-allow admits every client that reaches it";
    const KNOWN: &str =
        "INFO public listen address: only pods, this node and the networks of --dns-allow are answered";
    for (allow, wanted) in
        [(None, EVERY), (Some("10.0.0.0/8"), KNOWN), (Some("10.0.0.0/8,0.0.0.0/0"), OPENED)]
    {
        for (address, is_public) in [
            ("198.51.100.1:53", true),
            ("[2001:db8::1]:53", true),
            ("10.9.8.7:53", false),
            ("[::1]:53", false),
        ] {
            let mut arguments = vec!["dns", "--corefile", "/none", "--dns-listen", address];
            arguments.extend(allow.iter().flat_map(|allow| ["--dns-allow", allow]));
            let text = output(None, &arguments);
            assert!(text.contains("cannot read /none"), "{arguments:?}:\n{text}");
            let mut notices = text.lines().filter(|line| line.contains("public listen address"));
            let found = notices.next();
            let is_wanted = found.is_some_and(|line| line.contains(wanted) && line.contains(address));
            assert!(is_public == is_wanted && is_public == found.is_some(), "{arguments:?}:\n{text}");
            assert_eq!(notices.next(), None, "{arguments:?}");
        }
    }
}

#[test]
fn faults_of_flags() {
    let run = |flag: &'static str| ["run", "--manifests", "DIRECTORY", flag];
    for (flag, wanted) in [
        ("--max-flows=abc", "'abc' for '--max-flows <N>': it is not a whole number"),
        ("--max-flows=1", "'1' for '--max-flows <N>': it is not within 1024 and 4194304"),
        ("--max-source-ranges=99999999999", "it is not within 1024 and 16777216"),
        ("--service-table-share=0", "it is not within 1 and 100"),
        ("--dns-listen=1.2.3.4", "'1.2.3.4' for '--dns-listen <ADDR:PORT>': it is not IP:PORT"),
        ("--dns-allow=abc", "'abc' for '--dns-allow <CIDRS>': it is not a network in CIDR notation"),
        ("--dns-rate-limit=abc", "'abc' for '--dns-rate-limit <NUMBER>': it is not a whole number"),
        ("--oom-score-adj=99999999999", "it is not within -2147483648 and 2147483647"),
        ("--kube-api-qps=abc", "it is not a number"),
        ("--conntrack-min=abc", "it is not a whole number"),
        ("--v=abc", "it is not a whole number"),
        ("--node-address=abc", "`abc` is not an IP address"),
        ("--cluster-cidr=10.0.0.0/99", "`10.0.0.0/99` is not a network in CIDR notation"),
        ("--iptables-sync-period=5", "`5` is not a duration such as 30s or 1h30m"),
        ("--nodeport-addresses=abc", "`abc` is not `primary`"),
        ("--feature-gates=A=x", "`x` is not true or false"),
        ("--xdp=foo", "possible values: auto, native, generic, off"),
        ("--healthz-bind-address=abc", "`abc` is not IP:port"),
        ("--node-name=", "the node name is empty"),
        ("--cgroup=/none", "/none is not a cgroup2 directory"),
        ("--foo", "unexpected argument '--foo'"),
    ] {
        check(None, &run(flag), &[wanted]);
    }
    for (arguments, wanted) in [
        (
            &["explain", "--manifests", "DIRECTORY", "--from", "10.0.0", "--to", "b"][..],
            "`10.0.0` is neither an IP address nor [NAMESPACE/]POD",
        ),
        (&["explain", "10.0.0.1:80"], "is not [NAMESPACE/]SERVICE[:PORT]; an address goes behind --to"),
        (
            &["explain", "--from", "10.0.0.1"],
            "give --from and --to for a flow, a Service, or --dns NAME for a name",
        ),
        (&["explain", "shop/web", "--bpffs", "/none", "--run-dir", "/none"], "no data plane at /none"),
        (
            &["explain", "--dns", "web", "--bpffs", "/none", "--run-dir", "/none"],
            "no agent runs: nothing listens on /none",
        ),
        (&["status", "--run-dir", "/none"], "nothing listens on /none/"),
        (&["get", "services", "--bpffs", "/none"], "no data plane at /none"),
        (&["cleanup", "--bpffs", "/proc"], "/proc is not on a bpffs"),
        (&["log-level", "--run-dir", "/none"], "nothing listens on /none/"),
    ] {
        check(None, arguments, &[wanted]);
    }
}

/// The faults of a kubeconfig are in `k8s::access`. These end the program.
#[test]
fn faults_of_the_source_of_objects() {
    let dns = |flag: &'static str, value: &'static str| {
        ["dns", "--dns-listen", "127.0.0.1:0", "--corefile", "COREFILE", flag, value]
    };
    check(None, &dns("--kubeconfig", "FILE"), &["the kubeconfig /file.yaml cannot be used: No such file"]);
    check(
        Some(b"a: ["),
        &dns("--kubeconfig", "FILE"),
        &["the kubeconfig /file.yaml", "unclosed bracket '['"],
    );
    check(Some(b"\xff\xffa"), &dns("--kubeconfig", "FILE"), &["the kubeconfig /file.yaml", "not UTF-8 text"]);
    check(None, &dns("--api-server", "a b"), &["`a b` is not the address of an API server"]);
}
