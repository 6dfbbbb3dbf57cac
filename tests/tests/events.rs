//! `portreeve events`: each kind of event with its reason and names, from programs to lines of output.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{
    Cluster,
    agent::portreeve,
    differential::{events_of_flows_that_end, events_while_someone_listens, lost_events},
    eventually, firewall,
    node::Node,
    traffic::{Family, How},
};

/// A running `portreeve events --follow -o json`, whose lines are gathered.
struct Listener {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

fn events(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(portreeve().expect("it is built"));
    command.arg("events").args(arguments).arg("--bpffs").arg(node.bpffs());
    command.arg("--run-dir").arg(node.setting().run_dir()).stdin(Stdio::null());
    command
}

impl Listener {
    /// Starts it. The programs write soon.
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let arguments = [&["--follow", "-o", "json"], arguments].concat();
        let mut child = events(node, &arguments).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("a pipe");
        let lines = Arc::<Mutex<Vec<Value>>>::default();
        let to = Arc::clone(&lines);
        thread::spawn(move || gather(stdout, &to));
        Self { child, lines }
    }

    fn all(&self) -> Vec<Value> {
        self.lines.lock().expect("no panic").clone()
    }

    /// Waits for an event with these fields; `cause` is repeated until then.
    async fn sees(&self, what: &str, fields: &[(&str, Value)], cause: impl AsyncFn()) -> Value {
        eventually(what, async || {
            cause().await;
            let is_met = |line: &Value| {
                fields.iter().all(|(path, want)| line.pointer(path).unwrap_or(&Value::Null) == want)
            };
            let lines = self.all();
            lines.iter().find(|line| is_met(line)).cloned().with_context(|| format!("none among {lines:#?}"))
        })
        .await
    }

