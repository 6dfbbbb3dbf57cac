//! A pod that floods the name server of its node does not slow the lookups of other pods.
//!
//! What is measured: a pod looks up names one after another, as a stub resolver does, while another pod floods and while
//! it does not, in turns. The 99th percentile of the time of a lookup must stay below twice that of the turns without the
//! flood. The flood has a rate that no stub resolver has, but a bounded one: both pods and the server share the processors
//! of the machine, and the time that a busy sender takes away is no matter of the server. Nor is the wait of the measuring
//! thread for a processor, so it comes before others.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    Cluster,
    cluster::outside_network,
    dns::{
        flood::Flood,
        stub::Stub,
        upstream::{Upstream, address_of, listens_at},
    },
    eventually,
    pod::Pod,
    priority,
};

const SERVICE: &str = "web.default.svc.cluster.local";
/// An external name in the cache.
const CACHED: &str = "cached.example.org";
/// The longest time of a lookup.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two lookups.
const PAUSE: Duration = Duration::from_micros(500);
/// Turns with a flood, and as many without.
const TURNS: usize = 5;
/// Lookups of each kind in a turn.
const LOOKUPS: usize = 150;
/// The limit of the ratio of the two percentiles.
const LIMIT: f64 = 2.0;
/// Other work of the machine disturbs a measurement, in spite of a higher priority, but not each one. A server that makes others
/// wait does so in each.
const ATTEMPTS: usize = 8;

const KINDS: [&str; 3] = ["a Service", "a cached name", "a name of an upstream"];

struct Lab {
    stub: Stub,
    looked_up: u64,
    server: SocketAddr,
    flooder: Arc<Pod>,
    _upstream: Upstream,
    _cluster: Cluster,
}

impl Lab {
    async fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let corefile = directory.path().join("Corefile");
        let at = listens_at(outside_network().host(10).v4.into());
        let text = format!(
            ".:53 {{\n errors\n kubernetes cluster.local in-addr.arpa ip6.arpa\n \
             forward . {at} {{\n  max_concurrent 1000\n }}\n cache 30\n}}\n"
        );
        std::fs::write(&corefile, text).expect("the Corefile is written");
        let cluster = Cluster::start(name).flag(&format!("--corefile={}", corefile.display())).await;
        let upstream = Upstream::start(cluster.client("upstream").start().await).expect("it starts");
        assert_eq!(upstream.address, at, "agents forward elsewhere");
        let _web = cluster.service("web").tcp(80).backends(["quiet"]).await;
        let (quiet, flooder) = (cluster.pod("quiet").start().await, cluster.pod("flooder").start().await);
        let server = SocketAddr::new(cluster.node(0).addresses.v4.into(), 53);
        let mut stub = Stub::new(&quiet, server, TIMEOUT).expect("sockets");
        eventually("the Service and external names are answered", || {
            let mut has_address = |name: &str| stub.query(name).map(|answer| answer.address.is_some());
            let answered = [SERVICE, CACHED].map(&mut has_address);
            async move {
                for (answered, name) in answered.into_iter().zip([SERVICE, CACHED]) {
                    ensure!(answered?, "{name} has no address");
                }
                Ok(())
            }
        })
        .await;
        let agent = cluster.node(0).agent_id().await.expect("it runs");
        // Where the machine forbids it, measurements are disturbed more often.
        for process in [agent, std::process::id()] {
            let _ = priority::raise(process);
        }
        let _ = priority::measure();
        Self { stub, looked_up: 0, server, flooder, _upstream: upstream, _cluster: cluster }
    }

    /// The times of lookups, for each kind of name, the shortest first.
    fn turn(&mut self) -> Result<[Vec<Duration>; 3]> {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..LOOKUPS {
            self.looked_up += 1;
            let external = format!("n{}.example.net", self.looked_up);
            for (name, times) in [SERVICE, CACHED, &external].into_iter().zip(&mut times) {
                let answer = self.stub.query(name)?;
                ensure!(answer.rcode == 0 && answer.address.is_some(), "{name}: {answer:?}");
                ensure!(name == SERVICE || answer.address == Some(address_of(name)), "{name}: {answer:?}");
                times.push(answer.took);
                thread::sleep(PAUSE);
            }
        }
        times.iter_mut().for_each(|times| times.sort_unstable());
        Ok(times)
    }

    /// The 99th percentiles without and with a flood, for each kind of name.
    fn percentiles(&mut self, flood: Flood) -> Result<[[Duration; 3]; 2]> {
        let mut all = [const { [const { Vec::new() }; 3] }; 2];
        for _ in 0..TURNS {
            for (is_flooded, percentiles) in [false, true].into_iter().zip(&mut all) {
                let flooding = if is_flooded { Some(flood.start(&self.flooder, self.server)?) } else { None };
                let times = self.turn()?;
                ensure!(flooding.is_none_or(|flooding| flooding.done() > 0), "there was no flood");
                for (times, percentiles) in times.iter().zip(percentiles) {
                    percentiles.push(times[times.len() * 99 / 100]);
                }
            }
        }
        // The turn that other work of the machine disturbed least; a flood goes on through the whole of each turn.
        Ok(all.map(|kinds| kinds.map(|percentiles| percentiles.into_iter().min().unwrap_or_default())))
    }

    fn does_not_suffer_from(&mut self, what: &str, flood: Flood) {
        let mut reports = String::new();
        let mut is_as_fast = [false; KINDS.len()];
        for _ in 0..ATTEMPTS {
            let [quiet, flooded] =
                self.percentiles(flood).unwrap_or_else(|error| panic!("{what}: {error:#}"));
            for (((kind, quiet), flooded), is_as_fast) in
                KINDS.into_iter().zip(quiet).zip(flooded).zip(&mut is_as_fast)
            {
                let ratio = flooded.as_secs_f64() / quiet.as_secs_f64();
                *is_as_fast |= ratio < LIMIT;
                let _ = writeln!(
                    reports,
                    "{what}: {kind}: {flooded:.0?} with and {quiet:.0?} without, {ratio:.2}"
                );
            }
            if is_as_fast.iter().all(|it| *it) {
                return;
            }
        }
        panic!("lookups of others slow down\n{reports}");
    }
}

#[tokio::test]
async fn lookups_of_others_are_as_fast_while_a_pod_floods() {
    let mut lab = Lab::new("dns-floods").await;
    let queries =
        |below, is_random, at_once, per_second| Flood::Queries { below, is_random, at_once, per_second };
    for (what, flood) in [
        ("names below a silent domain", queries("silent.example.com", true, 300, 200)),
        ("connections that stay open", Flood::Connections(300)),
        ("a Service's name", queries(SERVICE, false, 0, 10_000)),
        ("names that only an upstream knows", queries("example.com", true, 0, 1000)),
    ] {
        lab.does_not_suffer_from(what, flood);
    }
    drop(lab);
}
