//! A node loses its link under steady connects: nobody waits for its pods but those that find out, and these for a second.

use std::{net::SocketAddr, time::Duration};

use tests::{
    Cluster, PodRef,
    cluster::node_network,
    pod::Dialling,
    traffic::{Report, now_us},
};

/// The node whose link is cut. Clients are on node 0, which outside clients enter, too.
const DEAD: usize = 1;
/// Connections that one after the other belong to one client.
const CLIENTS: usize = 6;
const PAUSE: Duration = Duration::from_millis(60);
const SLOW_US: u64 = 900_000;
const NODE_PORT: u16 = 30_080;

/// The pods of a Service, by their node.
type Pods = [&'static [&'static str]; 3];

const TWO: Pods = [&[], &["two-1"], &["two-2"]];
const THREE: Pods = [&["three-0"], &["three-1"], &["three-2"]];
const TEN: Pods = [
    &["ten-00", "ten-01", "ten-02"],
    &["ten-10", "ten-11", "ten-12", "ten-13"],
    &["ten-20", "ten-21", "ten-22"],
];

fn dead() -> impl Iterator<Item = &'static str> {
    [TWO, THREE, TEN].into_iter().flat_map(|pods| pods[DEAD].iter().copied())
}

/// What a kind of clients saw.
struct Seen {
    kind: &'static str,
    /// Start and end of each attempt, and whether a pod of the dead node answered it.
    spans: Vec<(u64, u64, bool)>,
}

impl Seen {
    fn of(kind: &'static str, report: &Report) -> Self {
        let failed: Vec<_> = report.failures.keys().filter(|what| what.starts_with("connect")).collect();
        assert!(failed.is_empty(), "{kind}: {:?} {:?}", report.failures, report.first_failures);
        // A connection that was open at the cut is lost with the node.
        assert!(report.failed() <= CLIENTS as u64, "{kind}: {:?}", report.failures);
        let spans = report.answers.iter().flat_map(|(name, answers)| {
            let is_dead = dead().any(|dead| dead == name);
            answers.spans_us.iter().map(move |(began, ended)| (*began, *ended, is_dead))
        });
        Self { kind, spans: spans.collect() }
    }

    fn slow_after(&self, began: u64) -> usize {
        self.spans.iter().filter(|span| span.0 >= began && span.1 - span.0 > SLOW_US).count()
    }

    fn longest(&self) -> u64 {
        self.spans.iter().map(|(began, ended, _)| ended - began).max().unwrap_or_default()
    }

    /// The share of the dead node's pods among the answers from a time on.
    fn share_after(&self, began: u64) -> f64 {
        let after: Vec<_> = self.spans.iter().filter(|span| span.0 >= began).collect();
        after.iter().filter(|span| span.2).count() as f64 / after.len().max(1) as f64
    }
}

#[tokio::test]
async fn a_dead_node_costs_each_client_a_second_at_most() {
    let cluster = Cluster::start("health-node").nodes(3).flag("--passive-health=on").await;
    for pods in [TWO, THREE, TEN] {
        for (node, pods) in pods.into_iter().enumerate() {
            for pod in pods {
                cluster.pod(pod).on(node).start().await;
            }
        }
    }
    let of = |name: &str, port, pods: Pods| {
        let service = cluster.service(name).tcp(80).node_port(port);
        service.backends(pods.into_iter().flatten().copied())
    };
    let two = of("two", NODE_PORT, TWO).await;
    let three = of("three", NODE_PORT + 1, THREE).await;
    let ten = of("ten", NODE_PORT + 2, TEN).await;
    let inside: Vec<_> = [&two, &three, &ten].into_iter().flat_map(|service| service.vips()).collect();
    let entry = node_network().host(11);
    let outside: Vec<_> =
        (0..3).flat_map(|at| entry.both().map(|address| (address, NODE_PORT + at).into())).collect();
    let begin = async |pod: PodRef<'_>, to: Vec<SocketAddr>| -> Dialling {
        let dials = pod.dials(to).at_once(CLIENTS).every(PAUSE).timeout_after(Duration::from_secs(6));
        dials.recorded().in_background().await
    };
    let dialling = [
        ("a seen pod", begin(cluster.pod("seen"), inside.clone()).await),
        ("an unseen pod", begin(cluster.pod("unseen").sandboxed_on(0), inside).await),
        ("an outside client", begin(cluster.client("far"), outside).await),
    ];
    for (kind, dialling) in &dialling {
        tests::eventually(&format!("{kind} reaches the node"), async || {
            let report = dialling.progress().await?;
            anyhow::ensure!(dead().all(|name| report.answered_by(name) > 0), "{:?}", report.answers.keys());
            Ok(())
        })
        .await;
    }
    let cut = now_us();
    cluster.cut(DEAD).await.expect("it is cut");
    tokio::time::sleep(Duration::from_secs(8)).await;
    let restored = now_us();
    cluster.restore(DEAD).await.expect("it is restored");
    tokio::time::sleep(Duration::from_secs(14)).await;
    for (kind, dialling) in dialling {
        let seen = Seen::of(kind, &dialling.stop().await.expect("a report"));
        let dead_backends = dead().count() * 2;
        let (all, late) = (seen.slow_after(cut), seen.slow_after(cut + 3_000_000));
        println!(
            "{}: {} attempts, {all} over a second, {late} of them begun 3 s after the cut, longest {} ms, share {:.2} before and {:.2} after",
            seen.kind,
            seen.spans.len(),
            seen.longest() / 1000,
            seen.share_after(0),
            seen.share_after(restored + 10_000_000)
        );
        assert!(seen.longest() < 3_500_000, "{kind}: {} us", seen.longest());
        assert!(all <= CLIENTS * dead_backends, "{kind}: {all} took over a second");
        // Trials: of each backend at 2 s, 4 s and 8 s after the last one.
        assert!(late <= 3 * dead_backends, "{kind}: {late} took over a second later");
        let (before, after) = (seen.share_after(0), seen.share_after(restored + 10_000_000));
        assert!(after > before / 2.0, "{kind}: the share of the node is {after}");
    }
}
