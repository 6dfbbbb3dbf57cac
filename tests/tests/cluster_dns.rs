//! The cluster's DNS Service is answered on the node that asks: from pods and the node, over every transport, while the
//! node's server lives; and by the Service's other endpoints when it does not.

use std::{
    env,
    time::{Duration, Instant},
};

use hickory_server::proto::rr::RecordType;
use proxy::model::address::IpFamily;
use tests::{
    Cluster,
    chance::Chance,
    cluster::{PodRef, pod_network},
    dials::only,
    dump::PinnedMaps,
    http,
    name_service::{ELSEWHERE, HERE, NameService, Serving},
    objects::NAMESPACE,
    pod::Dialling,
    resolver::Resolver,
    traffic::{How, Lookup, Report, WHO},
};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";
const LOOKUPS: [How; 3] =
    [How::Lookup(Lookup::ConnectedUdp), How::Lookup(Lookup::UnconnectedUdp), How::Lookup(Lookup::Tcp)];
/// Where NodeLocal DNSCache is asked.
const LINK_LOCAL: [u8; 4] = [169, 254, 20, 10];
/// How often the server ends and comes back; `$PORTREEVE_KILLS` says otherwise.
const KILLS: u32 = 6;

/// When a resolver tries again, and a little more.
const SECOND_TRY: Duration = Duration::from_millis(5_500);

async fn cluster(name: &str, names: &NameService) -> (Cluster, Serving) {
    let builder = names.told_to(Cluster::start(name).nodes(2)).flag(PODS);
    let cluster = builder.flag("--dns-local-address=169.254.20.10").await;
    let serving = names.start(&cluster).await.expect("the Service is written");
    (cluster, serving)
}

/// A pod, the node itself, and a pod whose sockets no program sees.
fn clients(cluster: &Cluster) -> [PodRef<'_>; 3] {
    [cluster.pod("pod"), cluster.pod("host").on_host(0), cluster.pod("sandbox").sandboxed_on(0)]
}

#[tokio::test]
async fn the_node_answers_while_its_server_lives_and_others_when_it_does_not() {
    let names = NameService::new().expect("Corefiles are written");
    let (cluster, serving) = cluster("cluster-dns", &names).await;
    for client in clients(&cluster) {
        for how in LOOKUPS {
            let dials = client.clone().dials(serving.addresses()).how(how).times(10);
            dials.comes_to_reach_each_of([HERE]).await;
            let local = client.clone().dials(Serving::local(LINK_LOCAL.into())).how(how).times(4);
            local.comes_to_reach_each_of([HERE]).await;
        }
    }
    cluster.node(0).kill_agent().await.expect("it was running");
    // At once: nobody is told of its end.
    for client in clients(&cluster) {
        for how in LOOKUPS {
            client.clone().dials(serving.addresses()).how(how).times(10).reaches_each_of([ELSEWHERE]).await;
            let local = client.clone().dials(Serving::local(LINK_LOCAL.into())).how(how).times(4);
            local.reaches_each_of([ELSEWHERE]).await;
        }
    }
    cluster.node(0).start_agent().await.expect("it adopts what it finds");
    for client in clients(&cluster) {
        for how in LOOKUPS {
            client.clone().dials(serving.addresses()).how(how).times(10).comes_to_reach_each_of([HERE]).await;
        }
    }
}

/// One client of each kind that asks all the while.
async fn askers(cluster: &Cluster, serving: &Serving) -> Vec<Dialling> {
    let mut askers = Vec::new();
    for (name, how, workers) in
        [("glibc", LOOKUPS[0], 4), ("musl", LOOKUPS[1], 4), ("over-tcp", LOOKUPS[2], 1)]
    {
        let dials = cluster.pod(name).dials(serving.addresses()).how(how).at_once(workers);
        askers.push(dials.every(Duration::from_micros(500)).in_background().await);
    }
    askers
}

