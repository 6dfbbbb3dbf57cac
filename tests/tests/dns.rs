//! DNS for programs in pods: through the C library's resolver and the agent.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::ensure;
use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use tests::{
    Cluster,
    addresses::Addresses,
    cluster::{Placement, node_network},
    eventually::within,
    examples::{self, Example, ExamplePod},
    objects::{Condition, NAMESPACE},
    pod::Pod,
    resolver::Resolver,
    traffic::Protocol,
};

/// Longest delay of a change.
const SOON: Duration = Duration::from_secs(1);

type Found = BTreeSet<IpAddr>;

fn resolver<'a>(cluster: &Cluster, pod: &'a Pod, namespace: &str, server: IpAddr) -> Resolver<'a> {
    Resolver::new(pod, namespace, server, cluster.directory()).expect("a resolv.conf is written")
}

fn found(addresses: impl IntoIterator<Item = Addresses>) -> Found {
    addresses.into_iter().flat_map(Addresses::both).collect()
}

async fn pods(cluster: &Cluster, names: &[&str]) -> Found {
    let mut pods = Vec::new();
    for name in names {
        pods.push(cluster.pod(name).start().await.addresses);
    }
    found(pods)
}

async fn eventually_finds(resolver: &Resolver<'_>, name: &str, want: &Found) {
    let attempt = async || {
        let addresses = resolver.addresses(name).await?;
        ensure!(addresses == *want, "found {addresses:?}, not {want:?}");
        Ok(())
    };
    within(SOON, name, attempt).await.unwrap_or_else(|error| panic!("{error:#}"));
}

/// Response code and sorted records of an answer.
fn query(resolver: &Resolver<'_>, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let answer = resolver.query(name, kind).unwrap_or_else(|error| panic!("{name} {kind}: {error:#}"));
    let mut records: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    records.sort();
    (answer.metadata.response_code, records)
}

#[tokio::test]
async fn a_service_is_found_by_its_short_and_its_full_name() {
    let node = node_network().host(11);
    let mut start = Cluster::start("names").names();
    for server in node.both() {
        start = start.flag(&format!("--dns-listen={}", SocketAddr::new(server, 53)));
    }
    let cluster = start.await;
    assert_eq!(cluster.node(0).addresses, node);
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let want: Found = web.vips().iter().map(|vip| vip.ip()).collect();
    let (inside, other) = (cluster.pod("inside").start().await, cluster.pod("other").start().await);

    let (short, full) = ("web", "web.default.svc.cluster.local");
    for server in node.both() {
        let inside = resolver(&cluster, &inside, NAMESPACE, server);
        let dotted = format!("{full}.");
        for name in [short, "web.default", "web.default.svc", full, &dotted, "WEB.Default"] {
            eventually_finds(&inside, name, &want).await;
        }
        let other = resolver(&cluster, &other, "other", server);
        for name in ["web.default", "web.default.svc", full] {
            eventually_finds(&other, name, &want).await;
        }
        eventually_finds(&other, "web.other.svc.cluster.local.", &Found::new()).await;
        for vip in web.vips() {
            assert_eq!(inside.names(vip.ip()).await.expect("getent answers"), [full], "{server}: {vip}");
        }
    }
}

#[tokio::test]
async fn a_headless_service_names_its_pods() {
    let cluster = Cluster::start("headless").nodes(2).names().await;
    let names = ["db-0", "db-1", "db-2"];
    let _db = cluster.service("db").tcp(5432).headless().backends(names).await;
    let _web = cluster.service("web").tcp(80).backends(["a"]).await;
    let pod = cluster.pod("client").start().await;
    // The other node's agent gives the same answer.
    for node in cluster.nodes() {
        let client = resolver(&cluster, &pod, NAMESPACE, node.addresses.v4.into());
        for (name, want) in [
            ("db", &names[..]),
            ("db.default.svc.cluster.local", &names[..]),
            ("db-0.db", &["db-0"]),
            ("db-1.db.default", &["db-1"]),
            ("db-2.db.default.svc.cluster.local", &["db-2"]),
            ("db-3.db.default.svc.cluster.local.", &[]),
        ] {
            eventually_finds(&client, name, &pods(&cluster, want).await).await;
        }
        let first = cluster.pod("db-0").start().await.addresses;
        for address in first.both() {
            let names = client.names(address).await.expect("getent answers");
            assert_eq!(names, ["db-0.db.default.svc.cluster.local"], "{address}");
        }
        check_answers(&client);
    }
}

/// Queries and answers that the C library's resolver does not send or does not distinguish.
fn check_answers(client: &Resolver<'_>) {
    // The target port is the Service's port plus 8000.
    let members = ["0", "1", "2"].map(|n| format!("13432 db-{n}.db.default.svc.cluster.local."));
    for (name, kind, code, want) in [
        ("_tcp-5432._tcp.db", RecordType::SRV, ResponseCode::NoError, &members[..]),
        (
            "_tcp-80._tcp.web",
            RecordType::SRV,
            ResponseCode::NoError,
            &["80 web.default.svc.cluster.local.".to_owned()],
        ),
        ("_udp-80._udp.web", RecordType::SRV, ResponseCode::NXDomain, &[]),
        ("web", RecordType::TXT, ResponseCode::NoError, &[]),
        ("absent", RecordType::A, ResponseCode::NXDomain, &[]),
        ("db-3.db", RecordType::A, ResponseCode::NXDomain, &[]),
    ] {
        let (answered, records) = query(client, &format!("{name}.default.svc.cluster.local."), kind);
        // SRV: priority and weight first.
        let records: Vec<_> = records.iter().map(|record| record.splitn(3, ' ').skip(2).collect()).collect();
        assert_eq!((answered, records), (code, want.to_vec()), "{name} {kind}");
    }
}

