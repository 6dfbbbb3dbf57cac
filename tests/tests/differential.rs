//! The programs at devices say what the model says, for random objects and packets.

use tests::{
    chance::Chance,
    differential::{Row, run},
};

const CASES: u64 = 20_000;
/// A case is made of a few dozen kinds of Service, source and address: a row that comes up less often is not tested.
const OF_EACH_ROW: u64 = 20;

#[test]
fn programs_and_model_agree() {
    let mut chance = Chance::new();
    println!("seed {}", chance.seed);
    let tally = run(CASES, &mut chance, |_| {}).unwrap_or_else(|error| panic!("{error:#}"));
    for row in Row::ALL {
        let came_up = tally.get(&row).copied().unwrap_or_default();
        println!("{came_up:>8} {row}");
        assert!(came_up >= OF_EACH_ROW, "{row} came up {came_up} times");
    }
}
