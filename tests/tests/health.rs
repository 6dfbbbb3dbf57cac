//! Health checks, metrics and status of a node.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Output},
};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ServiceSpec;
use proxy::datapath::maps_of;
use proxy_ebpf::abi::ABI_VERSION;
use tests::{
    Cluster,
    agent::portreeve,
    eventually,
    http::{HttpResponse, get},
    node::Node,
    objects::Condition,
};

const HEALTH_PORT: u16 = 32100;

fn here(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn fetch(node: &Node, port: u16, path: &str) -> Result<HttpResponse> {
    get(node.netns(), here(port), path)
}

fn checks_health(spec: &mut ServiceSpec) {
    spec.type_ = Some("LoadBalancer".to_owned());
    spec.external_traffic_policy = Some("Local".to_owned());
    spec.health_check_node_port = Some(i32::from(HEALTH_PORT));
}

/// Waits until the health check port reports this many local endpoints.
async fn reports_pods(node: &Node, pods: usize) {
    let condition = format!("{} reports {pods} pods", node.name);
    eventually(&condition, async || {
        let answer = fetch(node, HEALTH_PORT, "/any/path")?;
        ensure!(answer.status == if pods > 0 { 200 } else { 503 }, "{answer:?}");
        ensure!(answer.has_header(&format!("x-load-balancing-endpoint-weight: {pods}")), "{answer:?}");
        ensure!(answer.body.contains(&format!("\t\"localEndpoints\": {pods},\n")), "{answer:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_health_check_port_reports_local_endpoints() {
    let everywhere = "--nodeport-addresses=0.0.0.0/0,::/0";
    let cluster = Cluster::start("health-ports").nodes(2).flag(everywhere).await;
    // Pods are placed in turn: `a` and `c` on the first node, `b` on the second.
    let web =
        cluster.service("web").tcp(80).node_port(30080).change(checks_health).backends(["a", "b", "c"]).await;
    reports_pods(cluster.node(0), 2).await;
    reports_pods(cluster.node(1), 1).await;

    // A terminating endpoint does not count.
    web.set("a", Condition::Terminating);
    reports_pods(cluster.node(0), 1).await;
    web.remove("b");
    reports_pods(cluster.node(1), 0).await;

    web.delete();
    eventually("the deleted Service's port is closed", async || {
        ensure!(fetch(cluster.node(0), HEALTH_PORT, "/").is_err(), "it is open");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn health_metrics_and_status_are_served() {
    let cluster = Cluster::start("health").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    cluster.pod("client").dials(web.vip()).times(5).always_reaches_one_of(["a"]).await;

    for path in ["/healthz", "/livez"] {
        let answer = fetch(node, 10256, path).expect("it answers");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.has_header("content-type: application/json"), "{answer:?}");
        assert!(answer.has_header("x-content-type-options: nosniff"), "{answer:?}");
    }
    let metrics = fetch(node, 10249, "/metrics").expect("it answers").body;
    for series in [
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "portreeve_table_capacity{table=\"SLOTS\"}",
        "portreeve_refusals_total{reason=\"no_endpoint\"}",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(series)), "{series} is missing in:\n{metrics}");
    }
    let connections = metrics.lines().find(|line| line.starts_with("portreeve_service_connections_total{"));
    let (labels, count) =
        connections.and_then(|line| line.rsplit_once(' ')).expect("connections are counted");
    assert!(labels.contains("service=\"web\""), "{labels}");
    assert!(count.parse::<u64>().is_ok_and(|count| count >= 5), "{count}");

    // The maps are moved away: metrics from the agent's own state are still served.
    let (maps, aside) = (maps_of(node.bpffs(), ABI_VERSION), node.bpffs().join("aside"));
    fs::rename(&maps, &aside).expect("they can be moved");
    // The metrics of the last second may be sent once more.
    eventually("metrics without the kernel's counters are served", async || {
        let answer = fetch(node, 10249, "/metrics")?;
        let lines: Vec<_> = answer.body.lines().collect();
        ensure!(lines.contains(&"portreeve_unread_counters_total 1"), "{answer:?}");
        ensure!(lines.contains(&"portreeve_frontends 2"), "{answer:?}");
        Ok(())
    })
    .await;
    fs::rename(&aside, &maps).expect("they can be moved back");

    let status = status(node);
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    node.kill_agent().await.expect("it was running");
    let status = self::status(node);
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    assert!(String::from_utf8_lossy(&status.stderr).contains("no agent runs"), "{status:?}");

    node.start_agent_with(&["--service-metrics=false"]).await.expect("it starts");
    eventually("the new agent serves metrics", async || {
        let body = fetch(node, 10249, "/metrics")?.body;
        ensure!(body.contains("portreeve_refusals_total{"), "{body}");
        ensure!(!body.contains("portreeve_service_connections_total{"), "{body}");
        Ok(())
    })
    .await;
}

fn status(node: &Node) -> Output {
    let mut command = Command::new(portreeve().expect("portreeve is built"));
    command.arg("status").arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(node.setting().run_dir());
    command.output().expect("it starts")
}

#[tokio::test]
async fn a_node_to_be_deleted_takes_no_new_traffic() {
    let cluster = Cluster::start("health-node").await;
    let _web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    assert_eq!(fetch(node, 10256, "/healthz").expect("it answers").status, 200);

    let file = cluster.manifests().directory().join(format!("{}.yaml", node.name));
    let object = fs::read_to_string(&file).expect("the Node object is there");
    let mut object: serde_json::Value = serde_saphyr::from_str(&object).expect("it can be read");
    object["spec"]["taints"] =
        serde_json::json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]);
    cluster.manifests().write(&format!("{}.yaml", node.name), &object).expect("it is written");
    eventually("the node is not eligible for traffic", async || {
        let answer = fetch(node, 10256, "/healthz")?;
        ensure!(answer.status == 503 && answer.body.contains("\"nodeEligible\":false"), "{answer:?}");
        Ok(())
    })
    .await;
    assert_eq!(fetch(node, 10256, "/livez").expect("it answers").status, 200);
}

#[tokio::test]
async fn another_configuration_ends_the_agent_with_an_error() {
    let cluster = Cluster::start("config-file").without_agents().await;
    let node = cluster.node(0);
    let file = cluster.directory().join("config.conf");
    let text = include_str!("../../proxy/testdata/kube-proxy/kubeadm.conf");
    fs::write(&file, text).expect("it is written");
    let mut command = node.setting().command().expect("portreeve is built");
    command.arg("--config").arg(&file);
    let mut agent = node.setting().start(command, node.netns()).expect("it starts");
    eventually("kubeadm's configuration starts the agent", async || {
        ensure!(fetch(node, 10256, "/livez")?.status == 200);
        Ok(())
    })
    .await;
    fs::write(&file, text.replace("masqueradeAll: false", "masqueradeAll: true")).expect("it is written");
    let ended = agent.ended().await.expect("it can be waited for");
    assert_eq!(ended.code(), Some(1));
}
