//! The node's own name server answers the cluster's DNS Service, for pods and the node, over every transport; while it is
//! down, the Service's other endpoints answer.

use std::{
    env,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;
use hickory_server::proto::rr::RecordType;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proxy::model::address::IpFamily;
use tests::{
    Cluster, PodRef,
    cluster::pod_network,
    dials::Dials,
    dns::clients::{DnsClients, LOOKUPS},
    eventually::scaled,
    http,
    name_service::{CHANGED_ANSWER, DnsService, ENDPOINT_ANSWER, NODE_ANSWER, NameService},
    objects::NAMESPACE,
    pinned_maps::PinnedMaps,
    resolver::{Library, Resolver},
    rng::Rng,
    traffic::IDENTITY_NAME,
};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";
/// Address of NodeLocal DNSCache.
const LINK_LOCAL: [u8; 4] = [169, 254, 20, 10];
/// Number of server restarts; `$PORTREEVE_KILLS` overrides it.
const KILLS: u32 = 6;

/// Retry timeout of a resolver.
const SECOND_TRY: Duration = Duration::from_secs(5);
/// Tolerance of that timeout.
const BERTH: Duration = Duration::from_millis(400);
/// Longest time without the node's own server after its end.
const RESTART: Duration = Duration::from_secs(3);

async fn cluster(name: &str, names: &NameService) -> (Cluster, DnsService) {
    let builder = names.configure(Cluster::start(name).nodes(2)).flag(PODS);
    let cluster = builder.flag("--dns-local-address=169.254.20.10").await;
    let serving = names.start(&cluster).await.expect("the Service is written");
    (cluster, serving)
}

/// A pod, the node itself, and a sandboxed pod, whose sockets no program sees.
fn client_pods(cluster: &Cluster) -> [PodRef<'_>; 3] {
    [cluster.pod("pod"), cluster.pod("host").on_host(0), cluster.pod("sandbox").sandboxed_on(0)]
}

#[tokio::test]
async fn the_node_answers_while_its_server_lives_and_other_endpoints_otherwise() {
    let names = NameService::new().expect("Corefiles are written");
    let (cluster, serving) = cluster("cluster-dns", &names).await;
    for client in client_pods(&cluster) {
        for how in LOOKUPS {
            let dials = client.clone().dials(serving.addresses()).how(how).times(10);
            dials.comes_to_reach_each_of([NODE_ANSWER]).await;
            let local = client.clone().dials(DnsService::local(LINK_LOCAL.into())).how(how).times(4);
            local.comes_to_reach_each_of([NODE_ANSWER]).await;
        }
    }
    cluster.node(0).kill_agent().await.expect("it was running");
    // At once: its end is not announced.
    for client in client_pods(&cluster) {
        for how in LOOKUPS {
            client
                .clone()
                .dials(serving.addresses())
                .how(how)
                .times(10)
                .reaches_each_of([ENDPOINT_ANSWER])
                .await;
            let local = client.clone().dials(DnsService::local(LINK_LOCAL.into())).how(how).times(4);
            local.reaches_each_of([ENDPOINT_ANSWER]).await;
        }
    }
    cluster.node(0).start_agent().await.expect("it adopts the maps");
    for client in client_pods(&cluster) {
        for how in LOOKUPS {
            client
                .clone()
                .dials(serving.addresses())
                .how(how)
                .times(10)
                .comes_to_reach_each_of([NODE_ANSWER])
                .await;
        }
    }
}

#[tokio::test]
async fn no_lookup_fails_while_agents_are_killed_ended_and_replaced() {
    let asked_for: Option<u32> = env::var("PORTREEVE_KILLS").ok().map(|text| text.parse().expect("a number"));
    let mut rng = Rng::new();
    println!("PORTREEVE_SEED={}", rng.seed);
    let names = NameService::new().expect("Corefiles are written");
    let (cluster, serving) = cluster("dns-kills", &names).await;
    let node = cluster.node(0);
    cluster
        .pod("glibc")
        .dials(serving.addresses())
        .how(LOOKUPS[0])
        .times(4)
        .comes_to_reach_each_of([NODE_ANSWER])
        .await;

    // An unoptimised server is too slow for as many: queries would queue until it is killed.
    let clients = if asked_for.is_some() {
        DnsClients::start_many(&cluster, &serving).await.expect("clients start")
    } else {
        DnsClients::start(&cluster, &serving).await
    };
    let mut deaths = Vec::new();
    for kill in 0..asked_for.unwrap_or(KILLS) {
        rng.sleep_up_to(Duration::from_millis(200)).await;
        match kill % 3 {
            0 => {
                stay_clear(&deaths).await;
                deaths.push(Instant::now());
                node.kill_agent().await.expect("it was running");
                rng.sleep_up_to(Duration::from_millis(200)).await;
                node.start_agent().await.expect("it starts");
            }
            1 => node.replace_agent(&[]).await.expect("it takes over"),
            _ => {
                stay_clear(&deaths).await;
                node.terminate_agent().await.expect("it ends");
                node.start_agent().await.expect("it starts");
            }
        }
        clients.have_not_failed().await.unwrap_or_else(|error| panic!("after end {kill}: {error:#}"));
    }
    println!(
        "{}",
        clients.end(&[NODE_ANSWER, ENDPOINT_ANSWER]).await.unwrap_or_else(|error| panic!("{error:#}"))
    );
}

/// Waits until an end now would hit no retry of a query whose first try was lost with a killed server: two tries do not
/// survive two deaths. Queries of pods from existing sockets are redirected even then. Queries of the node itself from
/// existing sockets pass no program: they are refused while its server is down.
async fn stay_clear(deaths: &[Instant]) {
    let is_near =
        |death: &Instant| (SECOND_TRY.saturating_sub(RESTART)..SECOND_TRY + BERTH).contains(&death.elapsed());
    while deaths.iter().any(is_near) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn impatient<'a>(client: PodRef<'a>, to: [SocketAddr; 2]) -> Dials<'a> {
    client.dials(to).how(LOOKUPS[0]).times(2).timeout_after(Duration::from_millis(100))
}

