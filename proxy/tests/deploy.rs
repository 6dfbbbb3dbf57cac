//! The manifests in `deploy/`: valid for the API, with no more permissions than needed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Container, Service, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of a directory, by kind.
fn objects(files: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, Value> {
    let parsed = files.into_iter().map(|(name, text)| {
        let object: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let kind = object["kind"].as_str().unwrap_or_else(|| panic!("{name} has no kind")).to_owned();
        (kind, object)
    });
    parsed.collect()
}

fn files(directory: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let manifests = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    manifests.map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap())).collect()
}

fn base() -> BTreeMap<String, Value> {
    kustomize("base")
}

fn kustomize(name: &str) -> BTreeMap<String, Value> {
    let mut objects = objects(files(&deploy().join("kustomize").join(name)));
    objects.remove("Kustomization");
    objects
}

/// Parsed as its type and serialised again, no field is missing: none was misspelt.
fn typed<T: DeserializeOwned + Serialize>(objects: &BTreeMap<String, Value>, kind: &str) -> T {
    let object: T =
        serde_json::from_value(objects[kind].clone()).unwrap_or_else(|error| panic!("{kind}: {error}"));
    assert_eq!(serde_json::to_value(&object).unwrap(), objects[kind], "{kind}");
    object
}

#[test]
fn every_object_is_of_its_type_and_every_file_is_used() {
    let objects = base();
    typed::<ServiceAccount>(&objects, "ServiceAccount");
    typed::<ClusterRole>(&objects, "ClusterRole");
    typed::<ClusterRoleBinding>(&objects, "ClusterRoleBinding");
    typed::<ConfigMap>(&objects, "ConfigMap");
    typed::<DaemonSet>(&objects, "DaemonSet");
    assert_eq!(objects.len(), 5);

    let directory = deploy().join("kustomize/base");
    let text = fs::read_to_string(directory.join("kustomization.yaml")).unwrap();
    let kustomization: Value = serde_saphyr::from_str(&text).unwrap();
    let listed: BTreeSet<&str> =
        kustomization["resources"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let present: BTreeSet<String> = files(&directory)
        .into_iter()
        .filter_map(|(path, _)| Some(Path::new(&path).file_name()?.to_str()?.to_owned()))
        .filter(|name| name != "kustomization.yaml")
        .collect();
    assert_eq!(listed, present.iter().map(String::as_str).collect());
}

/// Pods are read only if a Corefile has `pods verified`.
#[test]
fn pods_are_read_by_those_who_ask_for_it() {
    let objects = kustomize("pods-verified");
    let role: ClusterRole = typed(&objects, "ClusterRole");
    assert_eq!(granted(&role), BTreeSet::from(["/pods list,watch".to_owned()]));
    let binding: ClusterRoleBinding = typed(&objects, "ClusterRoleBinding");
    assert_eq!(Some(binding.role_ref.name), role.metadata.name);
    let bound: ClusterRoleBinding = typed(&base(), "ClusterRoleBinding");
    assert_eq!(binding.subjects, bound.subjects);
    assert_eq!(objects.len(), 2);
}

/// Each resource with its verbs.
fn granted(role: &ClusterRole) -> BTreeSet<String> {
    let mut granted = BTreeSet::new();
    for rule in role.rules.iter().flatten() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                granted.insert(format!("{group}/{resource} {}", rule.verbs.join(",")));
            }
        }
    }
    granted
}

#[test]
fn only_what_is_read_and_written_is_permitted() {
    let role: ClusterRole = typed(&base(), "ClusterRole");
    let want = [
        "/namespaces list,watch",
        "/nodes list,watch",
        "/services list,watch",
        "discovery.k8s.io/endpointslices list,watch",
        "events.k8s.io/events create",
        "multicluster.x-k8s.io/serviceimports list,watch",
        "networking.k8s.io/servicecidrs list,watch",
    ];
    assert_eq!(granted(&role), want.map(str::to_owned).into());
}

fn containers(set: &DaemonSet) -> (Vec<Container>, Vec<Container>) {
    let pod = set.spec.as_ref().unwrap().template.spec.clone().unwrap();
    (pod.init_containers.unwrap(), pod.containers)
}

