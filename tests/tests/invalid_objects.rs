//! Invalid objects are reported and affect no others; a missing requirement of the machine is one error message.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tests::{
    Cluster,
    agent::portreeve,
    node::Node,
    objects::{EndpointObject, Manifests},
};

const BROKEN: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: broken\n  namespace: default\n";

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.200.1", "clusterIPs": ["10.96.200.1"],
            "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        },
    })
}

/// A second slice of `service`, with one invalid and one valid address.
fn slice(service: &str, good: &EndpointObject, port: u16) -> Value {
    let endpoint = |address: String| json!({"addresses": [address], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "wrong-address", "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [endpoint("10.244.1.999".to_owned()), endpoint(good.addresses.v4.to_string())],
        "ports": [{"name": "tcp-80", "port": port, "protocol": "TCP"}],
    })
}

fn log(node: &Node) -> String {
    fs::read_to_string(&node.setting().log).expect("the agent logs")
}

fn plan(manifests: &Manifests) -> Value {
    let mut command = Command::new(portreeve().expect("portreeve is built"));
    command.arg("plan").arg("--manifests").arg(manifests.directory());
    let output = command.args(["--node-name", "node-1", "--output", "json"]).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("plan prints JSON")
}

#[tokio::test]
async fn invalid_objects_are_reported_and_the_others_served() {
    let cluster = Cluster::start("bad").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let b = cluster.pod("b").start().await;
    b.serve(web.port(0).protocol, web.port(0).target).await.expect("b serves");

    let manifests = cluster.manifests();
    let good = web.endpoint_object(&b);
    manifests.write_text("broken.yaml", BROKEN).expect("it is written");
    manifests.write("port-zero.yaml", &service("port-zero", 0)).expect("it is written");
    manifests.write("wrong-address.yaml", &slice("web", &good, web.port(0).target)).expect("it is written");

    // The valid address is served, so the slice was read and its warning logged.
    cluster.pod("client").dials(web.vip()).times(40).comes_to_reach_each_of(["a", "b"]).await;
    tests::eventually("the warnings name the objects", async || {
        let log = log(cluster.node(0));
        for word in ["broken.yaml", "port-zero", "10.244.1.999"] {
            let named = log.lines().any(|line| line.contains("WARN") && line.contains(word));
            anyhow::ensure!(named, "no warning names {word}");
        }
        Ok(())
    })
    .await;
    let skipped = plan(manifests)["skipped"].to_string();
    for word in ["broken.yaml", "port-zero", "wrong-address"] {
        assert!(skipped.contains(word), "{word} is not among the skipped: {skipped}");
    }

    // A corrected object is served.
    manifests.remove("broken.yaml").expect("it is removed");
    manifests.write("port-zero.yaml", &service("port-zero", 8000)).expect("it is written");
    let mended = "10.96.200.1:8000".parse::<std::net::SocketAddr>().expect("an address");
    cluster.pod("client").dials(mended).times(4).comes_to_be_refused().await;
}

/// The last line is one sentence with this word; no backtrace, no panic.
fn reports_missing(output: &Output, word: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let sentence = text.lines().last().unwrap_or_default();
    assert!(sentence.contains(word), "the last line does not name {word}: {text}");
}

#[tokio::test]
async fn missing_requirements_of_the_machine_are_one_sentence() {
    let cluster = Cluster::start("lack").without_agents().await;
    let elsewhere = tempfile::tempdir().expect("a directory");
    let setting = cluster.node(0).setting();

    let mut no_cgroup = setting.clone();
    no_cgroup.cgroup = elsewhere.path().to_owned();
    let output = no_cgroup.command().expect("portreeve is built").output().expect("it starts");
    reports_missing(&output, "cgroup");

    let mut no_bpffs = setting.clone();
    no_bpffs.bpffs = elsewhere.path().join("pins");
    let output = no_bpffs.command().expect("portreeve is built").output().expect("it starts");
    reports_missing(&output, "bpffs");

    let mut unprivileged = setting.command().expect("portreeve is built");
    // SAFETY: the closure runs between fork and exec and makes only prctl calls.
    unsafe { unprivileged.pre_exec(drop_capabilities) };
    reports_missing(&unprivileged.output().expect("it starts"), "CAP_");
}

/// Empties the bounding set: root then has no capability after exec.
fn drop_capabilities() -> io::Result<()> {
    // Above the last capability of any kernel; an unknown number fails without effect.
    for capability in 0..64 {
        // SAFETY: prctl with these arguments reads and writes no memory.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    Ok(())
}
