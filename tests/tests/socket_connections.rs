//! What the kernel counts of the connections that sockets opened: in /metrics, and in `get`.

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{links::PinnedLink, loaded_programs};
use serde_json::Value;
use tests::{
    Cluster,
    agent::portreeve,
    eventually, firewall,
    http::get,
    node::Node,
    pod::Pod,
    process::Process,
    service::Service,
    traffic::{Action, Protocol},
};

const PER_BACKEND: &str = "--metrics-per-backend";

/// The value of a series of a Service in /metrics; 0 if there is none.
fn metric(node: &Node, name: &str, service: &str, label: &str) -> Result<f64> {
    let body = get(node.netns(), SocketAddr::from(([127, 0, 0, 1], 10249)), "/metrics")?.body;
    let (start, of) = (format!("{name}{{"), format!("service=\"{service}\""));
    let series = |line: &&str| line.starts_with(&start) && line.contains(&of) && line.contains(label);
    let values = body.lines().filter(series).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(values.sum())
}

fn failures(node: &Node, service: &str, reason: &str) -> Result<f64> {
    let label = format!("reason=\"{reason}\"");
    metric(node, "portreeve_service_tcp_failures_total", service, &label)
}

fn opened(node: &Node, service: &str) -> Result<f64> {
    metric(node, "portreeve_service_tcp_connect_duration_seconds_count", service, "")
}

fn open(node: &Node, service: &str) -> Result<f64> {
    metric(node, "portreeve_service_tcp_connections_open", service, "")
}

/// A Service whose connections are counted from now on: the lab has dialled it to see that it is programmed.
struct Counted<'a> {
    node: &'a Node,
    service: &'static str,
    before: f64,
}

impl<'a> Counted<'a> {
    async fn new(node: &'a Node, service: &'static str) -> Self {
        eventually(&format!("no connection of {service} is open"), async || {
            ensure!(opened(node, service)? > 0.0 && open(node, service)? == 0.0);
            Ok(())
        })
        .await;
        Self { node, service, before: opened(node, service).expect("metrics") }
    }

    /// Waits until so many connections were opened, and so many are open, of the Service and of its backends.
    async fn is(&self, new: usize, are_open: usize) {
        let Self { node, service, before } = *self;
        eventually(&format!("{new} connections of {service} are new, {are_open} open"), async || {
            let found = (opened(node, service)? - before, open(node, service)?);
            ensure!(found == (new as f64, are_open as f64), "{found:?}");
            let rows = rows(node, "backends", service)?;
            let sum = |of| rows.iter().filter_map(|row| row["tcp"][of].as_u64()).sum::<u64>() as f64;
            let of_backends = (sum("opened") - before, sum("open"));
            ensure!(of_backends == found, "{of_backends:?}");
            Ok(())
        })
        .await;
    }
}

/// Waits until a Service has so many failures of a kind, and no others.
async fn has_failed(node: &Node, service: &str, reason: &str, want: usize) {
    eventually(&format!("{want} connections of {service} have failed: {reason}"), async || {
        let found = failures(node, service, reason)?;
        let all = metric(node, "portreeve_service_tcp_failures_total", service, "")?;
        let row = rows(node, "services", service)?.into_iter().next().context("a frontend")?;
        ensure!((found, all) == (want as f64, want as f64), "{found} of {all} failures: {row}");
        ensure!(row["tcp"]["failures"][reason] == want, "{row}");
        Ok(())
    })
    .await;
}

/// The rows of `get RESOURCE NAME -o json`.
fn rows(node: &Node, resource: &str, service: &str) -> Result<Vec<Value>> {
    let mut command = Command::new(portreeve()?);
    command.args(["get", resource, service, "-n", "default", "-o", "json", "--bpffs"]).arg(node.bpffs());
    command.arg("--run-dir").arg(node.setting().run_dir());
    let output = node.netns().run(|| command.output().context("it starts"))?;
    ensure!(output.status.success(), "{output:?}");
    let mut document: Value = serde_json::from_slice(&output.stdout)?;
    let list = if resource == "services" { "frontends" } else { resource };
    serde_json::from_value(document[list].take()).context("a list of rows")
}

async fn release(client: &Arc<Pod>, held: u64) {
    client.request(Action::Release { of: held }).await.expect("it closes them");
}

/// Packets to a port of a backend meet this rule.
fn filter(backend: &Pod, service: &Service<'_>, rule: &str) {
    let port = service.port(0).target;
    let rules = format!(
        "table inet t {{ chain input {{ type filter hook input priority 0; tcp dport {port} {rule}\n }}\n }}"
    );
    firewall::filter(backend.netns(), &rules).expect("nft accepts it");
}

