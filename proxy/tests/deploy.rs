//! The manifests in `deploy/`: valid for the API, with no more permissions than needed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "deploy/dashboards.rs"]
mod dashboards;
#[path = "deploy/template.rs"]
mod template;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use expect_test::expect_file;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    batch::v1::Job,
    core::v1::{ConfigMap, Container, Service, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use template::{Chart, Refusal, merge};

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

/// It dials as the node does, from the maps of the agent, and is not tried twice.
#[test]
fn the_connectivity_job_runs_once_on_each_node() {
    let objects = kustomize("connectivity");
    assert_eq!(objects.len(), 1);
    let job: Job = typed(&objects, "Job");
    let spec = job.spec.unwrap();
    assert_eq!((spec.completion_mode.as_deref(), spec.backoff_limit), (Some("Indexed"), Some(0)));
    assert_eq!(spec.parallelism, spec.completions, "a patch sets both");
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    let pod = spec.template.spec.unwrap();
    assert_eq!((pod.host_network, pod.restart_policy.as_deref()), (Some(true), Some("Never")));
    let apart = pod.affinity.unwrap().pod_anti_affinity.unwrap();
    let apart = &apart.required_during_scheduling_ignored_during_execution.unwrap()[0];
    assert_eq!(apart.label_selector.as_ref().unwrap().match_labels.as_ref(), Some(&labels));
    assert_eq!(apart.topology_key, "kubernetes.io/hostname");

    let set: DaemonSet = typed(&base(), "DaemonSet");
    let (_, agents) = containers(&set);
    let container = &pod.containers[0];
    assert_eq!(
        (&container.image, container.args.as_ref().unwrap()[0].as_str()),
        (&agents[0].image, "connectivity")
    );
    let mounts = container.volume_mounts.as_ref().unwrap();
    assert!(
        mounts.iter().all(|mount| agents[0].volume_mounts.as_ref().unwrap().contains(mount)),
        "{mounts:?}"
    );
    let context = container.security_context.as_ref().unwrap();
    assert_eq!((context.privileged, context.allow_privilege_escalation), (Some(false), Some(false)));
    let usage =
        Command::new(env!("CARGO_BIN_EXE_portreeve")).args(["connectivity", "--help"]).output().unwrap();
    let usage = String::from_utf8(usage.stdout).unwrap();
    for flag in &container.args.as_ref().unwrap()[1..] {
        let name = flag.split('=').next().unwrap();
        assert!(usage.contains(name), "{name}");
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

/// The chart's files, by path.
fn chart() -> Chart {
    let root = deploy().join("helm/portreeve");
    let mut files = BTreeMap::new();
    for directory in ["", "templates", "dashboards", "rules"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                files.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    Chart::new(files)
}

/// The objects of a release with these values, by kind and name.
fn release(values: &Value) -> Result<BTreeMap<String, Value>, Refusal> {
    let rendered = chart().render(values)?;
    let manifests = rendered.iter().filter(|(path, _)| path.ends_with(".yaml"));
    let documents = manifests.flat_map(|(path, text)| text.split("\n---\n").map(move |text| (path, text)));
    let objects = documents.map(|(path, text)| {
        let object: Value =
            serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{path}: {error}\n{text}"));
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{path}")).to_owned();
        (format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"])), object)
    });
    Ok(objects.collect())
}

/// By kind alone, which occurs once.
fn by_kind(objects: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let count = objects.len();
    let by_kind: BTreeMap<String, Value> = objects
        .into_iter()
        .map(|(name, object)| (name.split('/').next().unwrap().to_owned(), object))
        .collect();
    assert_eq!(by_kind.len(), count);
    by_kind
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

    objects.extend(kustomize("cluster-dns"));
    let release = release(&json!({"dns": {"enabled": true, "service": {"create": true}}})).unwrap();
    assert_eq!(by_kind(release), objects, "the chart makes the same");
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
    assert_eq!(by_kind(release(&json!({})).unwrap()), base());
    let meta: Value = serde_saphyr::from_str(&chart().files["Chart.yaml"]).unwrap();
    assert_eq!(meta["appVersion"], env!("CARGO_PKG_VERSION"));
    let pods: BTreeMap<_, _> = release(&json!({"rbac": {"pods": true}}))
        .unwrap()
        .into_iter()
        .filter(|(name, _)| name.ends_with("/portreeve-pods"))
        .collect();
    assert_eq!(by_kind(pods), kustomize("pods-verified"));
}

/// Whether a setting is found in the objects.
type IsFound = fn(&BTreeMap<String, Value>) -> bool;

/// Settings that are independent of each other.
fn settings() -> Vec<(Value, IsFound)> {
    let mut settings = settings_of_the_agent();
    settings.extend(settings_of_the_pod());
    settings
}

fn settings_of_the_agent() -> Vec<(Value, IsFound)> {
    vec![
        (json!({"image": {"repository": "registry.example:5000/portreeve", "tag": "v2"}}), |it| {
            pod(it)["containers"][0]["image"] == "registry.example:5000/portreeve:v2"
        }),
        (json!({"imagePullSecrets": [{"name": "registry"}]}), |it| {
            pod(it)["imagePullSecrets"][0]["name"] == "registry"
        }),
        (json!({"apiServer": "https://192.0.2.1:6443"}), |it| {
            let kubeconfig = &it["ConfigMap/portreeve"]["data"]["kubeconfig.conf"];
            kubeconfig.as_str().unwrap().contains("server: https://192.0.2.1:6443\n")
        }),
        (json!({"clusterCIDR": "10.1.0.0/16,fd00::/48", "mode": "iptables"}), |it| {
            config(it).contains("mode: iptables\n")
                && config(it).contains("clusterCIDR: 10.1.0.0/16,fd00::/48\n")
        }),
        (json!({"config": {"nodePortAddresses": ["primary"], "conntrack": {"maxPerCore": 0}}}), |it| {
            config(it).contains("nodePortAddresses")
        }),
        (json!({"dns": {"enabled": true}}), |it| args(it).contains(&"--dns")),
        (json!({"dns": {"enabled": true, "corefile": ".:53 {\n  kubernetes cluster.local\n}\n"}}), |it| {
            args(it).contains(&"--corefile=/etc/portreeve/corefile")
                && it["ConfigMap/portreeve-corefile"]["data"]["Corefile"].as_str().unwrap().contains("{\n")
        }),
        (json!({"dns": {"enabled": true, "service": {"create": true, "clusterIP": "fd96::a"}}}), |it| {
            args(it).contains(&"--dns-metrics-bind-address=[::]:9153")
                && it["Service/kube-dns"]["spec"]["clusterIP"] == "fd96::a"
        }),
        (json!({"dns": {"enabled": true, "metricsBindAddress": "192.0.2.1:9153"}}), |it| {
            args(it).contains(&"--dns-metrics-bind-address=192.0.2.1:9153")
        }),
        (json!({"metrics": {"bindAddress": "192.0.2.1:10249"}}), |it| {
            config(it).contains("metricsBindAddress: \"192.0.2.1:10249\"\n")
        }),
        (
            json!({"metrics": {"serviceMonitor": {"enabled": true, "interval": "7s", "labels": {"release": "x"}}}}),
            |it| {
                let monitor = &it["ServiceMonitor/portreeve"];
                monitor["spec"]["endpoints"][0]["interval"] == "7s"
                    && monitor["metadata"]["labels"]["release"] == "x"
            },
        ),
        (json!({"metrics": {"dashboards": {"enabled": true}}}), |it| {
            let map = &it["ConfigMap/portreeve-dashboards"];
            let is_dashboard = |file: &&str| {
                let dashboard = serde_json::from_str::<Value>(map["data"][file].as_str().unwrap());
                dashboard.is_ok_and(|dashboard| dashboard["panels"].is_array())
            };
            map["metadata"]["labels"]["grafana_dashboard"] == "1"
                && ["portreeve.json", "portreeve-services.json"].iter().all(is_dashboard)
        }),
        (json!({"metrics": {"rules": {"enabled": true, "labels": {"release": "x"}}}}), |it| {
            let rule = &it["PrometheusRule/portreeve"];
            rule["metadata"]["labels"]["release"] == "x"
                && rule["spec"]["groups"][0]["rules"].as_array().is_some_and(|rules| rules.len() > 3)
        }),
        (json!({"logLevel": "debug"}), |it| args(it).iter().filter(|arg| **arg == "--verbose").count() == 1),
        (json!({"logLevel": "trace", "logFormat": "json"}), |it| {
            args(it).iter().filter(|arg| **arg == "--verbose").count() == 2
                && args(it).contains(&"--log-format=json")
        }),
    ]
}

fn settings_of_the_pod() -> Vec<(Value, IsFound)> {
    let terms = json!([{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    vec![
        (json!({"rbac": {"pods": true}}), |it| it.contains_key("ClusterRole/portreeve-pods")),
        (json!({"cgroup": "/sys/fs/cgroup/unified"}), |it| {
            pod(it)["volumes"][1]["hostPath"]["path"] == "/sys/fs/cgroup/unified"
        }),
        (json!({"resources": {"limits": {"memory": "1Gi"}}}), |it| {
            pod(it)["containers"][0]["resources"]["limits"]["memory"] == "1Gi"
        }),
        (json!({"priorityClassName": ""}), |it| pod(it)["priorityClassName"].is_null()),
        (json!({"nodeSelector": {"pool": "a"}}), |it| pod(it)["nodeSelector"]["pool"] == "a"),
        (json!({"tolerations": [{"key": "a", "operator": "Exists"}]}), |it| {
            pod(it)["tolerations"][0]["key"] == "a"
        }),
        (json!({"tolerations": []}), |it| pod(it)["tolerations"].is_null()),
        (json!({"affinity": affinity}), |it| !pod(it)["affinity"]["nodeAffinity"].is_null()),
        (json!({"podAnnotations": {"a.example/b": "c"}, "podLabels": {"team": "net"}}), |it| {
            let metadata = &it["DaemonSet/portreeve"]["spec"]["template"]["metadata"];
            metadata["annotations"]["a.example/b"] == "c" && metadata["labels"]["team"] == "net"
        }),
        (json!({"updateStrategy": {"rollingUpdate": {"maxSurge": "10%"}}}), |it| {
            it["DaemonSet/portreeve"]["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == "10%"
        }),
        (json!({"extraArgs": ["--devices=eth*", "--xdp=off"]}), |it| {
            args(it).contains(&"--devices=eth*") && args(it).contains(&"--xdp=off")
        }),
        (json!({"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://192.0.2.9"}]}), |it| {
            pod(it)["containers"][0]["env"][1]["name"] == "HTTPS_PROXY"
        }),
        (
            json!({"extraVolumes": [{"name": "tls", "secret": {"secretName": "x"}}],
                "extraVolumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": true}]}),
            |it| {
                pod(it)["containers"][0]["volumeMounts"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|mount| mount["mountPath"] == "/tls")
            },
        ),
    ]
}

fn pod(objects: &BTreeMap<String, Value>) -> &Value {
    &objects["DaemonSet/portreeve"]["spec"]["template"]["spec"]
}
fn args(objects: &BTreeMap<String, Value>) -> Vec<&str> {
    pod(objects)["containers"][0]["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}
fn config(objects: &BTreeMap<String, Value>) -> &str {
    objects["ConfigMap/portreeve"]["data"]["config.conf"].as_str().unwrap()
}

/// Values that contradict each other are refused by the templates, not by the agents.
#[test]
fn contradictory_values_are_refused() {
    for (values, want) in [
        (json!({"dns": {"corefile": "."}}), "need dns.enabled"),
        (json!({"dns": {"service": {"create": true}}}), "nothing answers at the Service"),
        (json!({"dns": {"enabled": true, "corefile": ".", "corefileConfigMap": "coredns"}}), "two Corefiles"),
        (
            json!({"existingConfigMap": "kube-proxy", "metrics": {"bindAddress": "0.0.0.0:10249"}}),
            "set them there",
        ),
        (json!({"existingConfigMap": "kube-proxy", "config": {"bindAddress": "::"}}), "set them there"),
        (
            json!({"metrics": {"bindAddress": "127.0.0.1:10249", "serviceMonitor": {"enabled": true}}}),
            "that Prometheus can reach",
        ),
        (
            json!({"metrics": {"bindAddress": "0.0.0.0:9000", "serviceMonitor": {"enabled": true}}}),
            "advertises port 10249",
        ),
        (
            json!({"dns": {"enabled": true, "metricsBindAddress": "[::]:9000", "service": {"create": true}}}),
            "advertises port 9153",
        ),
    ] {
        let Refusal(refusal) = release(&values).expect_err(want);
        assert!(refusal.contains(want), "{values}: {refusal}");
    }
    let shared = release(&json!({"existingConfigMap": "kube-proxy"})).unwrap();
    assert!(!shared.contains_key("ConfigMap/portreeve"), "kubeadm's own stays as it is");
    let volumes = &shared["DaemonSet/portreeve"]["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[0]["configMap"]["name"], "kube-proxy");
    let coredns = release(&json!({"dns": {"enabled": true, "corefileConfigMap": "coredns"}})).unwrap();
    let pod = &coredns["DaemonSet/portreeve"]["spec"]["template"]["spec"];
    assert!(pod["volumes"].as_array().unwrap().iter().any(|volume| volume["configMap"]["name"] == "coredns"));
    assert!(!coredns.contains_key("ConfigMap/portreeve-corefile"));
}

/// Each setting alone, and random combinations of them: objects of the API's types, consistent with each other.
#[test]
fn every_combination_of_values_is_valid() {
    let settings = settings();
    let alone = (0..settings.len()).map(|n| vec![n]);
    // A linear congruential generator: the combinations are the same in every run.
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 40
    };
    let random = (0..150).map(|_| (0..settings.len()).filter(|_| next() % 3 == 0).collect());
    let schema: Value = serde_json::from_str(&chart().files["values.schema.json"]).unwrap();
    for chosen in alone.chain(random.collect::<Vec<Vec<usize>>>()) {
        let mut values = json!({});
        chosen.iter().for_each(|n| merge(&mut values, &settings[*n].0));
        conforms(&schema, &values, "values");
        let objects = match release(&values) {
            Ok(objects) => objects,
            // Two of the settings contradict each other.
            Err(Refusal(refusal)) => {
                assert!(chosen.len() > 1, "{refusal}: {values}");
                continue;
            }
        };
        check_release(&objects, &values);
        if let [n] = chosen[..] {
            are_flags_of_the_agent(&objects);
            assert!(settings[n].1(&objects), "{values} has no effect:\n{objects:#?}");
        }
    }
}

/// The agent takes the arguments of each container together, and the file: `--write-config-to` ends it once they are parsed.
fn are_flags_of_the_agent(objects: &BTreeMap<String, Value>) {
    let (init, main) = containers(&serde_json::from_value(objects["DaemonSet/portreeve"].clone()).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.conf");
    fs::write(&path, objects["ConfigMap/portreeve"]["data"]["config.conf"].as_str().unwrap()).unwrap();
    let file = format!("--config={}", path.display());
    for container in init.iter().chain(&main) {
        let args = container.args.iter().flatten();
        let args = args.map(|arg| if arg.starts_with("--config=") { &file } else { arg });
        let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
            .args(args)
            .args(["--write-config-to", "/dev/null"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{:?}: {output:?}", container.args);
    }
}

fn check_release(objects: &BTreeMap<String, Value>, values: &Value) {
    for (name, object) in objects {
        let kind = name.split('/').next().unwrap();
        let one = BTreeMap::from([(kind.to_owned(), object.clone())]);
        match kind {
            "ServiceAccount" => drop(typed::<ServiceAccount>(&one, kind)),
            "ClusterRole" => drop(typed::<ClusterRole>(&one, kind)),
            "ClusterRoleBinding" => drop(typed::<ClusterRoleBinding>(&one, kind)),
            "ConfigMap" => drop(typed::<ConfigMap>(&one, kind)),
            "DaemonSet" => drop(typed::<DaemonSet>(&one, kind)),
            "Service" => drop(typed::<Service>(&one, kind)),
            "ServiceMonitor" => check_service_monitor(object, objects),
            "PrometheusRule" => check_rules(object),
            other => panic!("{other} has no type here"),
        }
    }
    let set: DaemonSet = serde_json::from_value(objects["DaemonSet/portreeve"].clone()).unwrap();
    let (init, main) = containers(&set);
    for container in init.iter().chain(&main) {
        let args: Vec<&str> = container.args.iter().flatten().map(String::as_str).collect();
        let names: BTreeSet<&str> = args.iter().map(|arg| arg.split('=').next().unwrap()).collect();
        let repeated = args.iter().filter(|arg| **arg == "--verbose").count().saturating_sub(1);
        assert_eq!(names.len() + repeated, args.len(), "a flag is given twice: {args:?}");
        assert!(!(names.contains("--dns") && names.contains("--no-dns")), "{args:?}");
        for port in ["--metrics-bind-address", "--cluster-cidr"] {
            assert!(!names.contains(port), "the configuration file overrides it: {args:?}");
        }
    }
    let pod = set.spec.unwrap().template.spec.unwrap();
    let volumes: BTreeSet<String> = pod.volumes.unwrap().into_iter().map(|volume| volume.name).collect();
    let mounts = main[0].volume_mounts.iter().flatten().map(|mount| mount.name.clone());
    assert_eq!(volumes, mounts.collect(), "{values}");
    check_ports(objects, &main[0]);
}

/// Every alert has its text, and nothing else than the operator's fields.
fn check_rules(object: &Value) {
    for rule in object["spec"]["groups"][0]["rules"].as_array().unwrap() {
        let fields: BTreeSet<&str> = rule.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["alert", "annotations", "expr", "for", "labels"].into());
        assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string());
    }
}

/// The ports of the Services are addresses that the agent listens at, not only on loopback.
fn check_ports(objects: &BTreeMap<String, Value>, agent: &Container) {
    let args: Vec<&str> = agent.args.iter().flatten().map(String::as_str).collect();
    let of_file = |field: &str| {
        let config = objects.get("ConfigMap/portreeve")?["data"]["config.conf"].as_str()?;
        let config: Value = serde_saphyr::from_str(config).unwrap();
        config[field].as_str().map(str::to_owned)
    };
    let flag = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name)).map(str::to_owned);
    for (name, service) in objects.iter().filter(|(name, _)| name.starts_with("Service/")) {
        for port in service["spec"]["ports"].as_array().unwrap() {
            let address = match port["port"].as_u64().unwrap() {
                53 => args.contains(&"--dns").then(|| "0.0.0.0:53".to_owned()),
                9153 => flag("--dns-metrics-bind-address="),
                10_249 => of_file("metricsBindAddress"),
                other => panic!("{name} advertises {other}"),
            };
            let address: SocketAddr = address.unwrap_or_else(|| panic!("{name} {port}")).parse().unwrap();
            assert_eq!(u64::from(address.port()), port["targetPort"].as_u64().unwrap(), "{name}");
            assert!(!address.ip().is_loopback(), "{name}");
        }
    }
}

/// A type of the Prometheus operator, which k8s-openapi does not have: the fields in use, by its reference.
fn check_service_monitor(monitor: &Value, objects: &BTreeMap<String, Value>) {
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(keys(&monitor["spec"]), ["endpoints", "namespaceSelector", "selector"]);
    assert_eq!(keys(&monitor["spec"]["namespaceSelector"]), ["matchNames"]);
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!(keys(endpoint), ["interval", "port", "relabelings"]);
    assert_eq!(keys(&endpoint["relabelings"][0]), ["replacement", "targetLabel"]);
    let selected = |service: &Value| {
        let labels = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        labels.iter().all(|(name, value)| service["metadata"]["labels"][name] == *value)
    };
    let services: Vec<_> =
        objects.iter().filter(|(name, it)| name.starts_with("Service/") && selected(it)).collect();
    let [(_, service)] = services.as_slice() else { panic!("{services:?}") };
    assert_eq!(service["spec"]["ports"][0]["name"], endpoint["port"]);
}

/// Whether the value has the types, names and words of a schema; Helm also compares the patterns.
fn conforms(schema: &Value, value: &Value, path: &str) {
    let is_type = match schema["type"].as_str() {
        Some("object") => value.is_object() || value.is_null(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        other => panic!("{path}: {other:?}"),
    };
    assert!(is_type, "{path}: {value} is not {}", schema["type"]);
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{path}: {value}");
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let refused = schema["propertyNames"]["not"]["enum"].as_array();
        assert!(!refused.is_some_and(|refused| refused.contains(&json!(name))), "{path}");
        match schema["properties"].get(name) {
            Some(schema) => conforms(schema, field, &path),
            None if schema["additionalProperties"].is_object() => {
                conforms(&schema["additionalProperties"], field, &path);
            }
            None => assert_ne!(schema["additionalProperties"], false, "{path} is unknown"),
        }
    }
    for element in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
        conforms(&schema["items"], element, path);
    }
}

/// Helm refuses values that the schema does not know: a misspelt one would be ignored silently.
#[test]
fn the_schema_knows_exactly_the_values() {
    let chart = chart();
    let schema: Value = serde_json::from_str(&chart.files["values.schema.json"]).unwrap();
    let values: Value = serde_saphyr::from_str(&chart.files["values.yaml"]).unwrap();
    conforms(&schema, &values, "values");
    compare(&schema, &values, "values");
    for misspelt in [json!({"dsn": {}}), json!({"dns": {"enable": true}}), json!({"dns": "--dns"})] {
        let refused = std::panic::catch_unwind(|| conforms(&schema, &misspelt, "values"));
        assert!(refused.is_err(), "{misspelt}");
    }
    let templates: String =
        chart.files.iter().filter(|(path, _)| path.contains("templates/")).map(|(_, text)| &**text).collect();
    for name in values.as_object().unwrap().keys() {
        assert!(templates.contains(&format!(".Values.{name}")), "value {name} is used nowhere");
    }
}

fn compare(schema: &Value, values: &Value, path: &str) {
    if schema["additionalProperties"] != false {
        return;
    }
    let properties = schema["properties"].as_object().unwrap();
    // Helm adds this one to the values of a chart below another.
    let known: BTreeSet<&String> = properties.keys().filter(|name| *name != "global").collect();
    assert_eq!(known, values.as_object().unwrap().keys().collect(), "{path}");
    for (name, schema) in properties.iter().filter(|(name, _)| *name != "global") {
        compare(schema, &values[name], &format!("{path}.{name}"));
    }
}

/// The commands of the notes are those of a pod of this chart.
#[test]
fn the_notes_are_rendered() {
    let notes = |values: Value| chart().render(&values).unwrap()["templates/NOTES.txt"].clone();
    let set: DaemonSet = typed(&base(), "DaemonSet");
    let name = set.metadata.name.unwrap();
    let plain = notes(json!({}));
    for words in [
        format!("kubectl --namespace kube-system rollout status daemonset/{name}"),
        format!("exec daemonset/{name} -- /portreeve status"),
        "with --no-dns.".to_owned(),
        "API server at https://api.cluster.example:6443".to_owned(),
    ] {
        assert!(plain.contains(&words), "`{words}` is not in:\n{plain}");
    }
    let other = notes(json!({"existingConfigMap": "kube-proxy", "dns": {"enabled": true}}));
    assert!(other.contains("that of the ConfigMap kube-proxy") && other.contains("with --dns."), "{other}");
    assert!(
        notes(json!({"dns": {"enabled": true, "service": {"create": true}}}))
            .contains("kube-dns at 10.96.0.10")
    );
}

/// `UPDATE_EXPECT=1 cargo test -p proxy --test deploy dashboard` writes the dashboard of Services.
#[test]
fn the_dashboard_of_services_is_made_from_its_panels() {
    let directory = deploy().join("helm/portreeve/dashboards").canonicalize().unwrap();
    let text = serde_json::to_string_pretty(&dashboards::services()).unwrap() + "\n";
    expect_file![directory.join("portreeve-services.json")].assert_eq(&text);
}

/// Every metric of the dashboards and rules exists, with the labels that they group or select by.
#[test]
fn dashboards_and_rules_ask_for_metrics_of_the_agent() {
    let files = chart().files;
    let mut expressions = Vec::new();
    for file in ["dashboards/portreeve.json", "dashboards/portreeve-services.json"] {
        let dashboard: Value = serde_json::from_str(&files[file]).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let targets = panel["targets"].as_array().unwrap().iter();
            expressions.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
        }
    }
    let rules: Value = serde_saphyr::from_str(&files["rules/portreeve.yaml"]).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap().iter();
    expressions.extend(rules.map(|rule| rule["expr"].as_str().unwrap().to_owned()));
    let asked: usize = expressions.iter().map(|expression| metrics_in(expression)).sum();
    assert!(asked > 25, "{asked}");
}

/// The number of metrics in an expression, all of which docs/metrics.md has, with every label that is selected.
fn metrics_in(expression: &str) -> usize {
    let known = fs::read_to_string(deploy().join("../docs/metrics.md")).unwrap();
    let line_of = |name: &str| known.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
    let is_of_a_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let prefixes = ["portreeve_", "kubeproxy_", "rest_client_", "process_"];
    let mut asked = 0;
    for (at, _) in expression.match_indices(|_: char| true) {
        let starts = !expression[..at].ends_with(is_of_a_word);
        let rest = &expression[at..];
        if !starts || !prefixes.iter().any(|prefix| rest.starts_with(prefix)) {
            continue;
        }
        let (word, behind) = rest.split_at(rest.find(|c| !is_of_a_word(c)).unwrap_or(rest.len()));
        let suffixes = ["_bucket", "_sum", "_count"];
        let base = suffixes.iter().find_map(|suffix| word.strip_suffix(suffix));
        let line = line_of(word).or_else(|| line_of(base?));
        let line = line.unwrap_or_else(|| panic!("{word} is not served: {expression}"));
        asked += 1;
        let selected = behind.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        for label in selected.into_iter().flat_map(|(labels, _)| labels.split(',')) {
            let label = label.split(['=', '!']).next().unwrap();
            assert!(label == "job" || line.contains(&format!("`{label}`")), "{label} of {word}: {line}");
        }
    }
    asked
}

/// With Prometheus' own tool, if `PROMTOOL` names it: the rules are valid and fire when they should.
#[test]
fn promtool_accepts_the_rules() {
    let Some(promtool) = std::env::var_os("PROMTOOL") else {
        eprintln!("not run: PROMTOOL names no promtool");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("portreeve.yaml"), &chart().files["rules/portreeve.yaml"]).unwrap();
    fs::write(directory.path().join("test.yaml"), include_str!("../testdata/rules-test.yaml")).unwrap();
    for arguments in [["check", "rules", "portreeve.yaml"], ["test", "rules", "test.yaml"]] {
        let output = Command::new(&promtool).args(arguments).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// `deploy/helm/portreeve/README.md` is generated from values.yaml.
#[test]
fn the_readme_of_the_chart_lists_every_value() {
    let mut page = String::from(
        "# The chart of Portreeve\n\nThe agent on every node and, if wanted, the Service of cluster DNS. The schema refuses \
         misspelt values, and the templates values that contradict each other.\n\n```\nhelm install portreeve \
         deploy/helm/portreeve --namespace kube-system --set apiServer=https://API-SERVER:6443\n```\n\nThis page is \
         generated: `UPDATE_EXPECT=1 cargo test -p proxy --test deploy readme`.\n\n| value | default | meaning |\n| --- | \
         --- | --- |\n",
    );
    let chart = chart();
    let values: Value = serde_saphyr::from_str(&chart.files["values.yaml"]).unwrap();
    let schema: Value = serde_json::from_str(&chart.files["values.schema.json"]).unwrap();
    let mut parents: Vec<(usize, &str)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in chart.files["values.yaml"].lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(words) = text.strip_prefix("# ") {
            comment.push(words);
            continue;
        }
        let Some((name, _)) = text.split_once(':').filter(|_| !text.starts_with("- ")) else {
            comment.clear();
            continue;
        };
        parents.retain(|(other, _)| *other < indent);
        parents.push((indent, name));
        let names: Vec<&str> = parents.iter().map(|(_, name)| *name).collect();
        let found = names.iter().try_fold((&values, &schema), |(value, schema), name| {
            Some((value.get(name)?, schema["properties"].get(name)?))
        });
        // Below a value without properties of its own is its default.
        let Some((value, schema)) = found else { continue };
        let said = comment.join(" ");
        let said = if said.is_empty() { schema["description"].as_str().unwrap_or_default() } else { &said };
        let has_own = schema["properties"].is_object() && schema["additionalProperties"] == false;
        if has_own && said.is_empty() {
            continue;
        }
        let default = if has_own { String::new() } else { format!("`{value}`") };
        page += &format!("| `{}` | {default} | {} |\n", names.join("."), said.replace('|', "\\|"));
        comment.clear();
    }
    expect_file![
        deploy()
            .join("helm/portreeve/README.md")
            .canonicalize()
            .unwrap_or(deploy().join("helm/portreeve/README.md"))
    ]
    .assert_eq(&page);
}
