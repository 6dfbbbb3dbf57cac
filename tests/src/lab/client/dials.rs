//! `cluster.pod("client").dials(web.vip()).times(10).always_reaches_one_of(["a", "b"]).await`

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Result, ensure};

use crate::lab::{
    cluster::{Cluster, Placement},
    eventually::eventually,
    pod::{Dialling, Pod},
    traffic::{Dial, How, Report},
};

/// Addresses to dial: one, or several in turn.
pub trait Targets {
    fn addresses(self) -> Vec<SocketAddr>;
}

impl Targets for SocketAddr {
    fn addresses(self) -> Vec<SocketAddr> {
        vec![self]
    }
}

impl<const N: usize> Targets for [SocketAddr; N] {
    fn addresses(self) -> Vec<SocketAddr> {
        self.into()
    }
}

impl Targets for Vec<SocketAddr> {
    fn addresses(self) -> Vec<SocketAddr> {
        self
    }
}

/// A pod that may not exist yet.
#[derive(Clone)]
pub struct PodRef<'a> {
    cluster: &'a Cluster,
    name: String,
    placement: Placement,
}

impl<'a> PodRef<'a> {
    /// On the node with this index.
    pub fn on(self, node: usize) -> Self {
        Self { placement: Placement::Node(node), ..self }
    }

    /// In the network namespace of the node with this index, as pods with `hostNetwork`.
    pub fn on_host(self, node: usize) -> Self {
        Self { placement: Placement::Host(node), ..self }
    }

    /// On the node with this index, where no program sees its sockets.
    pub fn sandboxed_on(self, node: usize) -> Self {
        Self { placement: Placement::Sandbox(node), ..self }
    }

    pub async fn start(&self) -> Arc<Pod> {
        let pod = self.cluster.ensure_pod(&self.name, self.placement, None).await;
        pod.unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub fn dials(self, to: impl Targets) -> Dials<'a> {
        Dials::new(self, to.addresses())
    }
}

impl Cluster {
    /// A pod by name. It is created at its first use, on the first node by default.
    pub fn pod<'a>(&'a self, name: &str) -> PodRef<'a> {
        PodRef { cluster: self, name: name.to_owned(), placement: Placement::Node(0) }
    }

    /// A client outside the cluster.
    pub fn client<'a>(&'a self, name: &str) -> PodRef<'a> {
        PodRef { cluster: self, name: name.to_owned(), placement: Placement::Outside }
    }
}

/// Connections to make.
#[must_use = "nothing is dialled before a result is requested"]
pub struct Dials<'a> {
    pod: PodRef<'a>,
    dial: Dial,
}

impl<'a> Dials<'a> {
    fn new(pod: PodRef<'a>, to: Vec<SocketAddr>) -> Self {
        Self { pod, dial: Dial { to, times: Some(1), ..Dial::default() } }
    }

    pub fn times(self, times: u64) -> Self {
        self.with(|dial| dial.times = Some(times))
    }

    /// Number of connections at a time.
    pub fn at_once(self, workers: usize) -> Self {
        self.with(|dial| dial.workers = workers)
    }

    pub fn how(self, how: How) -> Self {
        self.with(|dial| dial.how = how)
    }

    /// TCP connections have this source address and port.
    pub fn from(self, from: SocketAddr) -> Self {
        self.with(|dial| dial.from = Some(from))
    }

    /// A pause between two connections.
    pub fn every(self, pause: Duration) -> Self {
        self.with(|dial| dial.pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX))
    }

    pub fn timeout_after(self, timeout: Duration) -> Self {
        self.with(|dial| dial.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
    }

    /// Records the start and end of each attempt.
    pub fn recorded(self) -> Self {
        self.with(|dial| dial.recorded = true)
    }

    pub async fn report(&self) -> Report {
        let report = self.pod.start().await.dial(self.dial.clone()).await;
        report.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Continues until it is stopped.
    pub async fn in_background(self) -> Dialling {
        let pod: Arc<Pod> = self.pod.start().await;
        pod.dial_in_background(self.dial).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// No attempt fails, and only these answer; the choice among them is random.
    pub async fn always_reaches_one_of<const N: usize>(&self, names: [&str; N]) -> Report {
        self.expect(|report| only(report, &names)).await
    }

    /// No attempt fails, each of these answers, and no other server.
    pub async fn reaches_each_of<const N: usize>(&self, names: [&str; N]) -> Report {
        self.expect(|report| only(report, &names).and_then(|()| each(report, &names))).await
    }

    /// Every attempt is refused, without a timeout.
    pub async fn is_refused(&self) -> Report {
        self.expect(all_refused).await
    }

    /// Retries until a whole round reaches each of these and no other server.
    pub async fn comes_to_reach_each_of<const N: usize>(&self, names: [&str; N]) -> Report {
        self.await_round(&format!("each of {names:?} answers"), |report| {
            only(report, &names).and_then(|()| each(report, &names))
        })
        .await
    }

    /// Retries until a whole round is refused.
    pub async fn comes_to_be_refused(&self) -> Report {
        self.await_round("every attempt is refused", all_refused).await
    }

    async fn expect(&self, condition: impl Fn(&Report) -> Result<()>) -> Report {
        let report = self.report().await;
        if let Err(error) = condition(&report) {
            panic!("{error:#}\ndialled: {:?}\n{report:#?}", self.dial.to);
        }
        report
    }

    async fn await_round(&self, what: &str, condition: impl Fn(&Report) -> Result<()>) -> Report {
        eventually(what, async || {
            let report = self.report().await;
            condition(&report).map_err(|error| error.context(format!("{report:?}")))?;
            Ok(report)
        })
        .await
    }

    fn with(mut self, change: impl FnOnce(&mut Dial)) -> Self {
        change(&mut self.dial);
        self
    }
}

/// Errors: an attempt failed, or another server answered.
pub fn only(report: &Report, names: &[&str]) -> Result<()> {
    ensure!(report.failures.is_empty(), "attempts failed: {:?}", report.failures);
    let other = report.answers.keys().find(|name| !names.contains(&name.as_str()));
    ensure!(
        other.is_none(),
        "{} answered, which is not in {names:?}",
        other.map_or("no server", |name| name)
    );
    ensure!(report.attempts > 0, "no attempt was made");
    Ok(())
}

pub fn each(report: &Report, names: &[&str]) -> Result<()> {
    let silent: Vec<_> = names.iter().filter(|name| report.answered_by(name) == 0).collect();
    ensure!(silent.is_empty(), "{silent:?} never answered");
    Ok(())
}

fn all_refused(report: &Report) -> Result<()> {
    let refused = report.failures.get("connect: ECONNREFUSED").copied().unwrap_or_default();
    ensure!(refused == report.attempts, "{refused} of {} attempts were refused", report.attempts);
    Ok(())
}
