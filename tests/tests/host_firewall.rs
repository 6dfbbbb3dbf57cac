//! A host that filters forwarded packets: its rules see the client's and the pod's addresses, never the Service's, in both
//! directions.

use std::time::Duration;

use tests::{
    Cluster, firewall,
    frontends::{Frontends, Kind},
    node::Node,
    traffic::How,
};

const HOWS: [How; 2] = [How::Tcp, How::ConnectedUdp];
/// The time after which a dial is taken for dropped.
const SILENCE: Duration = Duration::from_millis(300);

/// Drops packets that netfilter's connection tracking considers invalid; accepts new connections from `client` to the
/// server port of `pod` only.
fn filter(node: &Node, client: tests::addresses::Addresses, pod: tests::addresses::Addresses) {
    let rules = format!(
        "table inet story {{
            counter invalid {{}}
            counter denied {{}}
            counter allowed {{}}
            chain forward {{
                type filter hook forward priority 0; policy accept;
                ct state invalid counter name invalid drop
                ct state established,related accept
                ip saddr {} ip daddr {} meta l4proto {{ tcp, udp }} th dport 8080 counter name allowed accept
                ip6 saddr {} ip6 daddr {} meta l4proto {{ tcp, udp }} th dport 8080 counter name allowed accept
                ip saddr {} counter name denied drop
                ip6 saddr {} counter name denied drop
            }}
        }}",
        client.v4, pod.v4, client.v6, pod.v6, client.v4, client.v6
    );
    firewall::filter(node.netns(), &rules).expect("the rules are good");
}

fn counted(node: &Node, counter: &str) -> u64 {
    firewall::counted(node.netns(), "story", counter).expect("it counts")
}

/// `allowed` is the backend that the rules permit, on this node or on the other.
async fn rules_see_client_and_pod(allowed: &str, denied: &str) {
    let cluster = Cluster::start(&format!("firewall-{allowed}")).nodes(2).await;
    let pods = [cluster.pod("near").on(0).start().await, cluster.pod("far").on(1).start().await];
    let pod = pods.iter().find(|pod| pod.name == allowed).expect("one of them");
    let client = cluster.client("client").start().await;
    filter(cluster.node(0), client.addresses, pod.addresses);
    let mut services = Vec::new();
    for (number, backend) in [(0, allowed), (1, denied)] {
        let frontends = Frontends::new(number);
        cluster.route_to_node(frontends.routed(), 0).await.unwrap_or_else(|error| panic!("{error:#}"));
        let service = cluster.service(&format!("web-{number}")).external_frontends(frontends);
        services.push(service.backends([backend]).await);
    }
    let dials = |number: u8, kind, how| {
        let to = Frontends::new(number).dialled(kind, cluster.node(0).addresses);
        cluster.client("client").dials(to).how(how)
    };
    for how in HOWS {
        for kind in Kind::ALL {
            dials(0, kind, how).times(20).always_reaches_one_of([allowed]).await;
        }
    }
    let (invalid, allowed) = (counted(cluster.node(0), "invalid"), counted(cluster.node(0), "allowed"));
    assert_eq!(invalid, 0, "packets that looked invalid to the host");
    assert!(allowed >= 2 * 3 * 20, "the host saw {allowed} flows");
    for how in HOWS {
        let report = dials(1, Kind::LoadBalancer, how).times(2).timeout_after(SILENCE).report().await;
        assert_eq!(report.answered(), 0, "{report:?}");
        assert!(report.failures.keys().all(|failure| failure.ends_with("timed out")), "{report:?}");
    }
    assert!(counted(cluster.node(0), "denied") >= 4, "it is the host's rule that denies");
    assert_eq!(counted(cluster.node(0), "invalid"), 0);
}

#[tokio::test]
async fn rules_see_the_client_and_a_pod_of_this_node() {
    rules_see_client_and_pod("near", "far").await;
}

#[tokio::test]
async fn rules_see_the_client_and_a_pod_of_another_node() {
    rules_see_client_and_pod("far", "near").await;
}

/// Packets translated by the packet plane pass a rule against invalid packets, on both nodes.
#[tokio::test]
async fn no_packet_of_a_sandboxed_pod_is_invalid() {
    let cluster = Cluster::start("firewall-sandboxed").nodes(2).await;
    for node in cluster.nodes() {
        let unused = tests::addresses::Addresses {
            v4: [192, 0, 2, 1].into(),
            v6: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        };
        filter(node, unused, unused);
    }
    cluster.pod("near").on(0).start().await;
    cluster.pod("far").on(1).start().await;
    let web = cluster.service("web").tcp(80).udp(80).backends(["near", "far", "vm"]).unawaited();
    let vm = cluster.pod("vm").sandboxed_on(0).start().await;
    let web = web.await;
    for how in HOWS {
        let dials = cluster.pod("vm").dials(web.vips()).how(how).times(60);
        dials.comes_to_reach_each_of(["near", "far", "vm"]).await;
    }
    drop(vm);
    for node in cluster.nodes() {
        assert_eq!(counted(node, "invalid"), 0, "{}", node.name);
    }
}
