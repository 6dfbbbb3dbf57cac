//! Which clients the agent's name server answers, without a flag.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use hickory_server::proto::rr::RecordType;
use tests::{
    Cluster, addresses::Addresses, cluster::Placement, eventually, http, objects::NAMESPACE, pod::Pod,
    pod_network::PodNetwork, resolver::Resolver,
};

/// The metrics address of the name server.
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 9153);
const NAME: &str = "web.default.svc.cluster.local.";
const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";

/// Clients whose requests were dropped.
fn dropped(cluster: &Cluster) -> Result<u64> {
    let answer = http::get(cluster.node(0).netns(), METRICS.into(), "/metrics")?;
    let line =
        answer.body.lines().find_map(|line| line.strip_prefix("portreeve_dns_lost_total{kind=\"client\"} "));
    line.context("there is no counter")?.parse().context("it has no number")
}

fn query(cluster: &Cluster, client: &Pod, server: IpAddr) -> Result<usize> {
    let resolver = Resolver::new(client, NAMESPACE, server, cluster.directory())?;
    Ok(resolver.query(NAME, RecordType::A)?.answers.len())
}

async fn is_answered(cluster: &Cluster, client: &Pod) {
    for server in cluster.node(0).addresses.both() {
        let what = format!("{} is answered by {server}", client.name);
        eventually(&what, async || {
            ensure!(query(cluster, client, server)? == 1);
            Ok(())
        })
        .await;
    }
}

/// Neither a name nor an error reaches the client, and each request is counted.
async fn gets_nothing(cluster: &Cluster, client: &Pod) {
    for server in cluster.node(0).addresses.both() {
        let before = dropped(cluster).expect("metrics are served");
        let answer = query(cluster, client, server);
        assert!(answer.is_err(), "{} got an answer from {server}: {answer:?}", client.name);
        let counted = dropped(cluster).expect("metrics are served") - before;
        assert_eq!(counted, 1, "{server}: requests of {} are counted", client.name);
    }
}

async fn only_the_cluster_is_answered(name: &str, network: PodNetwork, flags: &[&str]) {
    let mut builder = Cluster::start(name).nodes(2).pod_network(network).names();
    builder = builder.flag("--dns-metrics-bind-address=127.0.0.1:9153");
    for flag in flags {
        builder = builder.flag(flag);
    }
    let cluster = builder.await;
    let _web = cluster.service("web").tcp(80).backends(["a"]).await;
    let outside = cluster.client("outside").start().await;
    for pod in [cluster.pod("pod"), cluster.pod("host").on_host(0), cluster.pod("elsewhere").on(1)] {
        let pod = pod.start().await;
        is_answered(&cluster, &pod).await;
    }
    gets_nothing(&cluster, &outside).await;
}

#[tokio::test]
async fn outside_clients_get_nothing_where_the_pod_network_is_known() {
    only_the_cluster_is_answered("dns-admission", PodNetwork::Bridged, &[PODS]).await;
}

#[tokio::test]
async fn outside_clients_get_nothing_where_no_pod_network_is_known() {
    only_the_cluster_is_answered("dns-admission-any", PodNetwork::Routed, &[]).await;
}

/// Some network plugins give pods addresses outside of every pod CIDR, also public ones: the route to the pod's device
/// tells them.
#[tokio::test]
async fn a_pod_is_answered_whatever_its_address() {
    let cluster = Cluster::start("dns-cloud-pods").pod_network(PodNetwork::Routed).names().flag(PODS).await;
    let _web = cluster.service("web").tcp(80).backends(["a"]).await;
    let addresses =
        Addresses { v4: [203, 0, 113, 77].into(), v6: "2001:db8:77::77".parse().expect("an address") };
    let pod = cluster.ensure_pod("cloud", Placement::Node(0), Some(addresses)).await.expect("it starts");
    is_answered(&cluster, &pod).await;
}

/// `--dns-allow` admits more networks, at once.
#[tokio::test]
async fn allowed_networks_are_answered() {
    let builder = Cluster::start("dns-allow").names().flag(PODS);
    let cluster = builder.flag("--dns-allow=198.51.100.0/24,2001:db8:51::/64").await;
    let _web = cluster.service("web").tcp(80).backends(["a"]).await;
    let outside = cluster.client("outside").start().await;
    is_answered(&cluster, &outside).await;
}

/// An address that the node gets later is its own, too.
#[tokio::test]
async fn later_addresses_of_the_node_are_its_own() {
    let cluster = Cluster::start("dns-later-address").names().flag(PODS).await;
    let _web = cluster.service("web").tcp(80).backends(["a"]).await;
    let later: IpAddr = [203, 0, 113, 5].into();
    let node = cluster.node(0);
    let netlink = node.netns().netlink().expect("netlink works");
    netlink.address("eth0", later.into()).await.expect("the address is added");
    let host = cluster.pod("host").on_host(0).start().await;
    let server = node.addresses.v4.into();
    let resolver = Resolver::new(&host, NAMESPACE, server, cluster.directory()).expect("a resolver");
    eventually("a query from the new address is answered", async || {
        let answer = resolver.query_from(later, NAME, RecordType::A)?;
        ensure!(answer.answers.len() == 1);
        Ok(())
    })
    .await;
}
