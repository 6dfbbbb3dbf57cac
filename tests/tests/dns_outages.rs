//! DNS during an outage: of the API server, or of the agent and its pins.

use std::{fs, net::SocketAddr, process::Command};

use anyhow::{Result, ensure};
use hickory_server::proto::rr::RecordType;
use tests::{
    Cluster,
    agent::{Agent, AgentSetting, Source, portreeve},
    api_server::ApiServer,
    dns::clients::{DnsClients, LOOKUPS},
    eventually,
    firewall::filter,
    kube_proxy::{self, Served},
    links::LinkedPrograms,
    name_service::{DnsService, ENDPOINT_ANSWER, NODE_ANSWER, NameService},
    node::Node,
    objects::NAMESPACE,
    resolver::Resolver,
    traffic::Protocol,
};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";

async fn is_answered(cluster: &Cluster, serving: &DnsService, by: &str) {
    for how in LOOKUPS {
        cluster.pod("client").dials(serving.addresses()).how(how).times(4).reaches_each_of([by]).await;
    }
}

async fn eventually_answered(cluster: &Cluster, serving: &DnsService, by: &str) {
    for how in LOOKUPS {
        let dials = cluster.pod("client").dials(serving.addresses()).how(how).times(4);
        dials.comes_to_reach_each_of([by]).await;
    }
}

/// The agent continues with the known state, and its successor waits to take over. A new agent has no state: it leaves
/// clients to the other endpoints, and the data plane unchanged, until the API server returns.
#[tokio::test]
async fn names_are_answered_while_the_api_server_is_away() -> Result<()> {
    let names = NameService::new()?;
    let builder = names.configure(Cluster::start("dns-no-api").nodes(2)).flag(PODS);
    let cluster = builder.without_agents().build().await?;
    let (node, serving) = (cluster.node(0), names.start(&cluster).await?);
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let mut server = ApiServer::start_in(node.netns())?;
    server.mirror(cluster.manifests().directory())?;
    let setting = AgentSetting {
        source: Source::ApiServer(server.kubeconfig(cluster.directory())?),
        ..node.setting().clone()
    };
    let mut agent = Agent::spawn(&setting, node.netns())?;
    agent.ready().await?;
    eventually_answered(&cluster, &serving, NODE_ANSWER).await;
    let clients = DnsClients::start(&cluster, &serving).await;

    server.stop()?;
    logs(&setting, "cannot watch the API server").await;
    is_answered(&cluster, &serving, NODE_ANSWER).await;
    let pod = cluster.pod("client").start().await;
    let resolver = Resolver::new(&pod, NAMESPACE, serving.vip.v4.into(), cluster.directory())?;
    let answer = resolver.query("web.default.svc.cluster.local.", RecordType::A)?;
    ensure!(answer.answers.len() == 1, "a name of the cluster is forgotten: {answer:?}");

    let more = [setting.more.clone(), vec!["--takeover".to_owned()]].concat();
    let waiting = AgentSetting {
        notify: setting.notify.with_extension("next"),
        log: setting.log.with_extension("next.log"),
        more,
        ..setting.clone()
    };
    let mut next = Agent::spawn(&waiting, node.netns())?;
    logs(&waiting, "cannot watch the API server").await;
    is_answered(&cluster, &serving, NODE_ANSWER).await;
    agent.kill()?;
    is_answered(&cluster, &serving, ENDPOINT_ANSWER).await;
    cluster.pod("client").dials(web.vips()).times(4).reaches_each_of(["a"]).await;

    node.netns().run(|| server.start_again())?;
    next.ready().await?;
    eventually_answered(&cluster, &serving, NODE_ANSWER).await;
    cluster.pod("client").dials(web.vips()).times(4).reaches_each_of(["a"]).await;
    println!("{}", clients.end(&[NODE_ANSWER, ENDPOINT_ANSWER]).await?);
    Ok(())
}

