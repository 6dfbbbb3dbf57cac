//! Flows outlive what happens to backends and agents, and UDP follows the backends that are there.

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

const PATIENCE: Duration = Duration::from_millis(200);
const ONE_SECOND_US: u64 = 1_000_000;

/// A Service that a client outside reaches at the first node, with `a` there and `b` on the second one.
async fn web(cluster: &Cluster) -> (Service<'_>, Frontends) {
    let frontends = Frontends::new(0);
    cluster.send_to_node(frontends.routed(), 0).await.unwrap_or_else(|error| panic!("{error:#}"));
    cluster.pod("a").on(0).start().await;
    cluster.pod("b").on(1).start().await;
    let service = cluster.service("web").dialled_from_outside(frontends);
    (service.backends(["a", "b"]).await, frontends)
}

fn balancer(cluster: &Cluster, frontends: Frontends) -> [SocketAddr; 2] {
    frontends.dialled(Kind::LoadBalancer, cluster.node(0).addresses)
}

/// Asks without end over one socket.
async fn asking(client: PodRef<'_>, to: SocketAddr, how: How) -> Dialling {
    client.dials(to).how(how).every(Duration::from_millis(5)).giving_up_after(PATIENCE).in_background().await
}

/// A socket that asks again and again.
struct Asking {
    who: &'static str,
    how: How,
    to: SocketAddr,
    dialling: Dialling,
}

impl Asking {
    async fn answered_by(&self, name: &str) -> Result<()> {
        let report = self.dialling.progress().await?;
        ensure!(report.answered_by(name) > 0, "{} {:?} to {}: {report:?}", self.who, self.how, self.to);
        Ok(())
    }

    /// Why it did not move on from `a` to `b` within a second, with few answers lost on the way.
    async fn complaint(self, then: u64) -> Option<String> {
        let Self { who, how, to, dialling } = self;
        let report = dialling.stop().await.expect("it answers");
        let last = report.answers.get("a").map_or(0, |answers| answers.last_began_us);
        let lost_us = report.failed() * u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
        let what = if report.answered_by("b") == 0 {
            "never asks b"
        } else if last > then + ONE_SECOND_US {
            "goes on to ask a"
        } else if lost_us > ONE_SECOND_US {
            "loses too much"
        } else {
            return None;
        };
        Some(format!("{who} {how:?} to {to} {what}: {report:?}"))
    }
}

/// Everybody asks over one socket that stays; then the backend goes, whether its process goes on or not.
async fn udp_follows(name: &str, stops: bool) {
    let cluster = Cluster::start(name).nodes(2).await;
    let (web, frontends) = web(&cluster).await;
    web.list_only(|pod| pod == "a");
    let places = [
        ("outside", cluster.client("outside")),
        ("a pod", cluster.pod("pod").on(0)),
        ("a sandboxed pod", cluster.pod("vm").sandboxed_on(0)),
        ("a node", cluster.pod("host").on_host(1)),
    ];
    let mut everybody = Vec::new();
    for (who, place) in places {
        for how in [How::UnconnectedUdp, How::OneConnectedUdp] {
            for to in balancer(&cluster, frontends) {
                everybody.push(Asking { who, how, to, dialling: asking(place.clone(), to, how).await });
            }
        }
    }
    for asking in &everybody {
        eventually("a answers", async || asking.answered_by("a").await).await;
    }
    let then = now_us();
    web.list_only(|pod| pod == "b");
    if stops {
        cluster.pod("a").start().await.stop(Protocol::Udp, 8080).await.expect("it serves");
    }
    let mut complaints = Vec::new();
    for asking in everybody {
        // Who does not move on is told below, with the others.
        let _ = within(Duration::from_secs(2), "b answers", async || asking.answered_by("b").await).await;
        complaints.extend(asking.complaint(then).await);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test]
async fn one_udp_socket_follows_when_its_backend_is_taken_away() {
    udp_follows("udp-follows", false).await;
}

#[tokio::test]
async fn one_udp_socket_follows_when_its_backend_ends() {
    udp_follows("udp-follows-end", true).await;
}

/// Endpoints on their way out keep what they have and get nothing new; removed ones keep it as well.
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
async fn nobody_outside_notices_that_the_agent_is_killed() {
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