#[tokio::test]
async fn connections_are_counted_from_connect_to_close() {
    const PAYLOAD: usize = 10_000;
    let cluster = Cluster::start("counted").flag(PER_BACKEND).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let node = cluster.node(0);
    let client = cluster.pod("client").start().await;
    let counted = Counted::new(node, "web").await;
    let metric = |name: &str, label: &str| metric(node, name, "web", label).expect("metrics");
    let bytes = |of: &str| metric(&format!("portreeve_service_tcp_{of}_bytes_total"), "");
    let (sent, received) = (bytes("sent"), bytes("received"));
    let round_trips = metric("portreeve_service_tcp_round_trip_seconds_count", "");
    let (held, report) = client.hold(web.vips().into(), 40).await.expect("it opens");
    assert_eq!(report.failed(), 0, "{report:?}");
    counted.is(40, 40).await;
    assert_eq!(client.transfer(held, PAYLOAD).await.expect("it answers").failed(), 0);

    let least = (40 * PAYLOAD) as f64;
    eventually("the bytes of open connections are counted", async || {
        let found = (bytes("sent") - sent, bytes("received") - received);
        ensure!(found.0 >= least && found.1 >= least, "{found:?}");
        Ok(())
    })
    .await;
    assert_eq!(open(node, "web").expect("metrics"), 40.0);
    release(&client, held).await;
    counted.is(40, 0).await;
    for (of, before) in [("sent", sent), ("received", received)] {
        let found = bytes(of) - before;
        // A name, some words, and the FIN beside the payload.
        assert!((least..least + 40.0 * 400.0).contains(&found), "{of} {found}");
    }
    assert_eq!(metric("portreeve_service_tcp_round_trip_seconds_count", "") - round_trips, 40.0);
    let mean = metric("portreeve_service_tcp_round_trip_seconds_sum", "") / (40.0 + round_trips);
    assert!(mean > 1e-6 && mean < 5.0, "{mean} s");
    let took = metric("portreeve_service_tcp_connect_duration_seconds_sum", "");
    assert!(took > 40.0 * 1e-6, "{took} s");
    let buckets = metric("portreeve_service_tcp_connect_duration_seconds_bucket", "le=\"+Inf\"");
    assert_eq!(buckets - counted.before, 40.0);
    assert_eq!(metric("portreeve_service_tcp_failures_total", ""), 0.0);
    assert_eq!(metric("portreeve_backend_tcp_opened_total", "") - counted.before, 40.0);
}

/// The lab's clients end their connections by a reset; most applications do not.
#[tokio::test]
async fn a_connection_ends_with_either_sides_fin() {
    const CLIENT_CLOSES: &str = "echo who >&3; read -r answer <&3; exec 3>&-";
    const SERVER_CLOSES: &str = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 >/dev/null; exec 3>&-";
    let cluster = Cluster::start("fins").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let client = cluster.pod("client").start().await;
    let counted = Counted::new(cluster.node(0), "web").await;
    let mut done = 0;
    for to in web.vips() {
        for talk in [CLIENT_CLOSES, SERVER_CLOSES] {
            let mut command = Command::new("bash");
            command.args(["-c", &format!("exec 3<>/dev/tcp/{}/{}; {talk}", to.ip(), to.port())]);
            let started = Process::start("bash", command, client.netns(), Some(client.cgroup()));
            assert!(started.expect("bash starts").ended().await.expect("it ends").success(), "{talk}");
            done += 1;
            counted.is(done, 0).await;
        }
    }
    let failed = metric(cluster.node(0), "portreeve_service_tcp_failures_total", "web", "");
    assert_eq!(failed.expect("metrics"), 0.0);
}

