//! The XDP programs against the tc programs, for random objects and packets.

use tests::{
    differential::xdp::{XdpResult, run},
    rng::Rng,
};

const CASES: u64 = 4_000;
/// Occurrences of a result below which it counts as untested.
const OF_EACH: u64 = 20;

#[test]
fn xdp_and_tc_programs_agree() {
    let mut rng = Rng::new();
    println!("seed {}", rng.seed);
    let tally = run(CASES, &mut rng).unwrap_or_else(|error| panic!("{error:?}"));
    for result in XdpResult::ALL {
        let count = tally.get(&result).copied().unwrap_or_default();
        println!("{count:>8} {result:?}");
        assert!(count >= OF_EACH, "{result:?} occurred {count} times");
    }
}
