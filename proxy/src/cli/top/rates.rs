//! From two readings to rates. Pure.
//!
//! A rate is known only between two readings of the same thing: an id that was given to another Service or backend (another
//! generation), or a counter that went back, begins anew and has none for one interval, rather than a negative or an absurd one.

use std::{collections::BTreeMap, net::SocketAddr};

use proxy_ebpf::abi::{BackendConnections, CONNECT_BOUNDS, ConnectFailure, DropReason, ServiceConnections};
use serde::{Serialize, Serializer};

use super::reading::{BackendId, BackendReading, Reading, ServiceReading};
use crate::{
    cli::get::{connection_counts::is_unanswered, labels::ServicePort},
    model::address::Protocol,
};

const NANOSECONDS: f64 = 1e9;
const MICROSECONDS: f64 = 1e6;

/// The rows of all views that counters tell of.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// 0: there is one reading only.
    pub interval_seconds: f64,
    pub services: Vec<ServiceRow>,
    pub backends: Vec<BackendRow>,
    pub refusals: Vec<RefusalRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceRow {
    #[serde(skip)]
    pub id: u32,
    #[serde(flatten)]
    pub name: ServicePort,
    #[serde(serialize_with = "text")]
    pub protocol: Protocol,
    pub connections_per_second: Option<f64>,
    pub refused_per_second: Option<f64>,
    pub opened_per_second: Option<f64>,
    #[serde(flatten)]
    pub tcp: TcpRates,
    /// Time to connect of 99 in 100 connections of the interval; `None` if there was none.
    #[serde(flatten, serialize_with = "bounds")]
    pub connect_p99: Option<Bounds>,
    /// Mean of the connections that closed in the interval.
    pub round_trip_seconds: Option<f64>,
    pub open: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendRow {
    #[serde(skip)]
    pub service_id: u32,
    #[serde(flatten)]
    pub name: ServicePort,
    #[serde(serialize_with = "text")]
    pub protocol: Protocol,
    pub address: SocketAddr,
    pub state: &'static str,
    /// Of the connections that sockets opened to the service port since the first reading: 0 to 1; `None` if there is none.
    pub share: Option<f64>,
    pub opened_per_second: Option<f64>,
    #[serde(flatten)]
    pub tcp: TcpRates,
    /// Smoothed over the latest connections that closed.
    pub round_trip_seconds: Option<f64>,
    pub open: u64,
}

/// What service ports and backends have in common.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TcpRates {
    pub failures_per_second: Option<f64>,
    /// Failures in the interval by reason, in the order of `ConnectFailure`.
    #[serde(serialize_with = "by_reason")]
    pub failures: Option<[u64; ConnectFailure::ALL.len()]>,
    pub sent_bytes_per_second: Option<f64>,
    pub received_bytes_per_second: Option<f64>,
    pub retransmissions_per_second: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefusalRow {
    #[serde(serialize_with = "name")]
    pub reason: DropReason,
    /// Since the first reading.
    pub count: u64,
    pub per_second: Option<f64>,
}

/// The bucket that holds a quantile, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub above: u64,
    /// `None`: the last bucket.
    pub at_most: Option<u64>,
}

fn by_reason<S: Serializer>(
    failures: &Option<[u64; ConnectFailure::ALL.len()]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let named = |failures: [u64; _]| ConnectFailure::ALL.into_iter().map(ConnectFailure::name).zip(failures);
    failures.map(|failures| named(failures).collect::<BTreeMap<_, _>>()).serialize(serializer)
}

fn text<S: Serializer>(protocol: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(protocol)
}

fn name<S: Serializer>(reason: &DropReason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.name())
}

fn bounds<S: Serializer>(bounds: &Option<Bounds>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        connect_p99_above_seconds: Option<f64>,
        connect_p99_at_most_seconds: Option<f64>,
    }
    let seconds = |bound: u64| bound as f64 / NANOSECONDS;
    let connect_p99_above_seconds = bounds.map(|bounds| seconds(bounds.above));
    let connect_p99_at_most_seconds = bounds.and_then(|bounds| bounds.at_most).map(seconds);
    Fields { connect_p99_above_seconds, connect_p99_at_most_seconds }.serialize(serializer)
}