#[tokio::test]
async fn failures_are_counted_by_kind() {
    let cluster = Cluster::start("failed").await;
    let service = async |name, pod| cluster.service(name).tcp(80).backends([pod]).await;
    let pod = async |name| cluster.pod(name).start().await;
    let (refusing, silent, far, resetting) = (
        service("refusing", "a").await,
        service("silent", "b").await,
        service("far", "c").await,
        service("resetting", "d").await,
    );
    let (a, b, c, d) = (pod("a").await, pod("b").await, pod("c").await, pod("d").await);
    a.stop(Protocol::Tcp, refusing.port(0).target).await.expect("it stops");
    filter(&b, &silent, "drop");
    filter(&c, &far, "reject with icmpx host-unreachable");
    // The SYN passes.
    filter(&d, &resetting, "tcp flags & syn == 0 reject with tcp reset");

    let node = cluster.node(0);
    let connected = Counted::new(node, "resetting").await;
    let client = cluster.pod("client");
    let netns = client.start().await;
    netns.netns().set(&[("ipv4/tcp_syn_retries", "1")]).expect("it can be set");
    client.clone().dials(refusing.vips()).times(4).report().await;
    has_failed(node, "refusing", "refused", 4).await;
    client.clone().dials(far.vips()).times(4).report().await;
    has_failed(node, "far", "unreachable", 4).await;
    client.clone().dials(resetting.vips()).times(4).report().await;
    has_failed(node, "resetting", "reset", 4).await;
    // Within a second the SYN is not sent again.
    let impatient = client.clone().dials(silent.vips()).times(2).timeout_after(Duration::from_millis(100));
    impatient.report().await;
    has_failed(node, "silent", "abandoned", 2).await;
    client
        .clone()
        .dials(silent.vips())
        .times(2)
        .at_once(2)
        .timeout_after(Duration::from_secs(20))
        .report()
        .await;
    eventually("the kernel gave up", async || {
        let found = failures(node, "silent", "timed_out")?;
        ensure!(found == 2.0, "{found}");
        Ok(())
    })
    .await;
    connected.is(4, 0).await;
    for name in ["refusing", "silent", "far"] {
        assert_eq!(open(node, name).expect("metrics"), 0.0, "{name}");
    }
}

#[tokio::test]
async fn counts_outlive_agents_and_larger_tables() {
    let cluster = Cluster::start("counted-on").await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let node = cluster.node(0);
    let client = cluster.pod("client").start().await;
    let counted = Counted::new(node, "web").await;
    let (first, _) = client.hold(web.vips().into(), 10).await.expect("it opens");
    counted.is(10, 10).await;
    node.kill_agent().await.expect("it was running");
    let (second, _) = client.hold(web.vips().into(), 5).await.expect("it opens");
    node.start_agent().await.expect("it adopts the maps");
    counted.is(15, 15).await;
    release(&client, first).await;
    counted.is(15, 5).await;

    let dials = cluster.pod("dialler").dials(web.vips()).at_once(2).every(Duration::from_millis(1));
    let traffic = dials.in_background().await;
    let larger = ["--max-service-ports=70000", "--max-backends=300000"];
    for options in [&larger[..], &[]] {
        node.replace_agent(options).await.expect("it takes over");
    }
    let report = traffic.stop().await.expect("it answers");
    assert!(report.failures.is_empty(), "{report:?}");
    let dialled = usize::try_from(report.attempts).expect("a small number");
    counted.is(15 + dialled, 5).await;
    release(&client, second).await;
    counted.is(15 + dialled, 0).await;
}

#[tokio::test]
async fn a_connection_is_not_counted_for_the_next_service_or_backend() {
    let cluster = Cluster::start("recounted").await;
    let client = cluster.pod("client").start().await;
    let node = cluster.node(0);
    let old = cluster.service("old").tcp(80).backends(["a"]).await;
    let counted = Counted::new(node, "old").await;
    let (held, _) = client.hold(old.vips().into(), 10).await.expect("it opens");
    counted.is(10, 10).await;
    let indices =
        || ["old", "new"].map(|name| rows(node, "backends", name).map(|rows| rows[0]["index"].clone()).ok());
    let before = indices();
    // Its indices go to the next Service.
    old.delete();
    eventually("the Service is gone", async || {
        ensure!(opened(node, "old")? == 0.0);
        Ok(())
    })
    .await;
    let new = cluster.service("new").tcp(80).backends(["b"]).await;
    assert_eq!(indices()[1], before[0], "the index of the backend is used again");
    let counted = Counted::new(node, "new").await;
    let (second, _) = client.hold(new.vips().into(), 3).await.expect("it opens");
    counted.is(3, 3).await;
    release(&client, held).await;
    release(&client, second).await;
    counted.is(3, 0).await;
}

#[tokio::test]
async fn sockets_that_no_program_saw_connect_are_not_counted() {
    let cluster = Cluster::start("uncounted").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    let client = cluster.pod("client").start().await;
    let counted = Counted::new(node, "web").await;
    node.terminate_agent().await.expect("it ends");
    let link = PinnedLink::from_pin(node.bpffs().join("links/sock_ops")).expect("it is pinned");
    let link = link.unpin().expect("it is there");
    let program = link.info().expect("it is attached").program_id();
    drop(link);
    eventually("the kernel has freed the program", async || {
        ensure!(loaded_programs().flatten().all(|loaded| loaded.id() != program));
        Ok(())
    })
    .await;
    let (unseen, _) = client.hold(web.vips().into(), 7).await.expect("it opens");
    node.start_agent().await.expect("it attaches it again");
    let (seen, _) = client.hold(web.vips().into(), 2).await.expect("it opens");
    counted.is(2, 2).await;
    release(&client, unseen).await;
    release(&client, seen).await;
    counted.is(2, 0).await;
}
