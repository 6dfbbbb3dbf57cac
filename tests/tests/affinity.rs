//! `sessionAffinity: ClientIP`: a client keeps its first backend for as long as the backend serves.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use tests::{Cluster, PodRef, agent::portreeve};

const HOUR: Duration = Duration::from_secs(3600);

/// The one backend that answers all requests of a client.
async fn backend_of(client: &PodRef<'_>, to: SocketAddr) -> String {
    let report = client.clone().dials(to).times(20).always_reaches_one_of(["a", "b", "c"]).await;
    assert_eq!(report.answers.len(), 1, "more than one backend answers: {report:?}");
    report.answers.into_keys().next().expect("a backend answers")
}

#[tokio::test]
async fn a_client_stays_with_one_backend_and_clients_differ() {
    let cluster = Cluster::start("affinity").nodes(2).await;
    let web = cluster.service("web").tcp(80).affinity(HOUR).backends(["a", "b", "c"]).await;
    let mut seen = BTreeSet::new();
    for index in 0..8 {
        let client = cluster.pod(&format!("client-{index}")).on(index % 2);
        let name = backend_of(&client, web.vip()).await;
        assert_eq!(backend_of(&client, web.vip()).await, name);
        backend_of(&client, web.vip6()).await;
        seen.insert(name);
    }
    // The probability of eight clients at one of three backends is 1 in 2,187.
    assert!(seen.len() > 1, "all clients are at {seen:?}");
}

#[tokio::test]
async fn affinity_outlives_the_agent_and_never_names_a_removed_backend() {
    let cluster = Cluster::start("affinity-restart").await;
    let web = cluster.service("web").tcp(80).affinity(HOUR).backends(["a", "b", "c"]).await;
    let client = cluster.pod("client");
    let first = backend_of(&client, web.vip()).await;
    cluster.node(0).kill_agent().await.expect("it was running");
    assert_eq!(backend_of(&client, web.vip()).await, first, "while the agent is dead");
    cluster.node(0).start_agent().await.expect("it starts");
    assert_eq!(backend_of(&client, web.vip()).await, first, "after a restart");

    web.remove(&first);
    tests::eventually("the client moves on", async || {
        let report = client.clone().dials(web.vip()).times(1).report().await;
        anyhow::ensure!(report.failures.is_empty() && report.answered_by(&first) == 0, "{report:?}");
        Ok(())
    })
    .await;
    let second = backend_of(&client, web.vip()).await;
    assert_ne!(second, first);
    // The first backend is back, and the client stays with its second.
    web.add(&first).await;
    let others = cluster.pod("other");
    tests::eventually("the backend is back", async || {
        let report = others.clone().dials(web.vip6()).times(1).report().await;
        anyhow::ensure!(report.failures.is_empty(), "{report:?}");
        Ok(())
    })
    .await;
    assert_eq!(backend_of(&client, web.vip()).await, second);
}

#[tokio::test]
async fn affinity_ends_with_its_timeout_and_not_before() {
    let cluster = Cluster::start("affinity-timeout").await;
    let timeout = Duration::from_secs(2);
    let web = cluster.service("web").tcp(80).affinity(timeout).backends(["a", "b", "c"]).await;
    let client = cluster.pod("client");
    let first = backend_of(&client, web.vip()).await;
    // Every use renews the entry: it holds after three timeouts.
    let start = Instant::now();
    while start.elapsed() < 3 * timeout {
        assert_eq!(backend_of(&client, web.vip()).await, first, "after {:?}", start.elapsed());
    }
    // Unused, the entry expires: another backend is chosen within ten pauses (the same ten times: 1 in 59,049).
    for _ in 0..10 {
        tokio::time::sleep(timeout + Duration::from_millis(1_500)).await;
        if backend_of(&client, web.vip()).await != first {
            return;
        }
    }
    panic!("{first} is never left, though unused for longer than {timeout:?}");
}

#[tokio::test]
async fn all_addresses_of_a_service_port_share_affinity() {
    let cluster = Cluster::start("affinity-shared").await;
    let web = cluster.service("web").tcp(80).node_port(30080).affinity(HOUR).backends(["a", "b", "c"]).await;
    let client = cluster.pod("client");
    let first = backend_of(&client, web.vip()).await;
    let node_port = SocketAddr::new(cluster.node(0).addresses.v4.into(), 30080);
    assert_eq!(backend_of(&client, node_port).await, first);
}

/// An unconnected or connecting socket has no source address yet: the programs know its network namespace.
#[tokio::test]
async fn a_pod_is_listed_by_its_address() {
    let cluster = Cluster::start("affinity-list").await;
    let web = cluster.service("web").tcp(80).affinity(HOUR).backends(["a", "b"]).await;
    let client = cluster.pod("client");
    for to in web.vips() {
        client.clone().dials(to).times(1).always_reaches_one_of(["a", "b"]).await;
    }
    let mut command = Command::new(portreeve().expect("portreeve is built"));
    command.args(["get", "affinity", "web", "-o", "json", "--bpffs"]).arg(cluster.node(0).bpffs());
    let output = command.output().expect("it starts");
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let rows = listed["affinity"].as_array().expect("a list");
    let addresses = client.start().await.addresses;
    for (family, address) in [("IPv4", addresses.v4.to_string()), ("IPv6", addresses.v6.to_string())] {
        let is_it = |row: &&serde_json::Value| row["client"] == address.as_str() && row["family"] == family;
        assert_eq!(rows.iter().filter(is_it).count(), 1, "{address}: {listed:#}");
    }
}
