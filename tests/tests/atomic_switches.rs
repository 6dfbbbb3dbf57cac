//! A thousand atomic switches of backends per second: the short form of `cargo xtask bench atomicity`.
//!
//! The story `atomicity` observes an agent from outside. This one makes the switches itself, so it knows the exact instant
//! of each.

use std::num::NonZeroU32;

use tests::bench::atomicity::{Parameters, run};

const CONNECTS: u64 = 30_000;

#[tokio::test]
async fn no_connect_fails_or_reaches_a_backend_after_the_switch_away_from_it() {
    // With affinity, the removed backend is each time the client's own.
    for affinity in [None, NonZeroU32::new(60)] {
        let parameters = Parameters { connects: CONNECTS, changes_per_second: 1000, affinity, seed: 1 };
        let outcome = run(&parameters).await.expect("the benchmark runs");
        assert!(outcome.holds(), "affinity {affinity:?}:\n{outcome}");
        assert_eq!(outcome.connects, CONNECTS, "{outcome}");
        // The test is significant only if connects coincide with changes.
        assert!(outcome.changes > 100 && outcome.overtaken > 10 && outcome.reached > 100, "{outcome}");
    }
}