/// Longest delay of the redirect: the heartbeat timeout, doubled for a busy machine.
const LEFT_WITHIN: Duration = Duration::from_secs(3);

/// A stopped server keeps its sockets open and reads none: only the missing heartbeat reveals it.
#[tokio::test]
async fn clients_leave_a_server_that_hangs_and_return() {
    let names = NameService::new().expect("Corefiles are written");
    let (cluster, serving) = cluster("dns-hangs", &names).await;
    let to = serving.addresses();
    for client in client_pods(&cluster) {
        impatient(client, to).comes_to_reach_each_of([NODE_ANSWER]).await;
    }
    let clients = DnsClients::start(&cluster, &serving).await;
    let agent = cluster.node(0).agent_id().await.expect("it runs");
    let agent = Pid::from_raw(agent.try_into().expect("a process id"));
    let start = Instant::now();
    kill(agent, Signal::SIGSTOP).expect("it can be stopped");
    for client in client_pods(&cluster) {
        impatient(client, to).comes_to_reach_each_of([ENDPOINT_ANSWER]).await;
    }
    let took = start.elapsed();
    assert!(took < scaled(LEFT_WITHIN), "clients were led to it for {took:?}");
    // Clients retry from existing sockets. Those of the node itself would not be redirected, but all of these clients are
    // pods.
    tests::eventually("all lookups continue", async || {
        let progress = clients.answered_by(ENDPOINT_ANSWER).await?;
        ensure!(progress.iter().all(|count| *count > 0), "{progress:?}");
        Ok(())
    })
    .await;
    kill(agent, Signal::SIGCONT).expect("it can go on");
    for client in client_pods(&cluster) {
        impatient(client, to).comes_to_reach_each_of([NODE_ANSWER]).await;
    }
    println!(
        "left after {took:?}\n{}",
        clients.end(&[NODE_ANSWER, ENDPOINT_ANSWER]).await.expect("no lookup fails")
    );
}

/// During a takeover no query is redirected and none is lost.
#[tokio::test]
async fn names_are_answered_on_the_node_during_an_upgrade() {
    let names = NameService::new().expect("Corefiles are written");
    let (cluster, serving) = cluster("dns-upgrade", &names).await;
    for client in ["glibc", "musl", "over-tcp"] {
        cluster
            .pod(client)
            .dials(serving.addresses())
            .how(LOOKUPS[0])
            .times(4)
            .comes_to_reach_each_of([NODE_ANSWER])
            .await;
    }
    let clients = DnsClients::start(&cluster, &serving).await;
    for _ in 0..2 {
        cluster.node(0).replace_agent(&[]).await.expect("it takes over");
    }
    println!("{}", clients.end(&[NODE_ANSWER]).await.unwrap_or_else(|error| panic!("{error:#}")));
}

/// The sockets change with the Corefile. The end of the server is still noticed.
#[tokio::test]
async fn no_lookup_fails_when_the_corefile_changes() {
    let names = NameService::new().expect("Corefiles are written");
    let (cluster, serving) = cluster("dns-reload", &names).await;
    let [client, ..] = client_pods(&cluster);
    for how in LOOKUPS {
        client
            .clone()
            .dials(serving.addresses())
            .how(how)
            .times(4)
            .comes_to_reach_each_of([NODE_ANSWER])
            .await;
    }
    let clients = DnsClients::start(&cluster, &serving).await;
    names.change().expect("the Corefile is written");
    for how in LOOKUPS {
        client
            .clone()
            .dials(serving.addresses())
            .how(how)
            .times(4)
            .comes_to_reach_each_of([CHANGED_ANSWER])
            .await;
    }
    cluster.node(0).kill_agent().await.expect("it was running");
    for how in LOOKUPS {
        client.clone().dials(serving.addresses()).how(how).times(10).reaches_each_of([ENDPOINT_ANSWER]).await;
    }
    let ended = clients.end(&[NODE_ANSWER, CHANGED_ANSWER, ENDPOINT_ANSWER]).await;
    println!("{}", ended.unwrap_or_else(|error| panic!("{error:#}")));
}