fn told(name: &str, report: &Report, seconds: f64) -> String {
    let (here, elsewhere) = (report.answered_by(HERE), report.answered_by(ELSEWHERE));
    format!(
        "{name}: {} lookups ({:.0}/s), {here} answered here, {elsewhere} elsewhere, {} failed; longest silence {:.1} ms, \
         longest lookup {:.1} ms",
        report.attempts,
        report.attempts as f64 / seconds,
        report.failed(),
        report.longest_silence_us as f64 / 1e3,
        f64::from(report.latency.max_us) / 1e3,
    )
}

#[tokio::test]
async fn no_lookup_fails_while_agents_are_killed_ended_and_replaced() {
    let kills = env::var("PORTREEVE_KILLS").map_or(KILLS, |text| text.parse().expect("a number"));
    let mut chance = Chance::new();
    println!("PORTREEVE_SEED={}", chance.seed);
    let names = NameService::new().expect("Corefiles are written");
    let (cluster, serving) = cluster("dns-kills", &names).await;
    let node = cluster.node(0);
    cluster
        .pod("glibc")
        .dials(serving.addresses())
        .how(LOOKUPS[0])
        .times(4)
        .comes_to_reach_each_of([HERE])
        .await;

    let begun = Instant::now();
    let askers = askers(&cluster, &serving).await;
    for kill in 0..kills {
        chance.instant(Duration::from_millis(200)).await;
        match kill % 3 {
            0 => {
                node.kill_agent().await.expect("it was running");
                chance.instant(Duration::from_millis(200)).await;
                node.start_agent().await.expect("it starts");
                // What lay in its sockets is asked again only now. Two tries do not survive two deaths.
                tokio::time::sleep(SECOND_TRY).await;
            }
            1 => node.replace_agent(&[]).await.expect("it takes over"),
            _ => {
                node.terminate_agent().await.expect("it ends");
                node.start_agent().await.expect("it starts");
            }
        }
        for asker in &askers {
            let progress = asker.progress().await.expect("the client answers");
            assert!(progress.failures.is_empty(), "after end {kill}: {progress:?}");
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    for (name, asker) in ["glibc", "musl", "TCP"].into_iter().zip(askers) {
        let report = asker.stop().await.expect("the client answers");
        println!("{}", told(name, &report, seconds));
        only(&report, &[HERE, ELSEWHERE]).unwrap_or_else(|error| panic!("{name}: {error:#} {report:?}"));
        assert!(report.answered_by(HERE) > 0 && report.answered_by(ELSEWHERE) > 0, "{name}: {report:?}");
    }
}

/// With an agent that takes over, nobody has to go elsewhere, and nothing is lost.
#[tokio::test]
async fn names_are_answered_on_the_node_all_through_an_upgrade() {
    let names = NameService::new().expect("Corefiles are written");
    let (cluster, serving) = cluster("dns-upgrade", &names).await;
    for client in ["glibc", "musl", "over-tcp"] {
        cluster
            .pod(client)
            .dials(serving.addresses())
            .how(LOOKUPS[0])
            .times(4)
            .comes_to_reach_each_of([HERE])
            .await;
    }
    let begun = Instant::now();
    let askers = askers(&cluster, &serving).await;
    for _ in 0..2 {
        cluster.node(0).replace_agent(&[]).await.expect("it takes over");
    }
    for (name, asker) in ["glibc", "musl", "TCP"].into_iter().zip(askers) {
        let report = asker.stop().await.expect("the client answers");
        println!("{}", told(name, &report, begun.elapsed().as_secs_f64()));
        only(&report, &[HERE]).unwrap_or_else(|error| panic!("{name}: {error:#} {report:?}"));
    }
}

/// How often a Service comes and goes.
const ROUNDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_name_is_answered_only_once_its_service_is_served_and_stops_with_it() {
    let cluster = Cluster::start("one-revision").names().await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let pod = cluster.pod("client").start().await;
    let server = cluster.node(0).addresses.v4.into();
    let client =
        Resolver::new(&pod, NAMESPACE, server, cluster.directory()).expect("a resolv.conf is written");
    let maps = PinnedMaps::open(cluster.node(0).bpffs()).expect("the maps are pinned");
    let (mut came, mut went) = (Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        let begun = Instant::now();
        web.delete();
        await_answers(&client, 0);
        went = went.max(begun.elapsed());
        assert!(maps.frontend(web.vip()).is_err(), "round {round}: without a name, it is served still");
        let begun = Instant::now();
        web.write();
        await_answers(&client, 1);
        came = came.max(begun.elapsed());
        let frontend = maps.frontend(web.vip()).unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        assert_eq!(maps.serving(frontend, IpFamily::V4).len(), 1, "round {round}: nobody is behind the name");
    }
    println!("from the file to the answer: {came:?} at most; from its end to the answer's: {went:?} at most");
}

/// Asks until there are so many addresses.
fn await_answers(client: &Resolver<'_>, count: usize) {
    let begun = Instant::now();
    loop {
        let answer = client.ask("web.default.svc.cluster.local.", RecordType::A).expect("the server answers");
        if answer.answers.len() == count {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{count} answers do not come: {answer:?}");
    }
}

/// Where the agents tell how often they were asked.
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 9153);
const LOOKUPS_TIMED: usize = 200;

/// What one lookup of a name elsewhere costs with the search list that the kubelet gives to pods.
#[tokio::test]
async fn the_search_list_costs_local_answers_only() {
    let names = NameService::new().expect("Corefiles are written");
    names.forwarded_to(pod_network(2).host(100).v4.into()).expect("a Corefile is written");
    let builder = names.told_to(Cluster::start("ndots").nodes(2));
    let cluster = builder.flag("--dns-metrics-bind-address=127.0.0.1:9153").await;
    let serving = names.start(&cluster).await.expect("the Service is written");
    assert_eq!(serving.endpoint.addresses, pod_network(2).host(100), "agents forward elsewhere");
    let pod = cluster.pod("client").start().await;
    let client = Resolver::new(&pod, NAMESPACE, serving.vip.v4.into(), cluster.directory());
    let client = client.expect("a resolv.conf is written");
    let (searched, absolute) = (WHO.trim_end_matches('.'), WHO);
    tests::eventually("the name is found", async || client.time(searched, 1).await).await;

    let count = |metric| counted(&cluster, metric);
    const UPSTREAM: &str = "coredns_proxy_request_duration_seconds_count";
    for (name, most) in [(searched, 8.0), (absolute, 2.0)] {
        let before = (count("coredns_dns_requests_total"), count(UPSTREAM));
        let base = client.time(name, 1).await.expect("it is found");
        let took = client.time(name, 1 + LOOKUPS_TIMED).await.expect("it is found").saturating_sub(base);
        let lookups = (2 + LOOKUPS_TIMED) as f64;
        let queries = (count("coredns_dns_requests_total") - before.0) / lookups;
        let upstream = count(UPSTREAM) - before.1;
        println!(
            "getaddrinfo({name:?}) with ndots:5: {queries:.1} queries to the node's server, {:.0} us; {upstream} packets \
             to upstreams in all {lookups} lookups",
            took.as_secs_f64() * 1e6 / LOOKUPS_TIMED as f64
        );
        assert!(queries > 0.0 && queries <= most, "{name}: {queries} queries");
        // One for each type, and again when the cache lets go of it.
        assert!(upstream <= 8.0, "{name}: {upstream} packets to upstreams");
    }
}

/// The sum of a metric of the first node over all labels.
fn counted(cluster: &Cluster, metric: &str) -> f64 {
    let answer = http::get(cluster.node(0).netns(), METRICS.into(), "/metrics").expect("metrics are told");
    let lines = answer.body.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
