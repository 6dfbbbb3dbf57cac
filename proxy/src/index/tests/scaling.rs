//! The work for one change of a Service with very many ports grows with their number, not with its square.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::{service, slice};
use crate::{index::Index, model::policy::Policy};

/// The CPU time of this thread, which other processes do not affect.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The time to read and join a Service with this many ports, and to compute its frontends again after a change of its
/// slice.
fn cost(ports: u16) -> Duration {
    let names = |offset: u16| (1..=ports).map(move |n| (format!("p{n}"), n + offset));
    let all =
        |offset| names(offset).map(|(name, port)| json!({"name": name, "port": port})).collect::<Vec<_>>();
    let start = cpu_time();
    let mut index = Index::new(Policy::default());
    index.apply(service(json!({"metadata": {"name": "huge", "namespace": "a"},
        "spec": {"clusterIP": "10.96.0.1", "ports": all(0)}})));
    let touched = index.apply(slice(json!({"metadata": {"name": "huge-1", "namespace": "a",
            "labels": {"kubernetes.io/service-name": "huge"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"]}], "ports": all(20_000)})));
    assert_eq!(touched.len(), usize::from(ports));
    for key in &touched {
        let frontend = index.frontend(key).unwrap();
        assert_eq!(frontend.internal.backends[0].address.port(), key.port + 20_000);
    }
    cpu_time() - start
}

/// The time to compute the frontend of a Service with this many slices.
fn cost_of_slices(slices: u32) -> Duration {
    let mut index = Index::new(Policy::default());
    index.apply(service(json!({"metadata": {"name": "huge", "namespace": "a"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}})));
    let mut touched = BTreeSet::new();
    for n in 0..slices {
        // Not in the order of their addresses.
        let net = n.wrapping_mul(37) % slices;
        let address = |host: u32| Ipv4Addr::from(0x0a01_0000 + (net << 8) + host).to_string();
        let endpoints: Vec<_> = (1..=100).map(|host| json!({"addresses": [address(host)]})).collect();
        touched = index.apply(slice(json!({"metadata": {"name": format!("huge-{n}"), "namespace": "a",
                "labels": {"kubernetes.io/service-name": "huge"}}, "addressType": "IPv4",
            "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]})));
    }
    let key = touched.first().unwrap();
    let start = cpu_time();
    for _ in 0..10 {
        assert_eq!(index.frontend(key).unwrap().internal.backends.len(), 100 * slices as usize);
    }
    cpu_time() - start
}

#[test]
fn work_does_not_grow_with_the_square_of_the_slices() {
    let (few, many) = (cost_of_slices(10), cost_of_slices(200));
    // Linear growth is 20-fold, a square 400-fold.
    assert!(many < few * 60, "{few:?} for 10 slices, {many:?} for 200");
}

#[test]
fn work_does_not_grow_with_the_square_of_the_ports() {
    let (few, many) = (cost(2_000), cost(17_000));
    // Linear growth is 8.5-fold, a square 72-fold.
    assert!(many < few * 25, "{few:?} for 2,000 ports, {many:?} for 17,000");
}
