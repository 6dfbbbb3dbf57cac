//! Connections to pods that are gone for good end; no others do.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use ipnetwork::IpNetwork;
use tests::{
    Cluster, eventually, firewall,
    http::get,
    node::Node,
    objects::{Condition, EndpointObject},
    pod::Pod,
    pod_network::{PodNetwork, device_of},
    service::Service,
    traffic::{Protocol, Report},
};

/// From the change of the slice to the end of the last connection.
const LIMIT: Duration = Duration::from_secs(5);

/// Connections that a pod keeps open without using them.
struct Idle {
    client: Arc<Pod>,
    held: u64,
    count: u64,
}

impl Idle {
    async fn to(client: &Arc<Pod>, to: impl IntoIterator<Item = SocketAddr>, count: u64) -> Self {
        let to = to.into_iter().collect();
        let (held, report) = client.hold(to, usize::try_from(count).expect("few")).await.expect("it opens");
        assert_eq!((report.answered(), report.failed()), (count, 0), "{report:?}");
        Self { client: Arc::clone(client), held, count }
    }

    async fn after(&self, within: Duration) -> Report {
        self.client.await_end(self.held, within).await.expect("it waits")
    }

    /// All of them are reset in time.
    async fn are_reset(&self) {
        let report = self.after(LIMIT).await;
        let reset = report.failures.get("read: ECONNRESET").copied().unwrap_or_default();
        assert_eq!(reset, self.count, "{}: {report:?}", self.client.name);
    }

    /// None has ended, and each is answered by the same server as before.
    async fn are_open(&self) {
        let report = self.after(Duration::ZERO).await;
        assert_eq!((report.answered(), report.failed()), (self.count, 0), "{report:?}");
        let report = self.client.echo(self.held).await.expect("it sends");
        assert_eq!((report.answered(), report.failed()), (self.count, 0), "{report:?}");
    }
}

/// No packet enters or leaves the pod, as after the loss of its node.
fn cut(pod: &Pod) {
    let rules = "table inet cut {
        chain in { type filter hook input priority 0; policy drop; }
        chain out { type filter hook output priority 0; policy drop; }
    }";
    firewall::filter(pod.netns(), rules).expect("nft accepts it");
}

fn counted(node: &Node) -> Result<u64> {
    const SERIES: &str = "portreeve_stale_connections_reset_total{plane=\"socket\"} ";
    let body = get(node.netns(), SocketAddr::from(([127, 0, 0, 1], 10249)), "/metrics")?.body;
    let value = body.lines().find_map(|line| line.strip_prefix(SERIES)?.parse().ok());
    Ok(value.unwrap_or_default())
}

async fn are_counted(node: &Node, count: u64) {
    eventually(&format!("{count} connections are counted as reset"), async || {
        let found = counted(node)?;
        ensure!(found == count, "{found}");
        Ok(())
    })
    .await;
}

/// A Service whose endpoints are in every state in which a pod still lives.
async fn living(cluster: &Cluster) -> Service<'_> {
    cluster.service("living").tcp(80).backends(["ready", "terminating", "unready", "unlisted"]).await
}

fn leave(living: &Service<'_>) {
    living.set("terminating", Condition::Terminating);
    living.set("unready", Condition::Unready);
    // It has lost its label.
    living.remove("unlisted");
}

#[tokio::test]
async fn connections_to_pods_that_are_gone_end_and_no_others() {
    let cluster = Cluster::start("stale").nodes(2).await;
    cluster.node(1).replace_agent(&["--reset-stale-connections=off"]).await.expect("it takes over");
    let pod = async |name, node| cluster.pod(name).on(node).start().await;
    let (near, far, again) = (pod("near", 0).await, pod("far", 1).await, pod("again", 1).await);
    let web = cluster.service("web").tcp(80).backends(["near", "far"]).await;
    let later = cluster.service("later").tcp(80).backends(["again"]).await;
    let living = living(&cluster).await;
    let (client, spared) = (pod("client", 0).await, pod("spared", 1).await);
    let host = cluster.pod("host").on_host(0).start().await;
    let node = cluster.node(0);

    let gone = [Idle::to(&client, web.vips(), 600).await, Idle::to(&host, web.vips(), 400).await];
    let left_alone = Idle::to(&spared, web.vips(), 20).await;
    let kept = [Idle::to(&client, living.vips(), 600).await, Idle::to(&host, living.vips(), 400).await];
    let next = Idle::to(&client, later.vips(), 20).await;
    leave(&living);
    cut(&near);
    cut(&far);
    // In the state of a deleted node, whose pods were deleted by force.
    web.scale_to_zero();
    let [pods, hosts] = &gone;
    tokio::join!(pods.are_reset(), hosts.are_reset());
    are_counted(node, 1000).await;
    for kept in &kept {
        kept.are_open().await;
    }

    // What happens while there is no agent.
    node.kill_agent().await.expect("it was running");
    cut(&again);
    later.scale_to_zero();
    node.start_agent().await.expect("it adopts the maps");
    next.are_reset().await;
    are_counted(node, 20).await;
    for kept in &kept {
        kept.are_open().await;
    }
    let report = left_alone.after(Duration::ZERO).await;
    assert_eq!((report.answered(), report.failed()), (20, 0), "{report:?}");
}

/// The addresses of one pod lead to another one.
async fn hand_over(cluster: &Cluster, old: &Pod, new: &Pod) -> Result<()> {
    let (pod, node) = (new.netns().netlink()?, cluster.node(0).netns().netlink()?);
    for address in old.addresses.both() {
        let network = IpNetwork::from(address);
        pod.address("eth0", network).await?;
        node.replace_route_through(network, &device_of(new.addresses)).await?;
    }
    pod.wait_for_neighbour_discovery("eth0").await
}

/// Between the departure of the one pod and the arrival of the other no change is seen: the backend stays.
#[tokio::test]
async fn the_next_pod_at_an_address_ends_the_connections_of_the_one_before() {
    let cluster = Cluster::start("handed-over").pod_network(PodNetwork::Routed).await;
    let old = cluster.pod("old").start().await;
    let web = cluster.service("web").tcp(80).backends(["old"]).await;
    let client = cluster.pod("client").start().await;
    let before = Idle::to(&client, web.vips(), 20).await;
    let new = cluster.pod("new").start().await;
    new.serve(Protocol::Tcp, web.port(0).target).await.expect("it serves");
    hand_over(&cluster, &old, &new).await.expect("the new pod takes the addresses");
    let after = Idle::to(&client, web.vips(), 20).await;
    web.replace("old", EndpointObject { addresses: old.addresses, ..web.endpoint_object(&new) });
    before.are_reset().await;
    after.are_open().await;
}
