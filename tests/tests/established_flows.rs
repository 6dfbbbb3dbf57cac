//! Established flows survive changes of backends and agents; UDP flows move to the present backends.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    Cluster, PodRef,
    eventually::{eventually, within},
    frontends::{Frontends, Kind},
    objects::Condition,
    pod::Dialling,
    service::Service,
    traffic::{How, Protocol, now_us},
};

const TIMEOUT: Duration = Duration::from_millis(200);
const ONE_SECOND_US: u64 = 1_000_000;

/// A Service for clients outside, who dial the first node; `a` is on the first node and `b` on the second.
async fn web(cluster: &Cluster) -> (Service<'_>, Frontends) {
    let frontends = Frontends::new(0);
    cluster.route_to_node(frontends.routed(), 0).await.unwrap_or_else(|error| panic!("{error:#}"));
    cluster.pod("a").on(0).start().await;
    cluster.pod("b").on(1).start().await;
    let service = cluster.service("web").external_frontends(frontends);
    (service.backends(["a", "b"]).await, frontends)
}

fn balancer(cluster: &Cluster, frontends: Frontends) -> [SocketAddr; 2] {
    frontends.dialled(Kind::LoadBalancer, cluster.node(0).addresses)
}

/// Sends requests over one socket until stopped.
async fn sending(client: PodRef<'_>, to: SocketAddr, how: How) -> Dialling {
    client.dials(to).how(how).every(Duration::from_millis(5)).timeout_after(TIMEOUT).in_background().await
}

/// A socket that sends requests until stopped.
struct Sender {
    client: &'static str,
    how: How,
    to: SocketAddr,
    dialling: Dialling,
    /// Failures before the change.
    failed: u64,
}

impl Sender {
    async fn answered_by(&self, name: &str) -> Result<()> {
        let report = self.dialling.progress().await?;
        ensure!(report.answered_by(name) > 0, "{} {:?} to {}: {report:?}", self.client, self.how, self.to);
        Ok(())
    }

    /// The problem, if it did not move from `a` to `b` within a second with few lost answers.
    async fn problem(self, then: u64) -> Option<String> {
        let Self { client, how, to, dialling, failed } = self;
        let report = dialling.stop().await.expect("it answers");
        let last = report.answers.get("a").map_or(0, |answers| answers.last_began_us);
        let lost_us = (report.failed() - failed) * u64::try_from(TIMEOUT.as_micros()).unwrap_or(u64::MAX);
        let problem = if report.answered_by("b") == 0 {
            "never reaches b"
        } else if last > then + ONE_SECOND_US {
            "stays with a"
        } else if lost_us > ONE_SECOND_US {
            "loses too many answers"
        } else {
            return None;
        };
        Some(format!("{client} {how:?} to {to} {problem}: {report:?}"))
    }
}