impl Rates {
    /// The rates since the reading before, if there is one; shares and counts since the first. Of the backends only those of
    /// these services: there may be many.
    pub fn between(
        first: &Reading,
        before: Option<&Reading>,
        now: &Reading,
        has_backends: impl Fn(u32) -> bool,
    ) -> Self {
        let elapsed = before.map(|before| now.at.saturating_sub(before.at).as_secs_f64());
        let interval = Interval { before, seconds: elapsed.unwrap_or_default() };
        let shares = Shares::new(first, now);
        let backends = now.backends.iter().filter(|(_, backend)| has_backends(backend.service));
        let backends = backends.filter_map(|(id, backend)| {
            let service = now.services.get(&backend.service)?;
            Some(interval.backend(*id, backend, service, shares.of(*id, backend)))
        });
        Self {
            interval_seconds: interval.seconds,
            services: now.services.iter().map(|(id, service)| interval.service(*id, service)).collect(),
            backends: backends.collect(),
            refusals: interval.refusals(first, now),
        }
    }
}

/// The time since the reading before.
struct Interval<'a> {
    before: Option<&'a Reading>,
    seconds: f64,
}

impl Interval<'_> {
    /// The rate of a counter; `None` if it went back.
    fn rate(&self, before: u64, now: u64) -> Option<f64> {
        let count = now.checked_sub(before)?;
        (self.seconds > 0.0).then(|| count as f64 / self.seconds)
    }

    fn service(&self, id: u32, now: &ServiceReading) -> ServiceRow {
        let before = self.before.and_then(|before| before.services.get(&id));
        let before = before.filter(|before| before.tcp.generation == now.tcp.generation);
        let rate = |of: fn(&ServiceReading) -> u64| before.and_then(|before| self.rate(of(before), of(now)));
        ServiceRow {
            id,
            name: now.name.clone(),
            protocol: now.protocol,
            connections_per_second: rate(|service| service.stats.translated),
            refused_per_second: rate(|service| service.stats.refused),
            opened_per_second: rate(|service| service.tcp.opened()),
            tcp: self.tcp(before.map(|before| Counts::of_service(&before.tcp)), Counts::of_service(&now.tcp)),
            connect_p99: before.and_then(|before| p99(&before.tcp, &now.tcp)),
            round_trip_seconds: before.and_then(|before| round_trip(&before.tcp, &now.tcp)),
            open: now.tcp.open(),
        }
    }

    fn backend(
        &self,
        id: BackendId,
        now: &BackendReading,
        service: &ServiceReading,
        share: Option<f64>,
    ) -> BackendRow {
        let before = self.before.and_then(|before| before.backends.get(&id));
        let before = before.filter(|before| before.is_same(now));
        BackendRow {
            service_id: now.service,
            name: service.name.clone(),
            protocol: service.protocol,
            address: now.address,
            state: state(before, now),
            share,
            opened_per_second: before.and_then(|before| self.rate(before.tcp.opened, now.tcp.opened)),
            tcp: self.tcp(before.map(|before| Counts::of_backend(&before.tcp)), Counts::of_backend(&now.tcp)),
            round_trip_seconds: Some(f64::from(now.tcp.round_trip) / MICROSECONDS)
                .filter(|seconds| *seconds > 0.0),
            open: now.tcp.open(),
        }
    }

    fn tcp(&self, before: Option<Counts>, now: Counts) -> TcpRates {
        let Some(before) = before else { return TcpRates::default() };
        let failures: Option<Vec<u64>> = now
            .failures
            .into_iter()
            .zip(before.failures)
            .map(|(now, before)| now.checked_sub(before))
            .collect();
        let failures: Option<[u64; _]> = failures.and_then(|failures| failures.try_into().ok());
        TcpRates {
            failures_per_second: failures.and_then(|failures| self.rate(0, failures.iter().sum())),
            failures,
            sent_bytes_per_second: self.rate(before.sent, now.sent),
            received_bytes_per_second: self.rate(before.received, now.received),
            retransmissions_per_second: self.rate(before.retransmissions, now.retransmissions),
        }
    }

    fn refusals(&self, first: &Reading, now: &Reading) -> Vec<RefusalRow> {
        let count = |reading: &Reading, reason| {
            let mut counts = reading.refusals.iter();
            counts.find(|(known, _)| *known == reason).map(|(_, count)| *count)
        };
        let row = |(reason, now): &(DropReason, u64)| RefusalRow {
            reason: *reason,
            // A count that went back began anew.
            count: count(first, *reason).and_then(|first| now.checked_sub(first)).unwrap_or(*now),
            per_second: self
                .before
                .and_then(|before| count(before, *reason))
                .and_then(|before| self.rate(before, *now)),
        };
        now.refusals.iter().map(row).collect()
    }
}

