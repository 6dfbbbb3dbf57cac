//! Results of dialling, counted while it continues.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

/// Failures with a full description.
const FIRST_FAILURES: usize = 8;
/// Attempts with a recorded latency.
const LATENCIES: usize = 16_384;
const SLOW_US: u32 = 1_000_000;
/// Recorded failed tries.
const FAILED_TRIES: usize = 65_536;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    pub attempts: u64,
    /// By the name in the answer.
    pub answers: BTreeMap<String, Answers>,
    /// By step and error, as in `connect: ECONNREFUSED`.
    pub failures: BTreeMap<String, u64>,
    /// The first failures in full: target, time, and duration.
    pub first_failures: Vec<String>,
    /// Failed tries before the end of an attempt; in the final report only.
    #[serde(default)]
    pub failed_tries: Vec<FailedTry>,
    /// Results of `getpeername`, and their number.
    pub peers: BTreeMap<SocketAddr, u64>,
    pub latency: Latency,
    /// Attempts that succeeded after more than a second: a packet was lost.
    #[serde(default)]
    pub slow: u64,
    /// The longest time without a successful attempt.
    pub longest_silence_us: u64,
}

/// The answers of one server. Instants are those of `now_us`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    pub count: u64,
    /// The start of the last attempt that it answered.
    pub last_began_us: u64,
    /// The lowest and the highest generation in its answers.
    pub generations: (u64, u64),
    /// The clients' addresses as seen by this server, and their number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<IpAddr, u64>,
    /// Start and end of each attempt that it answered, if recording was requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans_us: Vec<(u64, u64)>,
}

/// One failed try of an attempt that continued with the next. Instants are those of `now_us`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailedTry {
    pub name: String,
    pub began_us: u64,
    pub ended_us: u64,
    /// Step and error.
    pub failure: String,
}

/// From the first packet to the whole answer, of the last successful attempts; the maximum, of all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub p50_us: u32,
    pub p99_us: u32,
    pub max_us: u32,
}

impl Report {
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub fn answered(&self) -> u64 {
        self.answers.values().map(|answers| answers.count).sum()
    }

    pub fn answered_by(&self, name: &str) -> u64 {
        self.answers.get(name).map_or(0, |answers| answers.count)
    }
}

/// A report in progress.
#[derive(Debug, Default)]
pub(super) struct Tally {
    report: Report,
    /// Of the last successful attempts, in a ring.
    latencies_us: Vec<u32>,
    longest_us: u32,
    /// The time of the last success.
    last_us: Option<u64>,
    /// Left out of the report until the end: a progress report should not contain a million numbers.
    spans_us: BTreeMap<String, Vec<(u64, u64)>>,
    recorded: bool,
    /// Left out likewise.
    failed_tries: Vec<FailedTry>,
}

/// The answer to one attempt.
#[derive(Debug)]
pub(super) struct Answered {
    pub name: String,
    pub generation: u64,
    pub peer: Option<SocketAddr>,
    /// The client's address as seen by the server, if it is in the answer.
    pub source: Option<SocketAddr>,
}

/// The failure of one attempt: the step and the error's name.
#[derive(Debug)]
pub(super) struct Failure(pub String);

impl Failure {
    pub fn at(step: &str) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self(format!("{step}: {}", error_name(&error)))
    }
}

impl Tally {
    pub fn recording(recorded: bool) -> Self {
        Self { recorded, ..Self::default() }
    }

    pub fn record(&mut self, to: impl Display, began_us: u64, outcome: Result<Answered, Failure>) {
        self.report.attempts += 1;
        match outcome {
            Ok(answered) => self.succeeded(began_us, answered),
            Err(failure) => self.failed(to, began_us, failure),
        }
    }

    pub fn tried(&mut self, failed_tries: Vec<FailedTry>) {
        let remaining = FAILED_TRIES.saturating_sub(self.failed_tries.len());
        self.failed_tries.extend(failed_tries.into_iter().take(remaining));
    }

    pub fn report(&self) -> Report {
        Report { latency: self.latency(), ..self.report.clone() }
    }

    /// With the recorded spans and tries.
    pub fn whole_report(&mut self) -> Report {
        let mut report = self.report();
        for (name, spans_us) in std::mem::take(&mut self.spans_us) {
            report.answers.entry(name).or_default().spans_us = spans_us;
        }
        report.failed_tries = std::mem::take(&mut self.failed_tries);
        report
    }

    fn latency(&self) -> Latency {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let index = sorted.len().saturating_sub(1) * percent / 100;
            sorted.get(index).copied().unwrap_or_default()
        };
        Latency { p50_us: at(50), p99_us: at(99), max_us: self.longest_us }
    }

    fn record_latency(&mut self, latency_us: u32) {
        self.longest_us = self.longest_us.max(latency_us);
        self.report.slow += u64::from(latency_us > SLOW_US);
        let index = usize::try_from(self.report.attempts).unwrap_or_default() % LATENCIES;
        match self.latencies_us.get_mut(index) {
            Some(oldest) => *oldest = latency_us,
            None => self.latencies_us.push(latency_us),
        }
    }

    fn failed(&mut self, to: impl Display, began_us: u64, Failure(what): Failure) {
        if self.report.first_failures.len() < FIRST_FAILURES {
            let took = now_us().saturating_sub(began_us);
            self.report.first_failures.push(format!("{to} at {began_us} us for {took} us: {what}"));
        }
        *self.report.failures.entry(what).or_default() += 1;
    }

    fn succeeded(&mut self, began_us: u64, answered: Answered) {
        if self.recorded {
            let span = (began_us, now_us());
            self.spans_us.entry(answered.name.clone()).or_default().push(span);
        }
        let answers = self.report.answers.entry(answered.name).or_insert_with(|| Answers {
            generations: (answered.generation, answered.generation),
            ..Answers::default()
        });
        answers.count += 1;
        answers.last_began_us = answers.last_began_us.max(began_us);
        answers.generations.0 = answers.generations.0.min(answered.generation);
        answers.generations.1 = answers.generations.1.max(answered.generation);
        if let Some(source) = answered.source {
            *answers.sources.entry(source.ip()).or_default() += 1;
        }
        if let Some(peer) = answered.peer {
            *self.report.peers.entry(peer).or_default() += 1;
        }
        let now = now_us();
        let silence = self.last_us.replace(now).map_or(0, |last| now.saturating_sub(last));
        self.report.longest_silence_us = self.report.longest_silence_us.max(silence);
        self.record_latency(u32::try_from(now.saturating_sub(began_us)).unwrap_or(u32::MAX));
    }
}

/// Microseconds of the machine's monotonic clock: the same in every process.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// `ECONNREFUSED` instead of a message that differs between libraries.
pub(super) fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{:?}", Errno::from_raw(code)),
        None => format!("{:?}", error.kind()),
    }
}