#[test]
fn no_container_is_privileged_but_the_first_one() {
    let set: DaemonSet = typed(&base(), "DaemonSet");
    let (init, main) = containers(&set);
    let is_privileged =
        |container: &Container| container.security_context.as_ref().and_then(|it| it.privileged);
    let names: Vec<_> = init.iter().filter(|it| is_privileged(it) == Some(true)).map(|it| &it.name).collect();
    assert_eq!(names, ["sysctls"]);
    let text = fs::read_to_string(deploy().join("kustomize/base/daemon-set.yaml")).unwrap();
    let before = text.lines().take_while(|line| !line.contains("name: sysctls")).last().unwrap();
    assert!(before.trim_start().starts_with('#'), "the reason stands above: {before}");
    for container in &main {
        let context = container.security_context.as_ref().unwrap();
        assert_eq!(context.privileged, Some(false), "{}", container.name);
        assert_eq!(context.allow_privilege_escalation, Some(false), "{}", container.name);
        let capabilities = context.capabilities.as_ref().unwrap();
        assert_eq!(capabilities.drop.as_deref().unwrap(), ["ALL"]);
        let added: BTreeSet<&str> = capabilities.add.iter().flatten().map(String::as_str).collect();
        assert_eq!(added, ["BPF", "NET_ADMIN", "NET_BIND_SERVICE", "PERFMON"].into());
    }
    for container in init.iter().chain(&main) {
        assert_eq!(container.security_context.as_ref().unwrap().read_only_root_filesystem, Some(true));
        assert!(container.ports.is_none(), "with the node's network, a port would keep a second agent out");
    }
}

/// A port of the node may be another agent's, and full of others' connections.
#[test]
fn every_probe_uses_the_control_socket() {
    let set: DaemonSet = typed(&base(), "DaemonSet");
    let (_, main) = containers(&set);
    let [agent] = main.as_slice() else { panic!("one container") };
    for (name, probe, flag) in [
        ("startup", &agent.startup_probe, Some("--ready")),
        ("readiness", &agent.readiness_probe, None),
        ("liveness", &agent.liveness_probe, Some("--live")),
    ] {
        let exec = probe.as_ref().and_then(|probe| probe.exec.as_ref()).and_then(|exec| exec.command.clone());
        let want: Vec<String> = ["/portreeve", "status"].into_iter().chain(flag).map(str::to_owned).collect();
        assert_eq!(exec, Some(want), "{name}");
    }
}

/// The whole list: a right that is added anywhere fails here.
#[test]
fn the_pod_has_no_other_rights() {
    let pod = base()["DaemonSet"]["spec"]["template"]["spec"].clone();
    let seccomp = json!({ "type": "RuntimeDefault" });
    assert_eq!(pod["securityContext"], json!({ "seccompProfile": seccomp }));
    assert_eq!(pod["hostNetwork"], true);
    for namespace in ["hostPID", "hostIPC", "shareProcessNamespace"] {
        assert!(pod[namespace].is_null(), "{namespace}");
    }
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsUser": 0,
            "seccompProfile": seccomp,
            "capabilities": {
                "drop": ["ALL"],
                "add": ["BPF", "NET_ADMIN", "PERFMON", "NET_BIND_SERVICE"],
            },
        })
    );
    // Of the node's files: cgroups to read, and the agent's own pins to write.
    let volumes = pod["volumes"].as_array().unwrap();
    let host: Vec<&Value> = volumes.iter().filter(|it| !it["hostPath"].is_null()).collect();
    let path = |name: &str, path: &str, kind: &str| json!({ "name": name, "hostPath": { "path": path, "type": kind } });
    let cgroup = path("cgroup", "/sys/fs/cgroup", "Directory");
    let pins = path("pins", "/sys/fs/bpf/portreeve", "DirectoryOrCreate");
    assert_eq!(host, [&cgroup, &pins]);
    assert_eq!(
        pod["containers"][0]["volumeMounts"],
        json!([
            { "name": "config", "mountPath": "/var/lib/kube-proxy", "readOnly": true },
            { "name": "cgroup", "mountPath": "/host/cgroup", "readOnly": true },
            { "name": "mount-point", "mountPath": "/sys/fs/bpf" },
            { "name": "pins", "mountPath": "/sys/fs/bpf/portreeve" },
            { "name": "run", "mountPath": "/run/portreeve" },
        ])
    );
    // The privileged container sees the configuration only.
    let config = json!([{ "name": "config", "mountPath": "/var/lib/kube-proxy", "readOnly": true }]);
    assert_eq!(pod["initContainers"][0]["volumeMounts"], config);
    assert_eq!(
        pod["initContainers"].as_array().unwrap().len() + pod["containers"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn one_agent_starts_beside_the_other() {
    let set: DaemonSet = typed(&base(), "DaemonSet");
    let strategy = serde_json::to_value(set.spec.as_ref().unwrap().update_strategy.clone().unwrap()).unwrap();
    assert_eq!(strategy["rollingUpdate"], json!({ "maxSurge": 1, "maxUnavailable": 0 }));
    let (_, main) = containers(&set);
    assert!(main[0].args.as_ref().unwrap().contains(&"--takeover".to_owned()));
    // Every mounted volume is a volume of the pod.
    let pod = set.spec.unwrap().template.spec.unwrap();
    let volumes: BTreeSet<String> = pod.volumes.unwrap().into_iter().map(|volume| volume.name).collect();
    let mounted: BTreeSet<String> =
        main[0].volume_mounts.iter().flatten().map(|mount| mount.name.clone()).collect();
    assert_eq!(volumes, mounted);
}

/// The binary parses the file in the ConfigMap.
#[test]
fn the_configuration_is_one_that_the_agent_takes() {
    let map: ConfigMap = typed(&base(), "ConfigMap");
    let data = map.data.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.conf");
    fs::write(&path, &data["config.conf"]).unwrap();
    let plan = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .args(["plan", "--node-name", "node-1", "--manifests"])
        .arg(deploy().join("../examples/voting"))
        .arg("--config")
        .arg(&path)
        .output()
        .unwrap();
    assert!(plan.status.success(), "{plan:?}");
    assert!(plan.stderr.is_empty(), "nothing is to be remarked: {}", String::from_utf8_lossy(&plan.stderr));
    let kubeconfig: Value = serde_saphyr::from_str(&data["kubeconfig.conf"]).unwrap();
    assert_eq!(kubeconfig["kind"], "Config");
}

/// Renders the chart's templates, which use only values of the template language.
fn render(template: &str, values: &Value) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (expression, after) = behind.split_once("}}").expect("an expression ends");
        text += before;
        text += &match expression.trim() {
            ".Release.Namespace" => "kube-system".to_owned(),
            value => {
                let name = value.strip_prefix(".Values.").unwrap_or_else(|| panic!("{value} is no value"));
                values[name].as_str().unwrap_or_else(|| panic!("{name} is not among the values")).to_owned()
            }
        };
        rest = after;
    }
    text + rest
}

