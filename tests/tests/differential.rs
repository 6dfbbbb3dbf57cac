//! The programs at devices say what the model says, for random objects and packets; and what the given cases say.

use tests::{
    differential::{given, run, spoilt},
    rng::Chance,
};

const CASES: u64 = 20_000;
/// A case is made of a few dozen kinds of Service, source and address: what comes up less often is not tested.
const OF_EACH: u64 = 20;

#[test]
fn programs_and_model_agree() {
    let mut chance = Chance::new();
    println!("seed {}", chance.seed);
    let tally = run(CASES, None, &mut chance, |_| {}).unwrap_or_else(|error| panic!("{error:#}"));
    for (name, came_up) in tally.counts() {
        println!("{came_up:>8} {name}");
        assert!(came_up >= OF_EACH, "{name} came up {came_up} times");
    }
}

#[test]
fn programs_do_what_kube_proxy_does() {
    let flows = given().unwrap_or_else(|error| panic!("{error:#}"));
    println!("{flows} flows");
    assert!(flows > 1_000, "only {flows} flows");
}

#[test]
fn spoilt_packets_are_left_alone_or_refused() {
    let mut chance = Chance::new();
    println!("seed {}", chance.seed);
    spoilt(CASES, &mut chance).unwrap_or_else(|error| panic!("{error:#}"));
}
