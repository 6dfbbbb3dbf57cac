//! The programs at devices against the model, for random objects and packets, and against kube-proxy's given cases.

use tests::{
    differential::{given, run, spoilt},
    rng::Chance,
};

const CASES: u64 = 20_000;
/// Occurrences of each kind of Service, source and address below which it counts as untested.
const OF_EACH: u64 = 20;

#[test]
fn programs_and_model_agree() {
    let mut chance = Chance::new();
    println!("seed {}", chance.seed);
    let tally = run(CASES, None, &mut chance, |_| {}).unwrap_or_else(|error| panic!("{error:#}"));
    for (name, count) in tally.counts() {
        println!("{count:>8} {name}");
        assert!(count >= OF_EACH, "{name} occurred {count} times");
    }
}

#[test]
fn programs_do_what_kube_proxy_does() {
    let flows = given().unwrap_or_else(|error| panic!("{error:#}"));
    println!("{flows} flows");
    assert!(flows > 1_000, "only {flows} flows");
}

#[test]
fn corrupted_packets_are_ignored_or_dropped() {
    let mut chance = Chance::new();
    println!("seed {}", chance.seed);
    spoilt(CASES, &mut chance).unwrap_or_else(|error| panic!("{error:#}"));
}
