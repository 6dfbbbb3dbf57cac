use std::{net::IpAddr, path::Path, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::model::policy::{DetectLocal, NodePortAddresses};

/// `config.conf` of kubeadm's ConfigMap.
const KUBEADM: &str = include_str!("../../testdata/kube-proxy/kubeadm.conf");

fn parse(text: &str) -> Result<ConfigFile, String> {
    ConfigFile::parse(Path::new("config.conf"), text.to_owned()).map_err(|error| error.to_string())
}

fn with(fields: &str) -> Result<ConfigFile, String> {
    parse(&format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{fields}"))
}

#[test]
fn kubeadms_file_is_accepted_unchanged() {
    let file = parse(KUBEADM).unwrap();
    assert_eq!(file.warnings, Vec::<String>::new());
    assert_eq!(without_effect(&file.config), Vec::new());
    let settings = file.settings;
    assert_eq!(settings.kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
    assert_eq!(settings.cluster_cidrs.v4.map(|cidr| cidr.to_string()).as_deref(), Some("10.244.0.0/16"));
    assert_eq!(settings.nodeport_addresses, NodePortAddresses::Cidrs(vec![]));
    assert_eq!(settings.localhost_nodeports, Some(true));
    assert_eq!(settings.detect_local, DetectLocal::ClusterCidr);
    assert_eq!(settings.node_name, None);
    assert_eq!(settings.bind_address, None);
    assert_eq!(settings.serving.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(settings.serving.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(settings.serving.health_timeout, Duration::from_secs(60));
    assert_eq!(settings.conntrack.max_per_core, 32768);
    assert_eq!(settings.conntrack.tcp_established, Some(Duration::from_secs(86400)));
    assert_eq!(settings.conntrack.tcp_close_wait, Some(Duration::from_secs(3600)));
    assert_eq!(settings.conntrack.udp, None);
    assert_eq!(settings.oom_score_adj, -999);
}

#[test]
fn json_and_yaml_round_trip() {
    let json = serde_json::to_string(&KubeProxyConfiguration::upstream_default()).unwrap();
    let yaml = default_file().unwrap();
    for text in [&json, &yaml] {
        let file = parse(text).unwrap();
        assert_eq!(file.config, KubeProxyConfiguration::upstream_default(), "{text}");
        assert_eq!(file.warnings, Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let cases = [
        ("", "apiVersion is missing"),
        ("kind: KubeProxyConfiguration", "apiVersion is missing"),
        ("apiVersion: kubeproxy.config.k8s.io/v1alpha1", "kind is missing"),
        ("apiVersion: v1\nkind: ConfigMap", "kind ConfigMap of v1, expected KubeProxyConfiguration of "),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1beta1\nkind: KubeProxyConfiguration",
            "of kubeproxy.config.k8s.io/v1beta1",
        ),
        ("just words", "apiVersion is missing"),
        ("apiVersion: [", "config.conf is not a kube-proxy configuration: "),
    ];
    for (text, want) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.contains(want), "{text:?}: {error}");
    }
}

#[test]
fn the_first_document_counts() {
    let ignored =
        |line| format!("the YAML document at line {line} is ignored, as kube-proxy reads the first one");
    for (name, rest, want) in [
        ("a last marker", "mode: ipvs\n---\n", vec![]),
        ("comments behind it", "mode: ipvs\n---\n# the end\n", vec![]),
        ("a second document", "mode: ipvs\n---\nkind: KubeletConfiguration\n", vec![ignored(4)]),
        ("an invalid one", "mode: ipvs\n--- [\n---\nmode: [\n", vec![ignored(4), ignored(5)]),
    ] {
        let file = with(rest).unwrap();
        assert_eq!((file.config.mode.as_str(), file.warnings), ("ipvs", want), "{name}");
    }
    let text =
        "# kubeadm\n---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n---\n";
    assert_eq!(parse(text).unwrap().warnings, Vec::<String>::new());
    assert!(
        parse(&format!("---\n{text}")).unwrap_err().contains("apiVersion is missing"),
        "an empty document is first"
    );
}

#[test]
fn messages_do_not_name_a_library() {
    let twice = with("clusterCIDR: 10.0.0.0/8\nclusterCIDR: 10.244.0.0/16\n").unwrap().warnings.remove(0);
    assert!(twice.contains("clusterCIDR") && twice.contains("the last one counts"), "{twice}");
    let errors = [
        "iptables: [",
        "mode: *x",
        "mode: !include x",
        "? [a]\n: b",
        "{}",
        "a: b: c",
        "\tmode: x",
        "mode: 'x",
    ];
    for text in errors.map(|fields| with(fields).err()).into_iter().flatten().chain([twice]) {
        for word in ["Policy", "Options", "from_str", "serde", "saphyr", "deserialize", "::"] {
            assert!(!text.contains(word), "{text}");
        }
    }
}

#[test]
fn unknown_and_duplicate_fields_cause_warnings() {
    let file = with("bindAdress: 10.0.0.1\niptables:\n  masqueradeAll: true\n  sync: 5s\n").unwrap();
    assert_eq!(file.warnings, ["unknown field `bindAdress`", "unknown field `iptables.sync`"]);
    assert!(file.settings.masquerade_all);

    let file = with("clusterCIDR: 10.0.0.0/8\nclusterCIDR: 10.244.0.0/16\n").unwrap();
    assert_eq!(file.warnings.len(), 1, "{:?}", file.warnings);
    assert!(file.warnings[0].contains("clusterCIDR"), "{:?}", file.warnings);
    assert_eq!(file.settings.cluster_cidrs.v4.map(|cidr| cidr.prefix()), Some(16));
}

#[test]
fn invalid_values_are_reported_by_field() {
    let cases: &[(&str, &[&str])] = &[
        ("mode: userspace", &["mode"]),
        ("mode: nftables", &[]),
        ("bindAddress: eth0", &["bindAddress"]),
        ("healthzBindAddress: 0.0.0.0:0", &["healthzBindAddress"]),
        ("healthzBindAddress: 0.0.0.0:65536", &["healthzBindAddress"]),
        ("healthzBindAddress: ':10256'", &["healthzBindAddress"]),
        ("healthzBindAddress: '::1:10256'", &["healthzBindAddress"]),
        ("healthzBindAddress: '::1'", &[]),
        ("metricsBindAddress: localhost:10249", &["metricsBindAddress"]),
        ("metricsBindAddress: '[::]:10249'", &[]),
        ("clusterCIDR: 10.0.0.0", &["clusterCIDR"]),
        ("clusterCIDR: 10.0.0.0/8,11.0.0.0/8", &["clusterCIDR"]),
        ("clusterCIDR: 10.0.0.0/8,fd00::/48", &[]),
        ("clusterCIDR: 10.0.0.0/8,fd00::/48,fd01::/48", &["clusterCIDR"]),
        ("nodePortAddresses: [secondary, 10.0.0.0/8]", &["nodePortAddresses"]),
        ("nodePortAddresses: [10.0.0.1]", &["nodePortAddresses"]),
        ("nodePortAddresses: [primary]", &[]),
        ("detectLocalMode: Guess", &["detectLocalMode"]),
        ("detectLocalMode: BridgeInterface", &["detectLocal.bridgeInterface"]),
        ("detectLocalMode: InterfaceNamePrefix", &["detectLocal.interfaceNamePrefix"]),
        ("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}", &[]),
        ("oomScoreAdj: -1001", &["oomScoreAdj"]),
        ("iptables: {masqueradeBit: 32}", &["iptables.masqueradeBit"]),
        ("iptables: {syncPeriod: 1s, minSyncPeriod: 2s}", &["iptables.minSyncPeriod"]),
        ("iptables: {syncPeriod: -1s}", &["iptables.syncPeriod", "iptables.minSyncPeriod"]),
        ("mode: nftables\niptables: {syncPeriod: 1s, minSyncPeriod: 2s}", &[]),
        ("mode: nftables\nnftables: {minSyncPeriod: -1s}", &["nftables.minSyncPeriod"]),
        ("configSyncPeriod: -1s", &["configSyncPeriod"]),
        ("conntrack: {maxPerCore: -1}", &["conntrack.maxPerCore"]),
        ("conntrack: {tcpEstablishedTimeout: -1s}", &["conntrack.tcpEstablishedTimeout"]),
        ("conntrack: {udpTimeout: -1s}", &["conntrack.udpTimeout"]),
        ("logging: {format: xml}", &["logging.format"]),
        ("mode: x\noomScoreAdj: 2000", &["mode", "oomScoreAdj"]),
    ];
    for (fields, want) in cases {
        let named: Vec<&str> = match ConfigFile::parse(
            Path::new("x"),
            format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{fields}"),
        ) {
            Ok(_) => vec![],
            Err(ConfigFileError::Invalid { errors, .. }) => errors.iter().map(|error| error.field).collect(),
            Err(other) => panic!("{fields}: {other}"),
        };
        assert_eq!(named, *want, "{fields}");
    }
}

#[test]
fn values_of_the_wrong_type_are_refused_by_field() {
    let integer = "an integer within -2147483648 and 2147483647";
    let duration = "a duration such as 30s or 1h30m";
    for (fields, field, value, wanted) in [
        ("mode: 3", "mode", "`3`", "a string (values such as 1 and true need quotes)"),
        ("hostnameOverride: [a]", "hostnameOverride", "the list `[\"a\"]`", "a string"),
        ("oomScoreAdj: high", "oomScoreAdj", "`high`", integer),
        ("oomScoreAdj: \"3\"", "oomScoreAdj", "`3`", integer),
        ("oomScoreAdj: 1.5", "oomScoreAdj", "`1.5`", integer),
        ("conntrack: {maxPerCore: 99999999999}", "conntrack.maxPerCore", "`99999999999`", integer),
        ("logging: {verbosity: -1}", "logging.verbosity", "`-1`", "an integer within 0 and 4294967295"),
        ("bindAddressHardFail: 3", "bindAddressHardFail", "`3`", "true or false"),
        ("iptables: {localhostNodePorts: abc}", "iptables.localhostNodePorts", "`abc`", "true or false"),
        ("featureGates: {A: 3}", "featureGates.A", "`3`", "true or false"),
        ("featureGates: abc", "featureGates", "`abc`", "a map of fields"),
        ("clientConnection: {qps: abc}", "clientConnection.qps", "`abc`", "a number"),
        ("clientConnection: [a]", "clientConnection", "the list `[\"a\"]`", "a map of fields"),
        ("conntrack: true", "conntrack", "`true`", "a map of fields"),
        ("nodePortAddresses: primary", "nodePortAddresses", "`primary`", "a list"),
        ("nodePortAddresses: [primary, 3]", "nodePortAddresses[1]", "`3`", "a string"),
        ("ipvs: {excludeCIDRs: {a: b}}", "ipvs.excludeCIDRs", "the map `{\"a\":\"b\"}`", "a list"),
        ("configSyncPeriod: 30", "configSyncPeriod", "`30`", duration),
        ("conntrack: {udpTimeout: 5x}", "conntrack.udpTimeout", "`5x`", duration),
        ("iptables: {minSyncPeriod: 99999999999h}", "iptables.minSyncPeriod", "`99999999999h`", duration),
    ] {
        let error = with(fields).unwrap_err();
        let want = format!("is not a kube-proxy configuration: {field}: {value} is not {wanted}");
        assert!(error.contains(&want), "{fields}: {error}");
    }
}

/// The check of types finds all that decoding would refuse in words of its own.
#[test]
fn decoding_accepts_whatever_has_the_right_types() {
    let defaults = serde_json::to_value(KubeProxyConfiguration::upstream_default()).unwrap();
    let values = [
        json!(3),
        json!(-1),
        json!(1.5),
        json!(99_999_999_999_i64),
        json!(u64::MAX),
        json!(1e300),
        json!("abc"),
        json!(""),
        json!("5s"),
        json!(true),
        json!([]),
        json!(["a"]),
        json!([3]),
        json!([null]),
        json!([{}]),
        json!({}),
        json!({"a": "b"}),
        json!({"a": true}),
    ];
    for pointer in pointers("", &defaults) {
        for value in &values {
            let mut file = defaults.clone();
            *file.pointer_mut(&pointer).unwrap() = value.clone();
            let error = parse(&file.to_string()).err().unwrap_or_default();
            let field = pointer.trim_start_matches('/').replace('/', ".");
            let is_named = error.contains(&format!("configuration: {field}")) || is_type(&pointer);
            assert!(!error.contains("is not a kube-proxy") || is_named, "{pointer}, {value}: {error}");
        }
    }
}

fn is_type(pointer: &str) -> bool {
    ["/apiVersion", "/kind"].contains(&pointer)
}

fn pointers(at: &str, value: &Value) -> Vec<String> {
    let fields = value.as_object().into_iter().flatten();
    let below = fields.flat_map(|(name, value)| {
        let path = format!("{at}/{name}");
        [path.clone()].into_iter().chain(pointers(&path, value)).collect::<Vec<_>>()
    });
    below.collect()
}

#[test]
fn the_mode_selects_the_section_and_the_defaults() {
    struct Case {
        fields: &'static str,
        masquerade_all: bool,
        nodeports: NodePortAddresses,
        localhost: Option<bool>,
        timeout: u64,
    }
    let all = NodePortAddresses::Cidrs(vec![]);
    for case in [
        Case {
            fields: "",
            masquerade_all: false,
            nodeports: all.clone(),
            localhost: Some(true),
            timeout: 60,
        },
        Case {
            fields: "iptables: {masqueradeAll: true, localhostNodePorts: false, syncPeriod: 10s}",
            masquerade_all: true,
            nodeports: all.clone(),
            localhost: Some(false),
            timeout: 20,
        },
        Case {
            fields: "mode: nftables\niptables: {masqueradeAll: true, localhostNodePorts: false, syncPeriod: 10s}",
            masquerade_all: false,
            nodeports: NodePortAddresses::Primary,
            localhost: None,
            timeout: 60,
        },
        Case {
            fields: "mode: nftables\nnftables: {masqueradeAll: true, syncPeriod: 5s}",
            masquerade_all: true,
            nodeports: NodePortAddresses::Primary,
            localhost: None,
            timeout: 10,
        },
        Case {
            fields: "mode: ipvs\niptables: {masqueradeAll: true}\nipvs: {syncPeriod: 15s}",
            masquerade_all: true,
            nodeports: all,
            localhost: None,
            timeout: 30,
        },
    ] {
        let settings = with(case.fields).unwrap().settings;
        assert_eq!(settings.masquerade_all, case.masquerade_all, "{}", case.fields);
        assert_eq!(settings.nodeport_addresses, case.nodeports, "{}", case.fields);
        assert_eq!(settings.localhost_nodeports, case.localhost, "{}", case.fields);
        assert_eq!(settings.serving.health_timeout, Duration::from_secs(case.timeout), "{}", case.fields);
    }
}

#[test]
fn an_ipv6_bind_address_changes_the_default_server_addresses() {
    let settings = with("bindAddress: fd00::7").unwrap().settings;
    assert_eq!(settings.bind_address, Some("fd00::7".parse::<IpAddr>().unwrap()));
    assert_eq!(settings.serving.healthz, Some("[::]:10256".parse().unwrap()));
    assert_eq!(settings.serving.metrics, Some("[::1]:10249".parse().unwrap()));
    let settings = with("healthzBindAddress: 127.0.0.1\nmetricsBindAddress: '::'").unwrap().settings;
    assert_eq!(settings.serving.healthz, Some("127.0.0.1:10256".parse().unwrap()));
    assert_eq!(settings.serving.metrics, Some("[::]:10249".parse().unwrap()));
}

#[test]
fn fields_without_effect_are_reported() {
    let file = with(
        "mode: nftables\niptables: {masqueradeAll: true}\nipvs: {scheduler: lc}\nenableProfiling: true\n\
         featureGates: {SomeGate: true, AllowServiceExternalIPs: false}\nwinkernel: {networkName: x}\n\
         logging: {vmodule: [{filePattern: x, verbosity: 3}]}\nnftables: {masqueradeAll: true}",
    )
    .unwrap();
    let named: Vec<String> = without_effect(&file.config).into_iter().map(|(field, _)| field).collect();
    assert_eq!(
        named,
        [
            "enableProfiling",
            "featureGates.SomeGate",
            "iptables.masqueradeAll",
            "ipvs.scheduler",
            "logging.vmodule",
            "winkernel.networkName",
        ]
    );
    assert!(!file.settings.external_ips);
}