/// The DNS Service has the usual name, ports and labels; its endpoints are the agents.
#[test]
fn the_cluster_dns_service_selects_the_agents() {
    let objects = kustomize("cluster-dns");
    assert_eq!(objects.len(), 1);
    let service: Service = typed(&objects, "Service");
    let (metadata, spec) = (service.metadata, service.spec.unwrap());
    assert_eq!(metadata.name.as_deref(), Some("kube-dns"));
    assert_eq!(metadata.labels.unwrap()["k8s-app"], "kube-dns");
    let set: DaemonSet = typed(&base(), "DaemonSet");
    assert_eq!(spec.selector, set.spec.unwrap().selector.match_labels);
    let ports: Vec<_> = spec.ports.iter().flatten().map(|port| (port.name.as_deref(), port.port)).collect();
    assert_eq!(ports, [(Some("dns"), 53), (Some("dns-tcp"), 53), (Some("metrics"), 9153)]);

    let chart = deploy().join("helm/portreeve-cluster-dns");
    let values: Value =
        serde_saphyr::from_str(&fs::read_to_string(chart.join("values.yaml")).unwrap()).unwrap();
    let templates = files(&chart.join("templates")).into_iter();
    let rendered = templates.map(|(name, text)| (name, render(&text, &values)));
    assert_eq!(self::objects(rendered), objects);
}

/// The base with the overlay's patch: of the two DNS flags one is left in each container.
#[test]
fn the_agents_answer_names_where_cluster_dns_is_added() {
    let patch = fs::read_to_string(deploy().join("kustomize/cluster-dns/daemon-set.json")).unwrap();
    let patch: Vec<Value> = serde_json::from_str(&patch).unwrap();
    let mut objects = base();
    for operation in &patch {
        apply(operation, objects.get_mut("DaemonSet").unwrap());
    }
    let (init, main) = containers(&typed(&objects, "DaemonSet"));
    let dns = |container: &Container| -> Vec<String> {
        container.args.iter().flatten().filter(|arg| arg.contains("dns")).cloned().collect()
    };
    assert_eq!(dns(&init[0]), ["--dns"]);
    assert_eq!(dns(&main[0]), ["--dns", "--dns-metrics-bind-address=[::]:9153"]);
}

