//! Query statistics per client, in the output of `portreeve get dns`.

use std::process::{Command, Output};

use anyhow::ensure;
use hickory_server::proto::rr::RecordType;
use serde_json::Value;
use tests::{
    Cluster,
    agent::portreeve,
    cluster::pod_network,
    name_service::{ENDPOINT_ANSWER, NameService},
    node::Node,
    objects::NAMESPACE,
    resolver::Resolver,
    traffic::{How, IDENTITY_NAME, Lookup},
};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";
const SERVICE: &str = "web.default.svc.cluster.local.";

fn get_dns(node: &Node, more: &[&str]) -> Output {
    let mut command = Command::new(portreeve().expect("there is a binary"));
    command.args(["get", "dns", "--bpffs"]).arg(node.bpffs()).arg("--run-dir").arg(node.setting().run_dir());
    command.args(more).output().expect("it starts")
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The row of a client.
fn row(statistics: &Value, client: &str) -> Value {
    let rows = statistics["clients"].as_array().expect("a list");
    rows.iter()
        .find(|row| row["client"] == client)
        .unwrap_or_else(|| panic!("no {client} in {statistics:#}"))
        .clone()
}

/// Counters that are not zero.
fn counted(counts: &Value) -> Vec<(String, u64)> {
    let counts = counts.as_object().expect("figures").iter();
    let counts = counts.map(|(name, count)| (name.clone(), count.as_u64().expect("a number")));
    counts.filter(|(_, count)| *count != 0).collect()
}

fn figures<const N: usize>(counts: [(&str, u64); N]) -> Vec<(String, u64)> {
    counts.map(|(name, count)| (name.to_owned(), count)).into()
}

#[tokio::test]
async fn queries_are_counted_per_client() {
    let names = NameService::new().expect("Corefiles are written");
    names.forward_to(pod_network(2).host(100).v4.into()).expect("a Corefile is written");
    let cluster = names.configure(Cluster::start("query-stats").nodes(2)).flag(PODS).await;
    let serving = names.start(&cluster).await.expect("the Service is written");
    let node = cluster.node(0);
    let pod = async |name| cluster.pod(name).on(0).start().await;
    let (buyer, walker, unlisted) = (pod("buyer").await, pod("walker").await, pod("unlisted").await);
    let _web = cluster.service("web").tcp(80).backends(["buyer", "walker"]).await;
    let of = |pod| {
        Resolver::new(pod, NAMESPACE, serving.vip.v4.into(), cluster.directory()).expect("a file is written")
    };
    let ask = |resolver: &Resolver<'_>, name: &str, kind: RecordType, times: usize| {
        (0..times).for_each(|_| drop(resolver.query(name, kind).expect("it answers")));
    };
    // A pod that is no endpoint; the first queries may still be answered by another server.
    let resolver = of(&unlisted);
    tests::eventually("the node's own server answers", async || {
        resolver.query(IDENTITY_NAME, RecordType::A)?;
        let clients = printed(&get_dns(node, &["-o", "name"]));
        ensure!(clients.contains(&unlisted.addresses.v4.to_string()), "clients: {clients:?}");
        Ok(())
    })
    .await;

    // Socket plane: a program of the pod queries through the C library.
    let bought = of(&buyer).addresses(SERVICE).await.expect("getent answers");
    assert!(!bought.is_empty());
    // Packet plane, as for sandboxed pods.
    let walks = of(&walker);
    for (name, times) in [
        (SERVICE, 3),
        ("www.example.org.default.svc.cluster.local.", 40),
        ("www.example.org.svc.cluster.local.", 40),
        ("wbe.default.svc.cluster.local.", 1),
        (IDENTITY_NAME, 2),
    ] {
        ask(&walks, name, RecordType::A, times);
    }
    ask(&walks, SERVICE, RecordType::AXFR, 1);
    // The node itself.
    let host =
        cluster.pod("host").on_host(0).dials(serving.addresses()).how(How::Lookup(Lookup::ConnectedUdp));
    host.times(3).reaches_each_of([ENDPOINT_ANSWER]).await;

    let statistics: Value =
        serde_json::from_str(&printed(&get_dns(node, &["-o", "json"]))).expect("it is JSON");
    let bought = row(&statistics, "default/buyer");
    assert_eq!(bought["kind"], "pod");
    let [(topic, count)] = &*counted(&bought["topics"]) else { panic!("{bought:#}") };
    assert!(topic == "service" && *count >= 2 && bought["queries"] == *count, "{bought:#}");
    assert_eq!(bought["addresses"], serde_json::json!([buyer.addresses.v4]));
    let walked = row(&statistics, "default/walker");
    assert_eq!(walked["queries"], 87);
    let want = figures([("absent", 1), ("external", 2), ("invalid", 1), ("search", 80), ("service", 3)]);
    assert_eq!(counted(&walked["topics"]), want);
    assert_eq!(counted(&walked["troubles"]), figures([("refused", 1)]));
    for (client, kind) in [(&*unlisted.addresses.v4.to_string(), "address"), ("node", "node")] {
        let row = row(&statistics, client);
        let [(topic, _)] = &*counted(&row["topics"]) else { panic!("{row:#}") };
        assert_eq!((row["kind"].as_str(), topic.as_str()), (Some(kind), "external"), "{row:#}");
    }
    let upstream = &statistics["upstreams"][0];
    assert_eq!(upstream["address"], format!("{}:8053", serving.endpoint.addresses.v4));
    assert!(upstream["answers"].as_u64() > Some(0), "{upstream:#}");

    let table = printed(&get_dns(node, &[]));
    println!("{table}");
    let lines = table.lines().take_while(|line| !line.is_empty()).count();
    assert_eq!(lines, 1 + 4, "a header and one line per client, however long: {table}");
    assert!(
        table.lines().nth(1).is_some_and(|line| line.starts_with("default/walker")),
        "the most queries come first: {table}"
    );
    assert_eq!(printed(&get_dns(node, &["buyer", "-o", "name"])), "default/buyer\n");
    let unknown = error(&get_dns(node, &["unknown"]));
    assert!(unknown.starts_with("portreeve: no query of a client unknown since"), "{unknown}");

    node.kill_agent().await.expect("it was running");
    let silence = error(&get_dns(node, &[]));
    assert!(silence.starts_with("portreeve: no agent runs: nothing listens on"), "{silence}");
}

#[tokio::test]
async fn an_agent_without_a_name_server_is_reported() {
    let cluster = Cluster::start("no-names").await;
    let silence = error(&get_dns(cluster.node(0), &[]));
    assert!(silence.starts_with("portreeve: the DNS server of the agent is off"), "{silence}");
}
