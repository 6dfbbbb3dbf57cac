//! Takeover from kube-proxy, with handwritten rules in its format.

use std::{net::SocketAddr, process::Command};

use tests::{
    Cluster,
    agent::portreeve,
    kube_proxy::{self, Served},
    node::Node,
    pod_network::PodNetwork,
    traffic::Protocol,
};

/// Connections open during the whole story.
const CONNECTIONS: usize = 1_000;

/// Exit code and output of a verb in the node's network namespace.
fn verb(node: &Node, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(portreeve().expect("portreeve is built"));
    command.args(words);
    let output = node.netns().run(|| Ok(command.output()?)).expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn connections_through_kube_proxys_rules_outlive_them() {
    let cluster =
        Cluster::start("kube-proxy").nodes(2).pod_network(PodNetwork::Routed).without_agents().await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let node = cluster.node(0);
    let backends: Vec<SocketAddr> = cluster
        .all_pods()
        .iter()
        .map(|pod| SocketAddr::new(pod.addresses.v4.into(), web.port(0).target))
        .collect();
    let served = Served { frontend: web.vip(), protocol: Protocol::Tcp, backends };
    kube_proxy::serve(node.netns(), &[served]).expect("nft takes the rules");

    let client = cluster.pod("client").start().await;
    let (held, opened) = client.hold(vec![web.vip()], CONNECTIONS).await.expect("it opens");
    assert_eq!((opened.answered(), opened.failed()), (CONNECTIONS as u64, 0), "{:?}", opened.failures);
    let (_, check) = verb(node, &["check"]);
    assert!(check.contains("table ip kube-proxy of nftables mode"), "{check}");

    node.start_agent().await.expect("it starts beside kube-proxy's rules");
    let (code, text) = verb(node, &["cleanup", "--kube-proxy-only"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("removed table ip kube-proxy") && text.contains("removed table ip6 kube-proxy"),
        "{text}"
    );
    let (code, text) = verb(node, &["cleanup", "--kube-proxy-only"]);
    assert_eq!((code, text.as_str()), (Some(0), "no leftovers of kube-proxy\n"));

    let echoes = client.echo(held).await.expect("it answers");
    assert_eq!(echoes.failed(), 0, "{:?}", echoes.failures);
    assert_eq!(echoes.answered(), CONNECTIONS as u64);
    cluster.pod("client").dials(web.vip()).times(40).comes_to_reach_each_of(["a", "b"]).await;
}
