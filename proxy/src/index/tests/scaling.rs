//! The work for one change of a Service with very many ports grows with their number, not with its square.

use std::time::Duration;

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

#[test]
fn work_does_not_grow_with_the_square_of_the_ports() {
    let (few, many) = (cost(2_000), cost(17_000));
    // Linear growth is 8.5-fold, a square 72-fold.
    assert!(many < few * 25, "{few:?} for 2,000 ports, {many:?} for 17,000");
}