async fn logs(setting: &AgentSetting, text: &str) {
    eventually(&format!("an agent logs: {text}"), async || {
        ensure!(fs::read_to_string(&setting.log)?.contains(text));
        Ok(())
    })
    .await;
}

/// A way to remove a dead agent from its node.
type Removal = fn(&Node);

fn removed(node: &Node) {
    fs::remove_dir_all(node.bpffs()).expect("its pins can be removed");
}

fn cleaned_up(node: &Node) {
    let mut command = Command::new(portreeve().expect("portreeve is built"));
    command.arg("cleanup").arg("--bpffs").arg(node.bpffs());
    let output = node.netns().run(|| Ok(command.output()?)).expect("it starts");
    assert!(output.status.success(), "{output:?}");
}

/// Without its pins the agent must leave no obstacle on the node: no address, no rule, no redirect to the dead server.
/// Another proxy for ClusterIPs then sends clients to the Service's other endpoints, as kube-proxy does beside an agent
/// on trial or after a rollback. Here kube-proxy's rules do so; without them no proxy does.
async fn endpoints_are_reached_without(name: &str, removal: Removal) -> Result<String> {
    let names = NameService::new()?;
    let cluster = names.configure(Cluster::start(name).nodes(2)).flag(PODS).build().await?;
    let (node, serving) = (cluster.node(0), names.start(&cluster).await?);
    kube_proxy::serve(node.netns(), &served(&serving))?;
    eventually_answered(&cluster, &serving, NODE_ANSWER).await;

    let clients = DnsClients::start(&cluster, &serving).await;
    node.kill_agent().await?;
    is_answered(&cluster, &serving, ENDPOINT_ANSWER).await;
    // Retries of queries that the server had not read at its death use the sockets of the first try: they must be
    // redirected, too.
    let before = clients.end(&[NODE_ANSWER, ENDPOINT_ANSWER]).await?;
    let programs = LinkedPrograms::in_directory(node.bpffs())?;
    removal(node);
    programs.wait_detached().await;
    ensure!(!node.bpffs().exists(), "something is pinned still");
    // The harness checks for it at the end.
    fs::create_dir(node.bpffs())?;
    let clients = DnsClients::start(&cluster, &serving).await;
    is_answered(&cluster, &serving, ENDPOINT_ANSWER).await;
    let host = cluster.pod("host").on_host(0);
    host.dials(serving.addresses()).how(LOOKUPS[0]).times(4).reaches_each_of([ENDPOINT_ANSWER]).await;
    let after = clients.end(&[ENDPOINT_ANSWER]).await?;

    filter(node.netns(), "delete table ip kube-proxy; delete table ip6 kube-proxy")?;
    let dials = cluster.pod("client").dials(serving.addresses()).how(LOOKUPS[0]);
    let report = dials.times(4).at_once(4).report().await;
    ensure!(report.failed() == report.attempts, "clients are still redirected there: {report:?}");
    Ok(format!("before: {before}\nafter: {after}"))
}

fn served(serving: &DnsService) -> Vec<Served> {
    let frontends = serving.addresses().into_iter().zip(serving.backends());
    let both =
        frontends.flat_map(|pair: (SocketAddr, SocketAddr)| [(pair, Protocol::Udp), (pair, Protocol::Tcp)]);
    both.map(|((frontend, backend), protocol)| Served { frontend, protocol, backends: vec![backend] })
        .collect()
}

#[tokio::test]
async fn the_other_endpoints_answer_when_the_agent_and_its_pins_are_gone() -> Result<()> {
    println!("{}", endpoints_are_reached_without("dns-no-pins", removed).await?);
    Ok(())
}

#[tokio::test]
async fn the_other_endpoints_answer_after_cleanup() -> Result<()> {
    println!("{}", endpoints_are_reached_without("dns-cleaned-up", cleaned_up).await?);
    Ok(())
}
