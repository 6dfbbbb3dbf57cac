use std::time::Duration;

use proxy_ebpf::abi::{ServiceStats, Traffic};

use super::*;
use crate::model::address::IpFamily;

const WEB: u32 = 7;

fn backend_id(index: u32) -> BackendId {
    BackendId { family: IpFamily::V4, index }
}

fn service(tcp: ServiceConnections, translated: u64) -> ServiceReading {
    let name = ServicePort { service: "shop/web".to_owned(), port_name: "http".to_owned() };
    let stats = ServiceStats { translated, refused: 0 };
    ServiceReading { name, protocol: Protocol::Tcp, stats, tcp }
}

fn backend(opened: u64, generation: u32) -> BackendReading {
    BackendReading {
        service: WEB,
        address: ([10, 244, 1, 4], 8080).into(),
        is_terminating: false,
        tcp: BackendConnections { opened, generation, ..BackendConnections::default() },
    }
}

fn reading(seconds: u64, service: ServiceReading, backends: &[(u32, BackendReading)]) -> Reading {
    Reading {
        at: Duration::from_secs(seconds),
        services: [(WEB, service)].into(),
        backends: backends.iter().map(|(index, backend)| (backend_id(*index), backend.clone())).collect(),
        refusals: vec![(DropReason::NoEndpoint, 10 * seconds)],
    }
}

fn connections(generation: u64, connect_times: [u64; 11]) -> ServiceConnections {
    ServiceConnections { generation, connect_times, ..ServiceConnections::default() }
}

const NO_TIMES: [u64; 11] = [0; 11];

/// One Service whose counters go from one state to another within two seconds.
fn row(before: ServiceReading, now: ServiceReading) -> ServiceRow {
    let (before, now) = (reading(0, before, &[]), reading(2, now, &[]));
    Rates::between(&before, Some(&before), &now, |_| true).services.remove(0)
}

#[test]
fn a_rate_is_the_growth_in_a_second() {
    let mut times = NO_TIMES;
    times[2] = 100;
    let before = ServiceConnections { closed: 1, ..connections(1, times) };
    times[2] = 110;
    let now = ServiceConnections {
        closed: 5,
        failures: [1, 0, 2, 0, 0],
        sent: 4_000,
        received: 8_000,
        retransmissions: 1,
        round_trips: 900,
        round_trip_samples: 3,
        forwarded: [1_000, 2_000].map(|bytes| Traffic { packets: 9, bytes }),
        ..connections(1, times)
    };
    let row = row(service(before, 200), service(now, 240));
    assert_eq!(row.connections_per_second, Some(20.0));
    assert_eq!(row.opened_per_second, Some(5.0));
    assert_eq!(row.tcp.failures_per_second, Some(1.5));
    assert_eq!(row.tcp.failures, Some([1, 0, 2, 0, 0]));
    assert_eq!((row.tcp.sent_bytes_per_second, row.tcp.received_bytes_per_second), (Some(2.5e3), Some(5e3)));
    assert_eq!(row.tcp.retransmissions_per_second, Some(0.5));
    assert_eq!(row.connect_p99, Some(Bounds { above: 500_000, at_most: Some(1_000_000) }));
    assert_eq!((row.round_trip_seconds, row.open), (Some(0.0003), 105));
}

#[test]
fn counters_that_begin_anew_have_no_rate() {
    let large = ServiceConnections { sent: 1 << 40, ..connections(1, [9; 11]) };
    for (name, before, now) in [
        (
            "the id is another Service's",
            connections(1, NO_TIMES),
            ServiceConnections { generation: 2, ..large },
        ),
        ("the counters went back", large, connections(1, NO_TIMES)),
    ] {
        let row = row(service(before, 1 << 50), service(now, 3));
        let rates = [
            row.connections_per_second,
            row.opened_per_second,
            row.tcp.sent_bytes_per_second,
            row.round_trip_seconds,
        ];
        assert_eq!(rates, [None; 4], "{name}");
        assert_eq!(row.connect_p99, None, "{name}");
    }
    // A new Service, and the first reading.
    let now = reading(2, service(large, 3), &[]);
    let empty = Reading::default();
    for before in [None, Some(&empty)] {
        let rates = Rates::between(&now, before, &now, |_| true);
        assert_eq!(rates.services[0].connections_per_second, None);
        assert_eq!(rates.services[0].tcp, TcpRates::default());
    }
    // Two readings at one time.
    let same = Rates::between(&now, Some(&now), &now, |_| true);
    assert_eq!(same.services[0].connections_per_second, None);
}

