//! The early plane does what the packet plane does, for random objects and packets.

use tests::{
    differential::xdp::{Fate, run},
    rng::Chance,
};

const CASES: u64 = 4_000;
/// A fate that comes up less often is not tested.
const OF_EACH: u64 = 20;

#[test]
fn both_planes_agree() {
    let mut chance = Chance::new();
    println!("seed {}", chance.seed);
    let tally = run(CASES, &mut chance).unwrap_or_else(|error| panic!("{error:?}"));
    for fate in Fate::ALL {
        let came_up = tally.get(&fate).copied().unwrap_or_default();
        println!("{came_up:>8} {fate:?}");
        assert!(came_up >= OF_EACH, "{fate:?} came up {came_up} times");
    }
}