/// Number of creations and deletions of a Service.
const ROUNDS: usize = 20;
const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_name_is_answered_exactly_while_its_service_is_served() {
    let cluster = Cluster::start("one-revision").names().await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let pod = cluster.pod("client").start().await;
    let server = cluster.node(0).addresses.v4.into();
    let client =
        Resolver::new(&pod, NAMESPACE, server, cluster.directory()).expect("a resolv.conf is written");
    let maps = PinnedMaps::open(cluster.node(0).bpffs()).expect("the maps are pinned");
    let (mut came, mut went) = (Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        let start = Instant::now();
        web.delete();
        await_answers(&client, 0);
        went = went.max(start.elapsed());
        assert!(maps.frontend(web.vip()).is_err(), "round {round}: without a name, it is served still");
        let start = Instant::now();
        web.write();
        await_answers(&client, 1);
        came = came.max(start.elapsed());
        let frontend = maps.frontend(web.vip()).unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        assert_eq!(
            maps.serving(frontend, IpFamily::V4).unwrap().len(),
            1,
            "round {round}: the name has no backend"
        );
    }
    println!("from the file to the answer: {came:?} at most; from its end to the answer's: {went:?} at most");
}

/// Queries until the answer has this many addresses.
fn await_answers(client: &Resolver<'_>, count: usize) {
    let start = Instant::now();
    loop {
        let answer =
            client.query("web.default.svc.cluster.local.", RecordType::A).expect("the server answers");
        if answer.answers.len() == count {
            return;
        }
        assert!(start.elapsed() < TIMEOUT, "there are not {count} answers: {answer:?}");
    }
}

/// The metrics address of the name servers.
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 9153);
const LOOKUPS_TIMED: usize = 200;

/// The cost of an external name's lookup with the search list that the kubelet gives to pods.
#[tokio::test]
async fn the_search_list_costs_local_answers_only() {
    let names = NameService::new().expect("Corefiles are written");
    names.forward_to(pod_network(2).host(100).v4.into()).expect("a Corefile is written");
    let builder = names.configure(Cluster::start("ndots").nodes(2));
    let builder = builder.flag("--dns-metrics-names=coredns");
    let cluster = builder.flag("--dns-metrics-bind-address=127.0.0.1:9153").await;
    let serving = names.start(&cluster).await.expect("the Service is written");
    assert_eq!(serving.endpoint.addresses, pod_network(2).host(100), "agents forward elsewhere");
    let pod = cluster.pod("client").start().await;
    let client = Resolver::new(&pod, NAMESPACE, serving.vip.v4.into(), cluster.directory());
    let client = client.expect("a resolv.conf is written");
    let (searched, absolute) = (IDENTITY_NAME.trim_end_matches('.'), IDENTITY_NAME);
    let libraries = Library::all(cluster.directory()).expect("programs can be built");
    tests::eventually("the name is found", async || client.time(&Library::Gnu, searched, 1).await).await;

    let count = |metric| counted(&cluster, metric);
    const UPSTREAM: &str = "coredns_proxy_request_duration_seconds_count";
    for library in &libraries {
        for (name, most) in [(searched, 8.0), (absolute, 2.0)] {
            let before = (count("coredns_dns_requests_total"), count(UPSTREAM));
            let time = async |times| client.time(library, name, times).await.expect("it is found");
            let base = time(1).await;
            let took = time(1 + LOOKUPS_TIMED).await.saturating_sub(base);
            let lookups = (2 + LOOKUPS_TIMED) as f64;
            let queries = (count("coredns_dns_requests_total") - before.0) / lookups;
            let upstream = count(UPSTREAM) - before.1;
            println!(
                "{library}: getaddrinfo({name:?}) with ndots:5: {queries:.1} queries to the node's server, {:.0} us; \
                 {upstream} packets to upstreams in all {lookups} lookups",
                took.as_secs_f64() * 1e6 / LOOKUPS_TIMED as f64
            );
            assert!(queries > 0.0 && queries <= most, "{library}: {name}: {queries} queries");
            // One for each type, and another when the cache entry expires.
            assert!(upstream <= 8.0, "{library}: {name}: {upstream} packets to upstreams");
        }
    }
}

/// The sum of a metric of the first node over all labels.
fn counted(cluster: &Cluster, metric: &str) -> f64 {
    let answer = http::get(cluster.node(0).netns(), METRICS.into(), "/metrics").expect("metrics are served");
    let lines = answer.body.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