impl BackendReading {
    /// Whether both readings are of the same backend.
    fn is_same(&self, other: &Self) -> bool {
        (self.service, self.address, self.tcp.generation)
            == (other.service, other.address, other.tcp.generation)
    }
}

/// `unanswered`: in the interval connections closed to which the backend had sent nothing.
fn state(before: Option<&BackendReading>, now: &BackendReading) -> &'static str {
    let grown = |of: fn(&BackendConnections) -> u64| {
        before.and_then(|before| of(&now.tcp).checked_sub(of(&before.tcp))).unwrap_or_default()
    };
    let (closed, sent, received) =
        (grown(|tcp| tcp.closed), grown(|tcp| tcp.sent), grown(|tcp| tcp.received));
    match now.is_terminating {
        true => "terminating",
        false if is_unanswered(closed, sent, received) => "unanswered",
        false => "ready",
    }
}

/// Counters that service ports and backends both have.
struct Counts {
    failures: [u64; ConnectFailure::ALL.len()],
    sent: u64,
    received: u64,
    retransmissions: u64,
}

impl Counts {
    fn of_service(counts: &ServiceConnections) -> Self {
        let ServiceConnections { failures, sent, received, retransmissions, forwarded, .. } = *counts;
        // A connection is in one of both planes.
        let [to_backends, from_backends] = forwarded.map(|traffic| traffic.bytes);
        let (sent, received) = (sent.wrapping_add(to_backends), received.wrapping_add(from_backends));
        Self { failures, sent, received, retransmissions }
    }

    fn of_backend(counts: &BackendConnections) -> Self {
        let BackendConnections { failures, sent, received, retransmissions, .. } = *counts;
        Self { failures: failures.map(u64::from), sent, received, retransmissions: retransmissions.into() }
    }
}

/// Connections that sockets opened since the first reading.
struct Shares {
    of_backends: BTreeMap<BackendId, u64>,
    of_services: BTreeMap<u32, u64>,
}

impl Shares {
    fn new(first: &Reading, now: &Reading) -> Self {
        let mut of_services: BTreeMap<u32, u64> = BTreeMap::new();
        let opened = |(id, backend): (&BackendId, &BackendReading)| {
            let first = first.backends.get(id).filter(|first| first.is_same(backend));
            // The counters of a backend that came later began at zero.
            let before = first.map_or(0, |first| first.tcp.opened);
            let opened = backend.tcp.opened.saturating_sub(before);
            *of_services.entry(backend.service).or_default() += opened;
            (*id, opened)
        };
        let of_backends = now.backends.iter().map(opened).collect();
        Self { of_backends, of_services }
    }

    fn of(&self, id: BackendId, backend: &BackendReading) -> Option<f64> {
        let all = self.of_services.get(&backend.service).copied().filter(|all| *all != 0)?;
        self.of_backends.get(&id).map(|opened| *opened as f64 / all as f64)
    }
}

/// Mean of the connections that closed in between, in seconds.
fn round_trip(before: &ServiceConnections, now: &ServiceConnections) -> Option<f64> {
    let sum = now.round_trips.checked_sub(before.round_trips)?;
    let samples = now.round_trip_samples.checked_sub(before.round_trip_samples)?;
    (samples != 0).then(|| sum as f64 / samples as f64 / MICROSECONDS)
}

/// The bucket of the time to connect that 99 in 100 of the connections in between did not exceed.
fn p99(before: &ServiceConnections, now: &ServiceConnections) -> Option<Bounds> {
    let counts = now.connect_times.iter().zip(before.connect_times);
    let counts: Option<Vec<u64>> = counts.map(|(now, before)| now.checked_sub(before)).collect();
    let counts = counts?;
    let all: u64 = counts.iter().sum();
    // The rank of the quantile, counted from one.
    let rank = all.saturating_mul(99).div_ceil(100);
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        rank != 0 && seen >= rank
    })?;
    let above = bucket.checked_sub(1).map_or(0, |lower| CONNECT_BOUNDS[lower]);
    Some(Bounds { above, at_most: CONNECT_BOUNDS.get(bucket).copied() })
}

#[cfg(test)]
mod tests;
