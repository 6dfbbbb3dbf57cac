//! The short story for every kernel: both planes, both families, TCP and UDP, with clsact filters, as on kernels without
//! tcx. `cargo xtask kernels` runs it on other kernels.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tests::{
    Cluster,
    addresses::Addresses,
    flows::{self, Flow, FlowResult},
    frontends::{Frontends, Kind},
    pod::Pod,
    pod_network::PodNetwork,
    service::Service,
    traffic::How,
};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";
const HOWS: [How; 2] = [How::Tcp, How::ConnectedUdp];
const NEAR: &str = "near";
const FAR: &str = "far";

struct Fixture {
    cluster: Cluster,
    frontends: Frontends,
}

impl Fixture {
    async fn new() -> Self {
        let cluster = Cluster::start("kernels").nodes(2).flag("--tc=clsact").flag(PODS).await;
        cluster.pod(NEAR).on(0).start().await;
        cluster.pod(FAR).on(1).start().await;
        Self { cluster, frontends: Frontends::new(0) }
    }

    async fn web(&self) -> Service<'_> {
        let service = self.cluster.service("web").external_frontends(self.frontends);
        service.backends([NEAR, FAR]).await
    }

    /// The expectation for clients masqueraded by the first node, with answers from both backends.
    fn masqueraded(&self, to: IpAddr) -> FlowResult {
        let network = PodNetwork::default();
        let as_seen = |is_near| network.masquerade(self.cluster.node(0).addressing(), is_near);
        reaches([(NEAR, as_seen(true)), (FAR, as_seen(false))], to)
    }

    fn node_ports(&self) -> [SocketAddr; 2] {
        self.frontends.dialled(Kind::NodePort, self.cluster.node(0).addresses)
    }

    async fn hold(&self, client: &Arc<Pod>, service: &Service<'_>) {
        let plain = |to| reaches([NEAR, FAR].map(|name| (name, client.addresses)), to);
        let mut flows = lines("ClusterIP", service.vips(), plain);
        flows.extend(lines("NodePort", self.node_ports(), |to| self.masqueraded(to)));
        flows::check(client, flows).await;
    }
}

fn reaches(seen: [(&str, Addresses); 2], to: IpAddr) -> FlowResult {
    let source = |addresses: Addresses| addresses.both()[usize::from(to.is_ipv6())];
    FlowResult::Reaches(seen.map(|(name, addresses)| (name.to_owned(), source(addresses))).into())
}

fn lines(name: &str, to: [SocketAddr; 2], expected: impl Fn(IpAddr) -> FlowResult) -> Vec<Flow> {
    let flow = |to: SocketAddr, how| Flow { name: name.to_owned(), to, how, expected: expected(to.ip()) };
    to.into_iter().flat_map(|to| HOWS.map(|how| flow(to, how))).collect()
}

#[tokio::test]
async fn both_planes_serve_both_families() {
    let fixture = Fixture::new().await;
    let web = fixture.web().await;
    let empty = fixture.cluster.service("empty").tcp(80).udp(80).await;

    let sandboxed = fixture.cluster.pod("vm").sandboxed_on(0).start().await;
    fixture.hold(&sandboxed, &web).await;
    let outside = fixture.cluster.client("outside").start().await;
    flows::check(&outside, lines("NodePort", fixture.node_ports(), |to| fixture.masqueraded(to))).await;
    // Translated at the socket: no masquerade.
    let pod = fixture.cluster.pod("client").start().await;
    let plain = |to| reaches([NEAR, FAR].map(|name| (name, pod.addresses)), to);
    let mut of_sockets = lines("ClusterIP", web.vips(), plain);
    of_sockets.extend(lines("NodePort", fixture.node_ports(), plain));
    of_sockets.extend(lines("no endpoints", empty.vips(), |_| FlowResult::Refused));
    flows::check(&pod, of_sockets).await;
    let dials = || fixture.cluster.pod("client").dials(web.vips()).times(24);
    dials().how(How::MappedTcp).reaches_each_of([NEAR, FAR]).await;
    // One socket, one backend.
    dials().how(How::UnconnectedUdp).always_reaches_one_of([NEAR, FAR]).await;
}

/// A new agent replaces the programs at every hook, and flows continue.
#[tokio::test]
async fn a_new_agent_takes_over() {
    let fixture = Fixture::new().await;
    let web = fixture.web().await;
    let sandboxed = fixture.cluster.pod("vm").sandboxed_on(0).start().await;
    let (held, opened) = sandboxed.hold(web.vips().into(), 4).await.expect("they are opened");
    assert_eq!(opened.failed(), 0, "{opened:?}");

    fixture.cluster.node(0).replace_agent(&[]).await.expect("it takes over");
    let echoed = sandboxed.echo(held).await.expect("they are still there");
    assert_eq!((echoed.answered(), echoed.failed()), (4, 0), "{echoed:?}");
    fixture.hold(&sandboxed, &web).await;
}
