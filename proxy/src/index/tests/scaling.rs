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

/// The steps of a change of a Service with very many ports, each by itself: a cheap step may hide in an expensive one.
const STEPS: [&str; 5] = ["read", "claims", "slice", "frontends", "slice with other names"];

/// The time of each step for this many ports.
fn cost(ports: u16) -> [Duration; STEPS.len()] {
    let all = |prefix: &str, offset| {
        let port = |n| json!({"name": format!("{prefix}{n}"), "port": n + offset});
        (1..=ports).map(port).collect::<Vec<_>>()
    };
    let slice_with = |ports| {
        slice(json!({"metadata": {"name": "huge-1", "namespace": "a",
                "labels": {"kubernetes.io/service-name": "huge"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.0.1"]}], "ports": ports}))
    };
    let object = json!({"metadata": {"name": "huge", "namespace": "a"},
        "spec": {"clusterIP": "10.96.0.1", "ports": all("p", 0)}});
    let mut times = vec![cpu_time()];
    let mut end_step = || times.push(cpu_time());
    let service = service(object);
    end_step();
    let mut index = Index::new(Policy::default());
    index.apply(service);
    end_step();
    let touched = index.apply(slice_with(all("p", 20_000)));
    assert_eq!(touched.len(), usize::from(ports));
    end_step();
    for key in &touched {
        let frontend = index.frontend(key).unwrap();
        assert_eq!(frontend.internal.backends[0].address.port(), key.port + 20_000);
    }
    end_step();
    index.apply(slice_with(all("q", 20_000)));
    assert_eq!(index.unserved().len(), usize::from(ports));
    end_step();
    std::array::from_fn(|n| times[n + 1] - times[n])
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
    // The least of several, without the first faults of memory.
    let few = [cost(2_000), cost(2_000), cost(2_000)];
    let many = cost(17_000);
    for (n, step) in STEPS.iter().enumerate() {
        let few = few.iter().map(|times| times[n]).min().unwrap();
        // Linear growth is 8.5-fold, a square 72-fold.
        assert!(many[n] < few * 30, "{step}: {few:?} for 2,000 ports, {:?} for 17,000", many[n]);
    }
}

/// What is said of each port without endpoints does not grow with the ports of the slices.
#[test]
fn words_do_not_grow_with_the_square_of_the_ports() {
    let length = |ports: u16| {
        let all = |prefix: &str| {
            (1..=ports).map(|n| json!({"name": format!("{prefix}{n}"), "port": n})).collect::<Vec<_>>()
        };
        let mut index = Index::new(Policy::default());
        index.apply(service(json!({"metadata": {"name": "huge", "namespace": "a"},
            "spec": {"clusterIP": "10.96.0.1", "ports": all("p")}})));
        index.apply(slice(json!({"metadata": {"name": "huge-1", "namespace": "a",
                "labels": {"kubernetes.io/service-name": "huge"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.0.1"]}], "ports": all("q")})));
        let unserved = index.unserved();
        assert_eq!(unserved.len(), usize::from(ports));
        let text = unserved[0].1.to_string();
        assert!(text.contains("port `q1` (TCP)") && text.ends_with("more instead"), "{text}");
        unserved.iter().map(|(_, part)| part.to_string().len()).sum::<usize>()
    };
    let (few, many) = (length(250), length(2_000));
    // Linear growth is 8-fold, a square 64-fold.
    assert!(many < few * 12, "{few} bytes for 250 ports, {many} for 2,000");
}
