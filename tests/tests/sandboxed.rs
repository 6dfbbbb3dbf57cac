//! A sandboxed pod, whose sockets no program sees, is served by the packet plane in all respects.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
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
/// Port of the Services' ClusterIPs.
const PORT: u16 = 80;

/// The sandboxed pod is on the first node with `a`; `b` is on the second.
struct Fixture {
    cluster: Cluster,
    network: PodNetwork,
    vm: Arc<Pod>,
}

/// The backends that answer, and the pod's source address at each.
type Seen = Vec<(&'static str, Addresses)>;

impl Fixture {
    async fn new(network: PodNetwork) -> Self {
        let name = format!("sandboxed-{network:?}").to_lowercase();
        let cluster = Cluster::start(&name).nodes(2).pod_network(network).flag(PODS).await;
        cluster.pod("a").on(0).start().await;
        cluster.pod("b").on(1).start().await;
        let vm = cluster.pod("vm").sandboxed_on(0).start().await;
        Self { cluster, network, vm }
    }

    /// The masquerade addresses of this node at pods of the first and the second node.
    fn masqueraded_by(&self, node: usize) -> Seen {
        let as_seen = |is_here| self.network.masquerade(self.cluster.node(node).addressing(), is_here);
        vec![("a", as_seen(node == 0)), ("b", as_seen(node == 1))]
    }

    /// The pod's own address at these backends.
    fn plainly(&self, names: &[&'static str]) -> Seen {
        names.iter().map(|name| (*name, self.vm.addresses)).collect()
    }
}

fn reaches(seen: &Seen, family: IpAddr) -> FlowResult {
    let source = |addresses: &Addresses| addresses.both()[usize::from(family.is_ipv6())];
    let seen: BTreeMap<_, _> = seen.iter().map(|(name, seen)| ((*name).to_owned(), source(seen))).collect();
    FlowResult::Reaches(seen)
}

fn lines(
    name: &str,
    to: impl IntoIterator<Item = SocketAddr>,
    expected: impl Fn(IpAddr) -> FlowResult,
) -> Vec<Flow> {
    let flow = |to: SocketAddr, how| Flow { name: name.to_owned(), to, how, expected: expected(to.ip()) };
    to.into_iter().flat_map(|to| HOWS.map(|how| flow(to, how))).collect()
}

async fn cluster_ip<'a>(fixture: &'a Fixture, name: &str, backends: &[&'static str]) -> Service<'a> {
    let service = fixture.cluster.service(name).tcp(PORT).udp(PORT);
    service.backends(backends.iter().copied()).await
}

fn other_port(vips: [SocketAddr; 2]) -> [SocketAddr; 2] {
    vips.map(|vip| SocketAddr::new(vip.ip(), vip.port() + 1))
}

async fn a_sandboxed_pod_is_served(network: PodNetwork) {
    let fixture = Fixture::new(network).await;
    let cluster = &fixture.cluster;
    let (masqueraded, plain) = (fixture.masqueraded_by(0), fixture.plainly(&["a", "b"]));

    let web = cluster_ip(&fixture, "web", &["a", "b"]).await;
    let near = cluster_ip(&fixture, "near", &["a"]).await;
    let itself = cluster_ip(&fixture, "itself", &["vm"]).await;
    let empty = cluster_ip(&fixture, "empty", &[]).await;
    let elsewhere = cluster.service("elsewhere").tcp(PORT).udp(PORT).internal_traffic_is_local();
    let elsewhere = elsewhere.unawaited().backends(["b"]).await;
    let hairpin = vec![("vm", fixture.network.masquerade(cluster.node(0).addressing(), true))];
    let frontends = Frontends::new(0);
    let _outer = cluster.service("outer").external_frontends(frontends).backends(["a", "b"]).await;
    let local = Frontends::new(1);
    let local_service = cluster.service("local").external_frontends(local).external_traffic_is_local();
    let _local = local_service.backends(["b"]).await;
    // An address that was never allocated.
    let unknown = cluster.next_vip().both().map(|ip| SocketAddr::new(ip, PORT));

    let mut flows = Vec::new();
    flows.extend(lines("ClusterIP", web.vips(), |ip| reaches(&plain, ip)));
    flows.extend(lines("ClusterIP, same node", near.vips(), |ip| reaches(&fixture.plainly(&["a"]), ip)));
    flows.extend(lines("hairpin", itself.vips(), |ip| reaches(&hairpin, ip)));
    flows.extend(lines("no endpoints", empty.vips(), |_| FlowResult::Refused));
    flows.extend(lines("no such port", other_port(web.vips()), |_| FlowResult::Refused));
    flows.extend(lines("policy forbids it", elsewhere.vips(), |_| FlowResult::NoReply));
    let first = cluster.node(0).addresses;
    for kind in Kind::ALL {
        let to = frontends.dialled(kind, first);
        flows.extend(lines(&format!("{kind:?}"), to, |ip| reaches(&masqueraded, ip)));
        // A policy for external clients does not apply to a pod, and the pod's address is kept.
        let to = local.dialled(kind, first);
        flows.extend(lines(&format!("{kind:?}, Local"), to, |ip| reaches(&fixture.plainly(&["b"]), ip)));
    }
    let to = frontends.dialled(Kind::NodePort, cluster.node(1).addresses);
    flows.extend(lines("NodePort of another node", to, |ip| reaches(&fixture.masqueraded_by(1), ip)));
    flows::check(&fixture.vm, flows).await;

    // Not refused by the programs: these addresses are not in a declared Service range.
    let dials = cluster.pod("vm").dials(unknown).times(2).timeout_after(Duration::from_millis(300));
    let report = dials.report().await;
    let is_left_alone = |failure: &String| !failure.ends_with("ECONNREFUSED");
    assert!(report.answered() == 0 && report.failures.keys().all(is_left_alone), "{report:?}");
}

#[tokio::test]
async fn a_sandboxed_pod_is_served_on_a_bridge() {
    a_sandboxed_pod_is_served(PodNetwork::Bridged).await;
}

#[tokio::test]
async fn a_sandboxed_pod_is_served_at_a_device_of_its_own() {
    a_sandboxed_pod_is_served(PodNetwork::Routed).await;
}

#[tokio::test]
async fn a_sandboxed_pod_is_served_through_a_tunnel() {
    a_sandboxed_pod_is_served(PodNetwork::Tunnelled).await;
}

#[tokio::test]
async fn a_sandboxed_pod_stays_with_its_backend() {
    let fixture = Fixture::new(PodNetwork::Bridged).await;
    let service = fixture.cluster.service("web").tcp(PORT).udp(PORT).affinity(Duration::from_secs(600));
    let web = service.backends(["a", "b", "c", "d"]).await;
    for how in HOWS {
        for vip in web.vips() {
            let report = fixture.cluster.pod("vm").dials(vip).how(how).times(16).report().await;
            assert_eq!((report.answered(), report.answers.len()), (16, 1), "{how:?} {report:?}");
        }
    }
}

/// Packets to unallocated addresses of a declared Service range are dropped.
#[tokio::test]
async fn unallocated_addresses_of_a_known_service_range_are_silent() {
    let fixture = Fixture::new(PodNetwork::Bridged).await;
    let range = r#"{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","metadata":{"name":"kubernetes"},
        "spec":{"cidrs":["10.96.0.0/16","fd00:10:96::/112"]}}"#;
    fixture.cluster.manifests().write_text("range.yaml", range).expect("it is written");
    // Once this Service is served, the range is known.
    let web = cluster_ip(&fixture, "web", &["a"]).await;
    let unknown = fixture.cluster.next_vip().both().map(|ip| SocketAddr::new(ip, PORT));
    let mut flows = lines("ClusterIP", web.vips(), |ip| reaches(&fixture.plainly(&["a"]), ip));
    flows.extend(lines("unallocated address", unknown, |_| FlowResult::NoReply));
    flows::check(&fixture.vm, flows).await;
}