/// Each client keeps one socket; then its backend is removed, with or without the end of its process.
async fn udp_flows_move(name: &str, stops: bool) {
    let cluster = Cluster::start(name).nodes(2).await;
    let (web, frontends) = web(&cluster).await;
    web.list_only(|pod| pod == "a");
    let clients = [
        ("outside", cluster.client("outside")),
        ("a pod", cluster.pod("pod").on(0)),
        ("a sandboxed pod", cluster.pod("vm").sandboxed_on(0)),
        ("a node", cluster.pod("host").on_host(1)),
    ];
    let mut senders = Vec::new();
    for (client, pod) in clients {
        for how in [How::UnconnectedUdp, How::OneConnectedUdp] {
            for to in balancer(&cluster, frontends) {
                senders.push(Sender {
                    client,
                    how,
                    to,
                    dialling: sending(pod.clone(), to, how).await,
                    failed: 0,
                });
            }
        }
    }
    for sender in &senders {
        eventually("a answers", async || sender.answered_by("a").await).await;
    }
    for sender in &mut senders {
        sender.failed = sender.dialling.progress().await.expect("it answers").failed();
    }
    let then = now_us();
    web.list_only(|pod| pod == "b");
    if stops {
        cluster.pod("a").start().await.stop(Protocol::Udp, 8080).await.expect("it serves");
    }
    let mut problems = Vec::new();
    for sender in senders {
        // A client that does not move is reported below, with the others.
        let _ = within(Duration::from_secs(2), "b answers", async || sender.answered_by("b").await).await;
        problems.extend(sender.problem(then).await);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test]
async fn a_udp_flow_moves_when_its_backend_is_removed() {
    udp_flows_move("udp-follows", false).await;
}

#[tokio::test]
async fn a_udp_flow_moves_when_its_backend_ends() {
    udp_flows_move("udp-follows-end", true).await;
}

/// Terminating endpoints keep their connections and get no new ones; so do removed endpoints.
#[tokio::test]
async fn tcp_to_a_terminating_backend_finishes_undisturbed() {
    let cluster = Cluster::start("terminating-outside").nodes(2).await;
    let (web, frontends) = web(&cluster).await;
    let to = balancer(&cluster, frontends);
    let mut held = Vec::new();
    for client in [cluster.client("outside"), cluster.pod("vm").sandboxed_on(0)] {
        let pod = client.start().await;
        let (connections, report) = pod.hold(to.into(), 40).await.expect("it opens");
        assert_eq!((report.answered(), report.answers.len()), (40, 2), "{report:?}");
        held.push((client, pod, connections));
    }
    web.set("a", Condition::Terminating);
    for (client, ..) in &held {
        client.clone().dials(to).times(24).comes_to_reach_each_of(["b"]).await;
    }
    for step in ["terminating", "gone", "removed"] {
        match step {
            "gone" => web.set("a", Condition::Gone),
            "removed" => web.remove("a"),
            _ => {}
        }
        for (client, pod, connections) in &held {
            client.clone().dials(to).times(12).comes_to_reach_each_of(["b"]).await;
            let echoes = pod.echo(*connections).await.expect("it answers");
            assert_eq!(
                (echoes.answered(), echoes.failed()),
                (40, 0),
                "{step} {}: {:?}",
                pod.name,
                echoes.failures
            );
        }
    }
    web.delete();
    for (_, pod, connections) in &held {
        let echoes = pod.echo(*connections).await.expect("it answers");
        assert_eq!(echoes.failed(), 0, "without the Service: {:?}", echoes.failures);
    }
}

#[tokio::test]
async fn clients_outside_are_not_disturbed_by_a_killed_agent() {
    let cluster = Cluster::start("killed-outside").nodes(2).await;
    let (_web, frontends) = web(&cluster).await;
    let to = balancer(&cluster, frontends);
    let mut clients = Vec::new();
    for (number, client) in
        [cluster.client("outside"), cluster.pod("vm").sandboxed_on(0)].into_iter().enumerate()
    {
        let (connections, report) = client.start().await.hold(to.into(), 40).await.expect("it opens");
        assert_eq!(report.failed(), 0, "{number}: {report:?}");
        let dials = client.clone().dials(to.to_vec()).at_once(2).every(Duration::from_millis(2));
        clients.push((client.start().await, connections, dials.in_background().await));
    }
    for agent_runs in [false, true] {
        if agent_runs {
            cluster.node(0).start_agent().await.expect("it starts");
        } else {
            cluster.node(0).kill_agent().await.expect("it runs");
        }
        for (pod, connections, dialling) in &clients {
            let before = dialling.progress().await.expect("it answers").attempts;
            eventually("two hundred more connections", async || {
                let attempts = dialling.progress().await?.attempts;
                ensure!(attempts > before + 200, "{attempts}");
                Ok(())
            })
            .await;
            let echoes = pod.echo(*connections).await.expect("it answers");
            assert_eq!((echoes.answered(), echoes.failed()), (40, 0), "{}: {:?}", pod.name, echoes.failures);
        }
    }
    for (pod, _, dialling) in clients {
        let report = dialling.stop().await.expect("it answers");
        assert!(report.failures.is_empty(), "{}: {report:?}", pod.name);
    }
}