    /// As Ctrl-C.
    fn interrupt(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        let status = self.child.wait()?;
        ensure!(status.code() == Some(0), "{status}");
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(stdout: ChildStdout, lines: &Mutex<Vec<Value>>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        lines.lock().expect("no panic").push(value);
    }
}

#[test]
fn programs_write_events_while_someone_listens() {
    events_while_someone_listens().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn events_without_room_are_counted() {
    lost_events().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn flows_that_make_room_or_move_are_reported() {
    events_of_flows_that_end().unwrap_or_else(|error| panic!("{error:#}"));
}

fn text(text: &str) -> Value {
    Value::from(text)
}

fn ip(to: SocketAddr) -> Value {
    Value::from(to.ip().to_string())
}

#[tokio::test]
async fn a_listener_sees_flows_with_names() {
    let cluster = Cluster::start("events").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let dns = cluster.service("dns").udp(53).backends(["a"]).await;
    // A pod with a name, as it is an endpoint.
    let _named = cluster.service("named").tcp(80).backends(["client"]).await;
    let client = cluster.pod("client").start().await;
    let node = cluster.node(0);
    let all = Listener::start(node, &[]);
    for (to, source) in web.vips().into_iter().zip(client.addresses.both()) {
        let dial = async || drop(cluster.pod("client").dials(to).times(1).report().await);
        let fields = [
            ("/verdict", text("forwarded")),
            ("/event", text("new_flow")),
            ("/service", text("default/web")),
            ("/plane", text("socket")),
            ("/destination/ip", ip(to)),
            ("/destination/port", to.port().into()),
            ("/source/ip", text(&source.to_string())),
            ("/source/pod", text("default/client")),
            ("/backend/pod", text("default/a")),
            ("/node", text(&node.name)),
        ];
        all.sees("a TCP connection", &fields, dial).await;
    }
    for how in [How::ConnectedUdp, How::UnconnectedUdp] {
        let dial = async || drop(cluster.pod("client").dials(dns.vip()).how(how).times(1).report().await);
        let hook = if how == How::ConnectedUdp { "connect" } else { "sendmsg" };
        let fields = [
            ("/event", text("new_flow")),
            ("/service", text("default/dns")),
            ("/hook", text(hook)),
            ("/protocol", text("UDP")),
            ("/backend/pod", text("default/a")),
        ];
        let event = all.sees("a datagram", &fields, dial).await;
        assert!(event["process"]["id"].as_u64().is_some_and(|id| id > 0), "{event}");
    }
    all.interrupt().expect("exit 0");
}

#[tokio::test]
async fn two_listeners_see_refusals_and_failures_by_their_filters() {
    let cluster = Cluster::start("refusals").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let empty = cluster.service("empty").tcp(80).unawaited().backends([]).await;
    let node = cluster.node(0);
    let refusals = Listener::start(node, &["--refused", "--service", "default/empty"]);
    let failures = Listener::start(node, &["--verdict", "failed", "-n", "default"]);
    let refused = [
        ("/verdict", text("refused")),
        ("/reason", text("no_endpoint")),
        ("/service", text("default/empty")),
        ("/plane", text("socket")),
    ];
    let dial = async || drop(cluster.pod("client").dials(empty.vip()).times(1).report().await);
    refusals.sees("a refused connect", &refused, dial).await;
    let refused = [
        ("/verdict", text("refused")),
        ("/reason", text("no_endpoint")),
        ("/plane", text("packet")),
        ("/hook", text("tc_ingress")),
        ("/destination/ip", ip(empty.vip())),
    ];
    let vm = cluster.pod("vm").sandboxed_on(0).start().await;
    let dial = async || drop(cluster.pod("vm").dials(empty.vip()).times(1).report().await);
    let event = refusals.sees("a refused packet", &refused, dial).await;
    assert_eq!(event["source"]["ip"], vm.addresses.v4.to_string(), "{event}");
    assert!(event["interface"].is_string(), "{event}");

    // A backend that refuses.
    let port = web.port(0).target;
    let rules = format!(
        "table inet t {{ chain input {{ type filter hook input priority 0; tcp dport {port} reject with tcp reset\n }}\n }}"
    );
    let backend = cluster.pod("a").start().await;
    firewall::filter(backend.netns(), &rules).expect("nft accepts it");
    let client = cluster.pod("client").start().await;
    let failed = [
        ("/event", text("connect_failed")),
        ("/reason", text("refused")),
        ("/service", text("default/web")),
        ("/backend/ip", text(&backend.addresses.v4.to_string())),
        ("/source/ip", text(&client.addresses.v4.to_string())),
    ];
    let dial = async || drop(cluster.pod("client").dials(web.vip()).times(1).report().await);
    let event = failures.sees("a failed connection", &failed, dial).await;
    assert!(event["duration_seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{event}");

    let is_other = |line: &Value| line["service"] != "default/empty" || line["verdict"] != "refused";
    assert!(!refusals.all().iter().any(is_other), "{:#?}", refusals.all());
    assert!(failures.all().iter().all(|line| line["verdict"] == "failed"), "{:#?}", failures.all());
}

#[tokio::test]
async fn an_unconnected_socket_that_moves_is_reported() {
    let cluster = Cluster::start("moved").await;
    let dns = cluster.service("dns").udp(53).backends(["a", "b"]).await;
    let client = cluster.pod("client").start().await;
    let all = Listener::start(cluster.node(0), &["--service", "dns"]);
    let dial = async || {
        drop(cluster.pod("client").dials(dns.vip()).how(How::UnconnectedUdp).times(1).report().await)
    };
    all.sees("a datagram", &[("/event", text("new_flow"))], dial).await;
    let socket = client.udp(Family::V4).await.expect("it opens");
    socket.send_to(dns.vip(), "who").await.expect("it is sent");
    let (_, answer) = socket.receive().await.expect("an answer");
    dns.remove(answer.split(' ').next().unwrap_or_default());
    let fields = [("/event", text("switched")), ("/reason", text("backend_removed"))];
    let send = async || {
        socket.send_to(dns.vip(), "who").await.expect("it is sent");
        drop(socket.receive().await);
    };
    all.sees("another backend", &fields, send).await;
}

/// An agent that ends takes its listeners along; the next one has its own.
#[tokio::test]
async fn listeners_end_with_their_agent() {
    let cluster = Cluster::start("ended").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    let mut listener = Listener::start(node, &[]);
    node.kill_agent().await.expect("it was running");
    let status = tokio::task::spawn_blocking(move || listener.child.wait()).await.expect("no panic");
    assert_eq!(status.expect("it ends").code(), Some(1), "it says that the agent has ended");
    let output = events(node, &["--seconds", "1"]).output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("no agent runs"), "{output:?}");
    assert_eq!(error.lines().count(), 1, "{error}");
    node.start_agent().await.expect("it starts");
    let listener = Listener::start(node, &[]);
    let dial = async || drop(cluster.pod("client").dials(web.vip()).times(1).report().await);
    listener.sees("a connection", &[("/event", Value::from("new_flow"))], dial).await;
}

#[tokio::test]
async fn without_follow_it_listens_for_some_seconds() {
    let cluster = Cluster::start("once").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    let dials = cluster.pod("client").dials(web.vip()).times(100).every(Duration::from_millis(100));
    let traffic = dials.in_background().await;
    let mut command = events(node, &["--seconds", "2", "--service", "web"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("it runs");
    traffic.stop().await.expect("it answers");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("TIME          VERDICT    SERVICE               FLOW"));
    let line = lines.next().unwrap_or_default();
    assert!(line.contains("forwarded  default/web") && line.contains(&web.vip().to_string()), "{text}");
}
