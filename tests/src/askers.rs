//! Clients of the cluster's DNS Service that ask all the while, one of each kind, and what came of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cluster::Cluster,
    dials::only,
    name_service::{ELSEWHERE, HERE, Serving},
    objects::NAMESPACE,
    pod::Dialling,
    traffic::{Dial, How, Lookup, Report, WHO},
};

/// The ways in which resolvers ask.
pub const LOOKUPS: [How; 3] =
    [How::Lookup(Lookup::ConnectedUdp), How::Lookup(Lookup::UnconnectedUdp), How::Lookup(Lookup::Tcp)];
/// Who asks in which of them, and how many at a time.
const KINDS: [(&str, How, usize); 3] =
    [("glibc", LOOKUPS[0], 4), ("musl", LOOKUPS[1], 4), ("over-tcp", LOOKUPS[2], 1)];

/// Lookups of the C library, each of two questions, and plain questions beside them, together so many a second.
const LIBRARY: Crowd = Crowd { threads: 16, each_per_second: 125 };
const STREAM: Crowd = Crowd { threads: 16, each_per_second: 375 };
/// From the node itself, where no packet is seen.
const HOST: Crowd = Crowd { threads: 4, each_per_second: 25 };
pub const QUESTIONS: u64 = 2 * LIBRARY.per_second() + STREAM.per_second();

pub struct Askers {
    asking: Vec<(&'static str, Dialling)>,
    begun: Instant,
}

/// Threads that ask as often as this, if they get answers so soon.
struct Crowd {
    threads: usize,
    each_per_second: u64,
}

impl Crowd {
    const fn per_second(&self) -> u64 {
        self.threads as u64 * self.each_per_second
    }

    fn dial(&self, how: How) -> Dial {
        let pause_us = 1_000_000 / self.each_per_second;
        Dial { how, workers: self.threads, pause_us, ..Dial::default() }
    }
}

impl Askers {
    /// In pods of the first node.
    pub async fn start(cluster: &Cluster, serving: &Serving) -> Self {
        let mut asking = Vec::new();
        for (name, how, workers) in KINDS {
            let dials = cluster.pod(name).dials(serving.addresses()).how(how).at_once(workers);
            asking.push((name, dials.every(Duration::from_micros(500)).in_background().await));
        }
        Self { asking, begun: Instant::now() }
    }

    /// The same, and as many more as resolvers of a busy node: `QUESTIONS` a second, some of the node itself.
    pub async fn start_many(cluster: &Cluster, serving: &Serving) -> Result<Self> {
        let mut askers = Self::start(cluster, serving).await;
        let library = cluster.pod("library").start().await;
        library.resolve_by(NAMESPACE, serving.vip.v4.into(), cluster.directory()).await?;
        let dial = Dial { names: vec![WHO.to_owned()], ..LIBRARY.dial(How::Library) };
        askers.asking.push(("getaddrinfo", library.dial_on(dial).await?));
        let to = serving.addresses().to_vec();
        let stream = cluster.pod("stream").start().await;
        let dial = Dial { to: to.clone(), ..STREAM.dial(How::Stream) };
        askers.asking.push(("stream", stream.dial_on(dial).await?));
        let host = cluster.pod("host").on_host(0).start().await;
        let dial = Dial { to, ..HOST.dial(How::Stream) };
        askers.asking.push(("node", host.dial_on(dial).await?));
        Ok(askers)
    }

    pub async fn have_not_failed(&self) -> Result<()> {
        for (name, asking) in &self.asking {
            let progress = asking.progress().await?;
            ensure!(progress.failures.is_empty(), "{name}: {progress:?}");
        }
        Ok(())
    }

    /// Lets all come to their end: none failed, nobody else answered than these, and each of them did. What there is to
    /// tell of it.
    pub async fn end(self, who: &[&str]) -> Result<String> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let (mut lines, mut silent) = (Vec::new(), who.to_vec());
        for (name, asking) in self.asking {
            let report = asking.stop().await?;
            lines.push(told(name, &report, seconds));
            only(&report, who).with_context(|| format!("{name}: {report:?}"))?;
            silent.retain(|who| report.answered_by(who) == 0);
        }
        ensure!(silent.is_empty(), "{silent:?} never answered: {lines:#?}");
        Ok(lines.join("\n"))
    }
}

fn told(name: &str, report: &Report, seconds: f64) -> String {
    let (here, elsewhere) = (report.answered_by(HERE), report.answered_by(ELSEWHERE));
    format!(
        "{name}: {} lookups ({:.0}/s), {here} answered here, {elsewhere} elsewhere, {} failed, {} at the second try; \
         longest silence {:.1} ms, longest lookup {:.1} ms",
        report.attempts,
        report.attempts as f64 / seconds,
        report.failed(),
        report.slow,
        report.longest_silence_us as f64 / 1e3,
        f64::from(report.latency.max_us) / 1e3,
    )
}