/// An operation of a JSON patch (RFC 6902).
fn apply(operation: &Value, object: &mut Value) {
    let text = |name: &str| operation[name].as_str().unwrap();
    let (path, value) = (text("path"), &operation["value"]);
    match text("op") {
        "test" => assert_eq!(object.pointer(path), Some(value), "{path}"),
        "replace" => *object.pointer_mut(path).unwrap() = value.clone(),
        "add" => {
            let list = object.pointer_mut(path.strip_suffix("/-").unwrap()).unwrap();
            list.as_array_mut().unwrap().push(value.clone());
        }
        other => panic!("{other} is not in use"),
    }
}

/// On nodes in containers not even root may lower the OOM score. No sysctl is set: this may run as root.
#[test]
fn the_init_container_ends_well_without_the_right_to_set_the_oom_score() {
    // Capabilities belong to threads, and a child inherits those of the thread that starts it.
    let without_rights = std::thread::spawn(|| {
        // Fails for a user who has no such right to drop.
        let _ = caps::drop(None, caps::CapSet::Bounding, caps::Capability::CAP_SYS_RESOURCE);
        Command::new(env!("CARGO_BIN_EXE_portreeve"))
            .args(["run", "--init-only", "--no-dns", "--oom-score-adj=-999", "--conntrack-max-per-core=0"])
            .args(["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"])
            .output()
            .unwrap()
    });
    let output = without_rights.join().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("OOM score unchanged"), "{stderr}");
}

#[test]
fn the_chart_says_what_the_kustomize_base_says() {
    let chart = deploy().join("helm/portreeve");
    let values: Value =
        serde_saphyr::from_str(&fs::read_to_string(chart.join("values.yaml")).unwrap()).unwrap();
    let templates = files(&chart.join("templates"));
    let all: String = templates.iter().map(|(_, text)| text.as_str()).collect();
    let rendered = objects(templates.into_iter().map(|(name, text)| (name, render(&text, &values))));
    assert_eq!(rendered, base());
    for name in values.as_object().unwrap().keys() {
        assert!(all.contains(&format!(".Values.{name} ")), "value {name} is used nowhere");
    }
    let meta: Value = serde_saphyr::from_str(&fs::read_to_string(chart.join("Chart.yaml")).unwrap()).unwrap();
    assert_eq!(meta["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// Helm refuses values that the schema does not know: a misspelt one would be ignored silently.
#[test]
fn the_schema_of_each_chart_knows_its_values() {
    for chart in ["portreeve", "portreeve-cluster-dns"] {
        let chart = deploy().join("helm").join(chart);
        let values: Value =
            serde_saphyr::from_str(&fs::read_to_string(chart.join("values.yaml")).unwrap()).unwrap();
        let schema: Value =
            serde_json::from_str(&fs::read_to_string(chart.join("values.schema.json")).unwrap()).unwrap();
        assert_eq!(schema["additionalProperties"], false, "{}", chart.display());
        let known = schema["properties"].as_object().unwrap();
        // Helm adds this one to the values of a chart below another.
        let names: BTreeSet<&String> = known.keys().filter(|name| *name != "global").collect();
        assert_eq!(names, values.as_object().unwrap().keys().collect(), "{}", chart.display());
        for required in schema["required"].as_array().unwrap() {
            assert!(known.contains_key(required.as_str().unwrap()), "{required}");
        }
        for (name, value) in values.as_object().unwrap() {
            assert_eq!(known[name]["type"], "string", "{name}");
            assert!(value.is_string(), "{name}");
            let allowed = known[name]["enum"].as_array();
            assert!(
                allowed.is_none_or(|allowed| allowed.contains(value)),
                "the default of {name} is allowed"
            );
        }
    }
}

/// The commands of the notes are those of a pod of this chart.
#[test]
fn the_notes_are_rendered() {
    let chart = deploy().join("helm/portreeve");
    let values: Value =
        serde_saphyr::from_str(&fs::read_to_string(chart.join("values.yaml")).unwrap()).unwrap();
    let notes = render(&fs::read_to_string(chart.join("templates/NOTES.txt")).unwrap(), &values);
    let set: DaemonSet = typed(&base(), "DaemonSet");
    let name = set.metadata.name.unwrap();
    for words in [
        format!("kubectl --namespace kube-system rollout status daemonset/{name}"),
        format!("exec daemonset/{name} -- /portreeve status"),
        format!("with {}.", values["dns"].as_str().unwrap()),
    ] {
        assert!(notes.contains(&words), "`{words}` is not in:\n{notes}");
    }
    assert!(!notes.contains("{{"), "{notes}");
}
