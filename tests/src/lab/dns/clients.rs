//! Continuous clients of the cluster's DNS Service, one of each resolver, and their results.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::lab::{
    client::dials::only,
    cluster::Cluster,
    dns::name_service::{DnsService, ENDPOINT_ANSWER, NODE_ANSWER},
    objects::NAMESPACE,
    pod::Dialling,
    traffic::{Dial, How, IDENTITY_NAME, Lookup, Report},
};

/// The query patterns of resolvers.
pub const LOOKUPS: [How; 3] =
    [How::Lookup(Lookup::ConnectedUdp), How::Lookup(Lookup::UnconnectedUdp), How::Lookup(Lookup::Tcp)];
const LIBRARY_NAME: &str = "getaddrinfo";
/// The clients with each pattern, and their number of workers.
const KINDS: [(&str, How, usize); 3] =
    [("glibc", LOOKUPS[0], 4), ("musl", LOOKUPS[1], 4), ("over-tcp", LOOKUPS[2], 1)];

/// Lookups of the C library, each of two queries, and single queries beside them: 10,000 queries per second, if
/// the machine can send them. There are more clients than queries lost by the death of a server, so that a
/// silence is caused by the server and not by waiting clients.
const LIBRARY: ClientGroup = ClientGroup { threads: 100, each_per_second: 20 };
const STREAM: ClientGroup = ClientGroup { threads: 150, each_per_second: 40 };
/// From the node itself, where the packet plane is not involved.
const HOST: ClientGroup = ClientGroup { threads: 4, each_per_second: 25 };

pub struct DnsClients {
    dialling: Vec<(&'static str, Dialling)>,
    started: Instant,
}

/// Threads, and the rate of each as long as answers arrive in time.
struct ClientGroup {
    threads: usize,
    each_per_second: u64,
}

impl ClientGroup {
    fn dial(&self, how: How) -> Dial {
        let pause_us = 1_000_000 / self.each_per_second;
        Dial { how, workers: self.threads, pause_us, ..Dial::default() }
    }
}

impl DnsClients {
    /// Starts clients in pods of the first node.
    pub async fn start(cluster: &Cluster, serving: &DnsService) -> Self {
        let mut dialling = Vec::new();
        for (name, how, workers) in KINDS {
            let dials = cluster.pod(name).dials(serving.addresses()).how(how).at_once(workers);
            dialling.push((name, dials.every(Duration::from_micros(500)).in_background().await));
        }
        Self { dialling, started: Instant::now() }
    }

    /// The same, and the resolvers of a busy node in addition, some of them in the node's network namespace.
    pub async fn start_many(cluster: &Cluster, serving: &DnsService) -> Result<Self> {
        let mut clients = Self::start(cluster, serving).await;
        let library = cluster.pod("library").start().await;
        library.resolve_by(NAMESPACE, serving.vip.v4.into(), cluster.directory()).await?;
        let dial = Dial { names: vec![IDENTITY_NAME.to_owned()], ..LIBRARY.dial(How::Library) };
        clients.dialling.push((LIBRARY_NAME, library.dial_in_background(dial).await?));
        let to = serving.addresses().to_vec();
        let stream = cluster.pod("stream").start().await;
        let dial = Dial { to: to.clone(), ..STREAM.dial(How::Stream) };
        clients.dialling.push(("stream", stream.dial_in_background(dial).await?));
        let host = cluster.pod("host").on_host(0).start().await;
        let dial = Dial { to, ..HOST.dial(How::Stream) };
        clients.dialling.push(("node", host.dial_in_background(dial).await?));
        Ok(clients)
    }

    pub async fn have_not_failed(&self) -> Result<()> {
        for (name, dialling) in &self.dialling {
            let progress = dialling.progress().await?;
            ensure!(progress.failures.is_empty(), "{name}: {progress:?}");
        }
        Ok(())
    }

    /// The number of lookups that a server has answered, for each client.
    pub async fn answered_by(&self, server: &str) -> Result<Vec<u64>> {
        let mut counts = Vec::new();
        for (_, dialling) in &self.dialling {
            counts.push(dialling.progress().await?.answered_by(server));
        }
        Ok(counts)
    }

    /// Stops all clients. Errors: a lookup failed, another server answered, or one of these did not. Returns a
    /// summary.
    pub async fn end(self, servers: &[&str]) -> Result<String> {
        let (mut lines, mut silent, mut rate) = (Vec::new(), servers.to_vec(), 0.0);
        for (name, dialling) in self.dialling {
            let report = dialling.stop().await?;
            // Stopped one after another: the others continue while a last lookup waits for its second try.
            let lookups = report.attempts as f64 / self.started.elapsed().as_secs_f64();
            rate += lookups * if name == LIBRARY_NAME { 2.0 } else { 1.0 };
            lines.push(summary(name, &report, lookups));
            only(&report, servers).with_context(|| format!("{name}: {report:?}"))?;
            silent.retain(|server| report.answered_by(server) == 0);
        }
        ensure!(silent.is_empty(), "{silent:?} never answered: {lines:#?}");
        lines.push(format!("together: {rate:.0} queries/s, second tries not counted"));
        Ok(lines.join("\n"))
    }
}

fn summary(name: &str, report: &Report, per_second: f64) -> String {
    let (nodes, endpoint) = (report.answered_by(NODE_ANSWER), report.answered_by(ENDPOINT_ANSWER));
    format!(
        "{name}: {} lookups ({per_second:.0}/s), {nodes} answered by nodes, {endpoint} by the endpoint, {} failed, {} at the second try; \
         longest silence {:.1} ms, longest lookup {:.1} ms",
        report.attempts,
        report.failed(),
        report.slow,
        report.longest_silence_us as f64 / 1e3,
        f64::from(report.latency.max_us) / 1e3,
    )
}
