//! The agent's name server must not end the proxy: what it cannot do is named by `status` and retried, and the Service's
//! other endpoints answer meanwhile.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tests::{
    Cluster,
    agent::portreeve,
    dns::clients::LOOKUPS,
    eventually,
    eventually::within,
    name_service::{DnsService, ENDPOINT_ANSWER, NODE_ANSWER, NameService},
    node::Node,
};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";

/// The output of `status`.
fn status(node: &Node) -> Result<String> {
    let mut command = Command::new(portreeve()?);
    command.arg("status").arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(node.setting().run_dir());
    let output = node.netns().run(|| command.output().context("cannot start portreeve"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first line is the state; paths below it have the name of the story.
fn is_degraded(status: &str) -> bool {
    status.lines().next().is_some_and(|state| state.ends_with("degraded"))
}

async fn names(node: &Node, what: &str) {
    eventually(&format!("`status` names {what}"), async || {
        let text = status(node)?;
        ensure!(is_degraded(&text) && text.contains(what), "{text}");
        Ok(())
    })
    .await;
}

async fn names_nothing(node: &Node) {
    // The longest delay of a retry is 30 s.
    let attempt = async || {
        let text = status(node)?;
        ensure!(!is_degraded(&text), "{text}");
        Ok(())
    };
    let limit = Duration::from_secs(45);
    within(limit, "`status` names no fault", attempt).await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn comes_to_be_answered(cluster: &Cluster, to: impl IntoIterator<Item = SocketAddr>, by: &str) {
    let to: Vec<_> = to.into_iter().collect();
    for how in LOOKUPS {
        cluster.pod("client").dials(to.clone()).how(how).times(4).comes_to_reach_each_of([by]).await;
    }
}

async fn start(name: &str, nodes: u8, flags: &[&str]) -> (NameService, Cluster, DnsService) {
    let names = NameService::new().expect("Corefiles are written");
    let mut builder = names.configure(Cluster::start(name).nodes(nodes)).flag(PODS).without_agents();
    for flag in flags {
        builder = builder.flag(flag);
    }
    let cluster = builder.await;
    let serving = names.start(&cluster).await.expect("the Service is written");
    (names, cluster, serving)
}

/// The Corefile is missing, and others have the ports: of DNS at an address, and of the endpoints.
#[tokio::test]
async fn the_proxy_serves_while_the_name_server_cannot() {
    let metrics = "--dns-metrics-bind-address=127.0.0.1:9153";
    let (corefiles, cluster, serving) = start("dns-degraded", 2, &[metrics]).await;
    corefiles.set_corefile(None).expect("it is removed");
    let node = cluster.node(0);
    let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
    let bind = |address: SocketAddr| node.netns().run(|| UdpSocket::bind(address).context("cannot bind"));
    let others = node.addresses.both().map(|ip| bind(at(ip, 53)).expect("the port is free"));
    let listen = || TcpListener::bind("127.0.0.1:9153").context("cannot listen");
    let http = node.netns().run(listen).expect("the port is free");
    cluster.start_agents().await.expect("the agents become ready");
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    cluster.pod("client").dials(web.vips()).times(4).comes_to_reach_each_of(["a"]).await;

    names(node, "Corefile").await;
    names(node, "127.0.0.1:9153").await;
    comes_to_be_answered(&cluster, serving.addresses(), ENDPOINT_ANSWER).await;
    corefiles.set_corefile(Some(". {\n forward . /nonexistent\n}\n")).expect("it is written");
    names(node, "nonexistent").await;
    corefiles.restore().expect("it is written");
    names(node, &format!("{}:53", node.addresses.v4)).await;
    comes_to_be_answered(&cluster, serving.addresses(), ENDPOINT_ANSWER).await;
    drop((others, http));
    names_nothing(node).await;
    comes_to_be_answered(&cluster, serving.addresses(), NODE_ANSWER).await;
}

/// The redirect stands while the address is local and bound.
#[tokio::test]
async fn the_server_follows_the_addresses_of_the_node() {
    let (_names, cluster, serving) = start("dns-moves", 1, &[]).await;
    let node = cluster.node(0);
    cluster.start_agents().await.expect("the agents become ready");
    comes_to_be_answered(&cluster, serving.addresses(), NODE_ANSWER).await;
    let netlink = node.netns().netlink().expect("netlink works");
    for ip in node.addresses.both() {
        netlink.remove_address("eth0", ip).await.expect("the address is removed");
    }
    comes_to_be_answered(&cluster, [serving.v4()], ENDPOINT_ANSWER).await;
    for ip in node.addresses.both() {
        let bits = if ip.is_ipv4() { 24 } else { 64 };
        let address = ipnetwork::IpNetwork::new(ip, bits).expect("a network");
        netlink.address("eth0", address).await.expect("the address is added");
    }
    comes_to_be_answered(&cluster, [serving.v4()], NODE_ANSWER).await;
}
