//! The XDP programs against the tc programs, for random objects and packets.

use tests::{
    differential::xdp::{Fate, run},
    rng::Chance,
};

const CASES: u64 = 4_000;
/// Occurrences of a fate below which it counts as untested.
const OF_EACH: u64 = 20;

#[test]
fn xdp_and_tc_programs_agree() {
    let mut chance = Chance::new();
    println!("seed {}", chance.seed);
    let tally = run(CASES, &mut chance).unwrap_or_else(|error| panic!("{error:?}"));
    for fate in Fate::ALL {
        let count = tally.get(&fate).copied().unwrap_or_default();
        println!("{count:>8} {fate:?}");
        assert!(count >= OF_EACH, "{fate:?} occurred {count} times");
    }
}