#[test]
fn the_time_to_connect_is_a_bucket_of_the_interval() {
    let p99_of = |counts: &[(usize, u64)]| {
        let mut times = [1_000; 11];
        counts.iter().for_each(|(bucket, count)| times[*bucket] += count);
        p99(&connections(1, [1_000; 11]), &connections(1, times))
    };
    assert_eq!(p99_of(&[]), None);
    assert_eq!(p99_of(&[(0, 1)]), Some(Bounds { above: 0, at_most: Some(100_000) }));
    assert_eq!(p99_of(&[(0, 99), (9, 1)]), Some(Bounds { above: 0, at_most: Some(100_000) }));
    assert_eq!(
        p99_of(&[(0, 98), (9, 2)]),
        Some(Bounds { above: 1_000_000_000, at_most: Some(3_000_000_000) })
    );
    assert_eq!(p99_of(&[(10, 5)]), Some(Bounds { above: 3_000_000_000, at_most: None }));
}

#[test]
fn shares_are_those_since_the_first_reading() {
    let of = |seconds, backends: &[(u32, BackendReading)]| {
        reading(seconds, service(connections(1, NO_TIMES), 0), backends)
    };
    let first = of(0, &[(1, backend(1_000, 1)), (2, backend(50, 1))]);
    let before = of(2, &[(1, backend(1_010, 1)), (2, backend(70, 1))]);
    // The second index is another backend's by now.
    let now = of(4, &[(1, backend(1_030, 1)), (2, backend(10, 3))]);
    let rates = Rates::between(&first, Some(&before), &now, |_| true);
    let shares: Vec<_> = rates.backends.iter().map(|row| row.share).collect();
    assert_eq!(shares, [Some(0.75), Some(0.25)]);
    let opened: Vec<_> = rates.backends.iter().map(|row| row.opened_per_second).collect();
    assert_eq!(opened, [Some(10.0), None]);
    assert_eq!(Rates::between(&now, Some(&before), &now, |_| true).backends[0].share, None, "none since");
    assert_eq!(rates.refusals[0].count, 40);
    assert_eq!(rates.refusals[0].per_second, Some(10.0));
}

#[test]
fn a_backend_that_sent_nothing_in_the_interval_is_unanswered() {
    let of = |closed, sent, received| {
        let mut backend = backend(closed, 1);
        let earlier = backend.tcp;
        backend.tcp = BackendConnections { closed, sent, received, ..earlier };
        reading(closed, service(connections(1, NO_TIMES), 0), &[(1, backend)])
    };
    let (before, stuck, sound) = (of(100, 10_000, 90_000), of(110, 11_000, 90_000), of(110, 11_000, 99_000));
    let state = |now| Rates::between(&before, Some(&before), now, |_| true).backends[0].state;
    assert_eq!((state(&stuck), state(&sound)), ("unanswered", "ready"));
    assert_eq!(Rates::between(&before, None, &stuck, |_| true).backends[0].state, "ready", "not known yet");
}

#[test]
fn the_fields_keep_their_names() {
    let before = reading(0, service(connections(1, NO_TIMES), 0), &[(1, backend(0, 1))]);
    let now = reading(2, service(connections(1, [1; 11]), 4), &[(1, backend(4, 1))]);
    let value = serde_json::to_value(Rates::between(&before, Some(&before), &now, |_| true)).unwrap();
    let names =
        |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&value), "backends interval_seconds refusals services");
    assert_eq!(value["services"][0]["failures"]["timed_out"], 0);
    let none = Rates::between(&before, Some(&before), &now, |_| false);
    assert_eq!((none.services.len(), none.backends.len()), (1, 0));
    assert_eq!(
        names(&value["services"][0]),
        "connect_p99_above_seconds connect_p99_at_most_seconds connections_per_second failures \
         failures_per_second open opened_per_second port_name protocol received_bytes_per_second \
         refused_per_second retransmissions_per_second round_trip_seconds sent_bytes_per_second service"
    );
    assert_eq!(
        names(&value["backends"][0]),
        "address failures failures_per_second open opened_per_second port_name protocol \
         received_bytes_per_second retransmissions_per_second round_trip_seconds sent_bytes_per_second service \
         share state"
    );
    assert_eq!(value["services"][0]["protocol"], "TCP");
    assert_eq!(value["services"][0]["connect_p99_at_most_seconds"], serde_json::Value::Null);
    assert_eq!(value["services"][0]["connect_p99_above_seconds"], 3.0);
    assert_eq!(value["refusals"][0]["reason"], DropReason::NoEndpoint.name());
}
