//! The programs at devices against the model, for random objects and packets, and against recorded cases of kube-proxy.

use std::time::Duration;

use tests::{
    differential::{
        choices_among_suspected, concurrent, corrupted, earlier_flows, explained, flows_of_removed_backends,
        kube_proxy_cases, packets_are_counted, run, segments_above_the_mtu,
    },
    rng::Rng,
};

const CASES: u64 = 20_000;
/// Occurrences of each kind of Service, source and address below which it counts as untested.
const OF_EACH: u64 = 20;
/// The same for explanations, of which there are fewer.
const OF_EXPLAINED: u64 = 5;

#[test]
fn programs_and_model_agree() {
    let mut rng = Rng::new();
    println!("seed {}", rng.seed);
    let tally = run(CASES, None, &mut rng, |_| {}).unwrap_or_else(|error| panic!("{error:#}"));
    for (name, count) in tally.counts() {
        println!("{count:>8} {name}");
        assert!(count >= OF_EACH, "{name} occurred {count} times");
    }
}

/// What `explain` says of a flow is what the model says, and what the programs then do; and asking changes no map.
#[test]
fn explanations_are_what_happens_and_change_nothing() {
    let mut rng = Rng::new();
    println!("seed {}", rng.seed);
    let tally = explained(CASES / 10, &mut rng).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{tally:#?}");
    for reason in [
        "translated",
        "no_frontend",
        "no_endpoint",
        "policy_has_no_local_endpoint",
        "source_not_in_ranges",
        "undefined_port",
        "unallocated_address",
        "sctp_port_differs",
    ] {
        let count = tally.results.get(reason).copied().unwrap_or_default();
        assert!(count >= OF_EXPLAINED, "{reason} occurred {count} times");
    }
    for (name, count) in
        [("masquerade", tally.masqueraded), ("hairpin", tally.hairpins), ("affinity", tally.remembered)]
    {
        assert!(count >= OF_EXPLAINED, "{name} occurred {count} times");
    }
}

#[test]
fn programs_do_what_kube_proxy_does() {
    let flows = kube_proxy_cases().unwrap_or_else(|error| panic!("{error:#}"));
    println!("{flows} flows");
    assert!(flows > 1_000, "only {flows} flows");
}

#[test]
fn segments_above_the_mtu_of_their_route_take_the_stack() {
    segments_above_the_mtu().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn suspected_backends_get_the_share_of_the_model() {
    let mut rng = Rng::new();
    println!("seed {}", rng.seed);
    let kinds = choices_among_suspected(60, &mut rng).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(kinds.into_iter().all(|count| count >= OF_EACH), "{kinds:?}");
}

#[test]
fn packets_of_flows_are_counted() {
    packets_are_counted().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn udp_flows_of_removed_backends_end_or_move() {
    flows_of_removed_backends().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn corrupted_packets_are_ignored_or_dropped() {
    let mut rng = Rng::new();
    println!("seed {}", rng.seed);
    corrupted(CASES, &mut rng).unwrap_or_else(|error| panic!("{error:#}"));
}

/// More tuples than records, and a sweep that ends flows all the time.
#[test]
fn packets_of_all_cpus_keep_to_their_flows() {
    let tally = concurrent(Duration::from_secs(5)).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{tally:?}");
    assert!(tally.round_trips > 1_000, "{tally:?}");
}

#[test]
fn flows_of_an_earlier_version_are_found() {
    earlier_flows().unwrap_or_else(|error| panic!("{error:#}"));
}
