//! Queries of a client with several in flight at a time. Their replies leave the server as the segments of one packet
//! (`UDP_SEGMENT`), and the packet plane translates each of them: its programs see the packet whole, or its segments
//! where a device does not take it.

use std::{collections::BTreeSet, fs, io::ErrorKind, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tests::{
    Cluster,
    dns::stub::{connected, query},
    eventually,
    frontends::Frontends,
    name_service::{ENDPOINT_ANSWER, NODE_ANSWER, NameService},
    netns::Netns,
    pod::Pod,
    traffic::IDENTITY_NAME,
};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";
const IN_FLIGHT: u16 = 32;
/// Rounds at least, and at most until the replies of some were sent together.
const ROUNDS: usize = 10;
const MAX_ROUNDS: usize = 200;
const TIMEOUT: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;

/// A path of queries, and the server that answers them.
struct Path<'a> {
    name: &'static str,
    client: &'a Pod,
    to: SocketAddr,
    answer: &'static str,
    server: &'a Netns,
}

impl Path<'_> {
    /// Each query is answered once, and several replies were one packet to the server's kernel.
    fn is_sound(&self) -> Result<()> {
        let (mut rounds, before) = (0, packets_sent(self.server)?);
        let replies = |rounds: usize| u64::try_from(rounds).unwrap_or(u64::MAX) * u64::from(IN_FLIGHT);
        while rounds < ROUNDS || packets_sent(self.server)? - before >= replies(rounds) {
            self.round().with_context(|| format!("round {rounds}"))?;
            rounds += 1;
            ensure!(rounds < MAX_ROUNDS, "no replies were sent together");
        }
        Ok(())
    }

    fn round(&self) -> Result<()> {
        let sockets = connected(self.client, self.to, 1, TIMEOUT)?;
        let socket = sockets.first().context("there is a socket")?;
        let mut waiting: BTreeSet<u16> = (0..IN_FLIGHT).map(|n| n * 1009).collect();
        for id in &waiting {
            socket.send(&query(*id, IDENTITY_NAME)).context("cannot send a query")?;
        }
        let mut reply = [0; 512];
        while !waiting.is_empty() {
            let length = socket.recv(&mut reply).with_context(|| format!("{waiting:?} are not answered"))?;
            let reply = reply.get(..length).unwrap_or_default();
            let id = reply.first_chunk().map(|id| u16::from_be_bytes(*id)).context("an empty reply")?;
            ensure!(waiting.remove(&id), "{id} is answered twice, or was not asked");
            let address = reply.last_chunk::<4>().map(|octets| std::net::Ipv4Addr::from(*octets));
            let is_answer = address.is_some_and(|address| address.to_string() == self.answer);
            ensure!(is_answer && reply[3] & 0x0f == 0, "{id}: {reply:?}");
        }
        // Nothing else arrives.
        socket.set_nonblocking(true).context("cannot set the mode")?;
        let more = socket.recv(&mut reply).map_err(|error| error.kind());
        ensure!(more == Err(ErrorKind::WouldBlock), "another reply: {more:?}");
        Ok(())
    }
}

/// The datagrams that a kernel has sent; a packet of several segments is one.
fn packets_sent(netns: &Netns) -> Result<u64> {
    netns.run(|| {
        let v4 = fs::read_to_string("/proc/thread-self/net/snmp").context("cannot read counters")?;
        let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").context("cannot read counters")?;
        let mut rows = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, counts) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
        let mut columns = names.split_whitespace().zip(counts.split_whitespace());
        let v4 = columns.find(|(name, _)| *name == "OutDatagrams").context("no counter of IPv4")?.1;
        let v6 = v6.lines().find_map(|line| line.strip_prefix("Udp6OutDatagrams"));
        let v6 = v6.context("no counter of IPv6")?.trim();
        Ok(v4.parse::<u64>().context("no number")? + v6.parse::<u64>().context("no number")?)
    })
}

/// `has_nics`: the devices take no packets with several segments, and no checksums to be completed.
async fn replies_reach_the_client(name: &str, has_nics: bool) {
    let names = NameService::new().expect("Corefiles are written");
    let mut builder = names.configure(Cluster::start(name).nodes(2)).flag(PODS).flag("--socket-lb=off");
    if has_nics {
        builder = builder.nics();
    }
    let cluster = builder.await;
    let frontends = Frontends::new(0);
    let serving = names.start_for_outside(&cluster, frontends).await.expect("the Service is written");
    let routed = cluster.route_to_node(frontends.load_balancer.both(), 0).await;
    routed.unwrap_or_else(|error| panic!("{error:#}"));
    let (pod, outside) = (cluster.pod("pod").start().await, cluster.client("outside").start().await);
    let (node, far) = (cluster.node(0), serving.endpoint.netns());

    let mut paths = Vec::new();
    for (at, vip) in serving.addresses().into_iter().enumerate() {
        let path = |name, client, to, answer, server| Path { name, client, to, answer, server };
        let balancer = SocketAddr::new(frontends.load_balancer.both()[at], DNS_PORT);
        let port =
            |index: usize| SocketAddr::new(cluster.node(index).addresses.both()[at], frontends.node_port);
        paths.extend([
            path("a pod", &*pod, vip, NODE_ANSWER, &**node.netns()),
            path("a pod", &pod, balancer, ENDPOINT_ANSWER, far),
            path("a client outside", &outside, balancer, ENDPOINT_ANSWER, far),
            path("a client outside", &outside, port(0), ENDPOINT_ANSWER, far),
            path("a client outside", &outside, port(1), ENDPOINT_ANSWER, far),
        ]);
    }
    for path in &paths {
        let what = format!("{} is answered at {}", path.name, path.to);
        eventually(&what, || std::future::ready(path.round())).await;
        path.is_sound().unwrap_or_else(|error| panic!("{what}: {error:#}"));
    }
}

#[tokio::test]
async fn replies_that_are_sent_together_reach_the_client() {
    replies_reach_the_client("dns-pipelined", false).await;
}

#[tokio::test]
async fn replies_that_are_sent_together_reach_the_client_where_devices_split_them() {
    replies_reach_the_client("dns-pipelined-nics", true).await;
}