/// Independent implementations of the protocol, over both transports, compared by their output.
#[tokio::test]
async fn dig_and_kdig_understand_the_answers() {
    let cluster = Cluster::start("dig").names().await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let pod = cluster.pod("client").start().await;
    let client = resolver(&cluster, &pod, NAMESPACE, cluster.node(0).addresses.v4.into());
    let full = "web.default.svc.cluster.local.";
    let vip = web.vips().iter().map(|vip| vip.ip()).find(IpAddr::is_ipv4).expect("it has one").to_string();
    eventually_finds(&client, full, &web.vips().iter().map(|vip| vip.ip()).collect()).await;
    for program in ["dig", "kdig"] {
        for transport in ["+notcp", "+tcp"] {
            for (question, want) in [
                (&["-t", "A", full][..], vip.as_str()),
                (&["-x", &vip], full),
                (
                    &["-t", "SRV", "_tcp-80._tcp.web.default.svc.cluster.local."],
                    "0 100 80 web.default.svc.cluster.local.",
                ),
                (&["-t", "TXT", full], ""),
                (&["-t", "A", "absent.default.svc.cluster.local."], ""),
            ] {
                let arguments = [&["+short", transport], question].concat();
                let printed = client.printed(program, &arguments).await;
                let printed = printed.unwrap_or_else(|error| panic!("{error:#}")).join("\n");
                assert_eq!(printed, want, "{program} {arguments:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_change_is_seen_within_a_second() {
    let cluster = Cluster::start("renamed").names().await;
    let db = cluster.service("db").tcp(5432).headless().backends(["db-0", "db-1"]).await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let pod = cluster.pod("client").start().await;
    let client = resolver(&cluster, &pod, NAMESPACE, cluster.node(0).addresses.v4.into());
    let (service, members) = ("web.default.svc.cluster.local.", "db.default.svc.cluster.local.");
    let member = "db-2.db.default.svc.cluster.local.";
    let vips: Found = web.vips().iter().map(|vip| vip.ip()).collect();
    eventually_finds(&client, service, &vips).await;
    eventually_finds(&client, members, &pods(&cluster, &["db-0", "db-1"]).await).await;
    eventually_finds(&client, member, &Found::new()).await;

    // The pod is started before the measurement.
    let third = pods(&cluster, &["db-2"]).await;
    db.add("db-2").await;
    eventually_finds(&client, member, &third).await;
    eventually_finds(&client, members, &pods(&cluster, &["db-0", "db-1", "db-2"]).await).await;
    db.set("db-0", Condition::Unready);
    eventually_finds(&client, members, &pods(&cluster, &["db-1", "db-2"]).await).await;
    db.remove("db-2");
    eventually_finds(&client, member, &Found::new()).await;
    db.scale_to_zero();
    eventually_finds(&client, members, &Found::new()).await;

    web.delete();
    eventually_finds(&client, service, &Found::new()).await;
    web.write();
    eventually_finds(&client, service, &vips).await;
}

/// Starts the pods of an example and writes its objects for the agents.
async fn start_example(cluster: &Cluster, name: &str) -> Vec<(String, ExamplePod)> {
    let directory = examples::directory().join(name);
    let promised = Example::load(&directory).and_then(|example| example.pods()).expect("the example loads");
    for (name, pod) in &promised {
        let (v4, v6) = (pod.v4.expect("an IPv4 address"), pod.v6.expect("an IPv6 address"));
        let node = cluster.nodes().iter().position(|node| node.name == pod.node).expect("it has a node");
        let placed = cluster.ensure_pod(name, Placement::Node(node), Some(Addresses { v4, v6 })).await;
        let placed = placed.expect("the pod starts");
        for port in &pod.ports {
            placed.serve(Protocol::Tcp, *port).await.expect("it serves");
        }
    }
    for file in ["services.yaml", "endpointslices.yaml"] {
        let text = fs::read_to_string(directory.join(file)).expect("the example has it");
        cluster.manifests().write_text(file, &text).expect("it is written");
    }
    promised.into_iter().collect()
}

#[tokio::test]
async fn the_members_of_the_examples_find_each_other() {
    for (example, service, port) in [("mongodb", "mongo", 27017), ("redis-sentinel", "redis", 6379)] {
        let cluster = Cluster::start(example).nodes(2).names().await;
        let promised = start_example(&cluster, example).await;
        assert_eq!(promised.len(), 3, "{example}: {promised:?}");
        for pod in cluster.all_pods() {
            // The kubelet's choice: the server of the pod's own node.
            let node = cluster.nodes().iter().find(|node| Some(&node.name) == pod.node.as_ref());
            let server = node.expect("it has a node").addresses.v4.into();
            let resolver = resolver(&cluster, &pod, NAMESPACE, server);
            for (peer, _) in &promised {
                let addresses = pods(&cluster, &[peer]).await;
                let name = format!("{peer}.{service}");
                eventually_finds(&resolver, &name, &addresses).await;
                let to: Vec<_> = addresses.into_iter().map(|ip| (ip, port).into()).collect();
                cluster.pod(&pod.name).dials(to).times(4).always_reaches_one_of([peer.as_str()]).await;
            }
        }
    }
}
