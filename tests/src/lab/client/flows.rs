//! Tables of flows: all lines are dialled in parallel, and all failures are reported together.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;

use crate::lab::{
    client::dials::{each, only},
    eventually::scaled,
    pod::Pod,
    traffic::{Dial, How, Report},
};

/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Long enough to establish that no answer arrives.
const SILENCE: Duration = Duration::from_millis(300);
/// If a backend of two was never chosen in this number of fair draws, it was not a candidate.
const DRAWS: u64 = 24;

/// A line of the table.
#[derive(Debug, Clone)]
pub struct Flow {
    pub name: String,
    pub to: SocketAddr,
    pub how: How,
    pub expected: FlowResult,
}

#[derive(Debug, Clone)]
pub enum FlowResult {
    /// Each of these answers and no other server, and each sees the client under exactly this address.
    Reaches(BTreeMap<String, IpAddr>),
    /// Refused, without a timeout.
    Refused,
    /// No reply arrives.
    NoReply,
}

impl Flow {
    fn dial(&self) -> Dial {
        let (times, limit) = match &self.expected {
            FlowResult::Reaches(backends) if backends.len() > 1 => (DRAWS, TIMEOUT),
            FlowResult::Reaches(_) => (3, TIMEOUT),
            FlowResult::Refused => (2, SILENCE),
            FlowResult::NoReply => (1, SILENCE),
        };
        let timeout_ms = u64::try_from(scaled(limit).as_millis()).unwrap_or(u64::MAX);
        Dial { to: vec![self.to], times: Some(times), how: self.how, timeout_ms, ..Dial::default() }
    }

    async fn try_from(&self, client: &Pod) -> Result<()> {
        let whole = self.dial();
        if matches!(self.expected, FlowResult::Reaches(_)) {
            // A line that fails at once is reported without further waiting.
            let first = client.dial(Dial { times: Some(1), ..whole.clone() }).await?;
            ensure!(first.failed() == 0, "{:?}", first.first_failures);
        }
        let report = client.dial(whole).await?;
        self.check_report(&report)
            .with_context(|| format!("{:?} {:?}", report.answers, report.first_failures))
    }

    fn check_report(&self, report: &Report) -> Result<()> {
        match &self.expected {
            FlowResult::Reaches(backends) => reached(report, backends),
            FlowResult::Refused => all_failed(report, "ECONNREFUSED"),
            FlowResult::NoReply => all_failed(report, "timed out"),
        }
    }
}

/// Dials every flow from a pod. Panics with the failures.
pub async fn check(client: &Arc<Pod>, flows: Vec<Flow>) {
    assert!(!flows.is_empty(), "the table has no lines");
    let (count, mut dialling) = (flows.len(), JoinSet::new());
    for flow in flows {
        let client = Arc::clone(client);
        dialling.spawn(async move {
            let broken = flow.try_from(&client).await.err();
            broken.map(|error| format!("{}: to {} {:?}: {:?}", flow.name, flow.to, flow.how, error))
        });
    }
    let mut broken: Vec<String> = dialling.join_all().await.into_iter().flatten().collect();
    broken.sort();
    assert!(broken.is_empty(), "{} of {count} flows failed:\n{}", broken.len(), broken.join("\n"));
}

fn reached(report: &Report, backends: &BTreeMap<String, IpAddr>) -> Result<()> {
    let names: Vec<&str> = backends.keys().map(String::as_str).collect();
    only(report, &names)?;
    each(report, &names)?;
    for (name, source) in backends {
        let seen = report.answers.get(name).map(|answers| answers.sources.keys().collect::<Vec<_>>());
        ensure!(seen.as_deref() == Some(&[source]), "{name} saw the client as {seen:?}, not as {source}");
    }
    Ok(())
}

fn all_failed(report: &Report, how: &str) -> Result<()> {
    let failed: u64 =
        report.failures.iter().filter(|(what, _)| what.ends_with(how)).map(|(_, count)| count).sum();
    ensure!(failed == report.attempts && failed > 0, "{failed} of {} attempts {how}", report.attempts);
    Ok(())
}
