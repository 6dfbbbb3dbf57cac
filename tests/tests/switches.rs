//! A switch of backends is atomic, a thousand times a second: the short form of `cargo xtask bench atomicity`.
//!
//! Beside the story `atomicity`, which watches an agent from the outside, this one makes the switches itself, so it
//! knows the very instant of each.

use std::num::NonZeroU32;

use tests::bench::atomicity::{Setting, run};

const CONNECTS: u64 = 30_000;

#[tokio::test]
async fn no_connect_fails_or_meets_a_backend_after_the_switch_away_from_it() {
    // With affinity a client's own backend is the one that goes, again and again.
    for affinity in [None, NonZeroU32::new(60)] {
        let setting = Setting { connects: CONNECTS, changes_per_second: 1000, affinity, seed: 1 };
        let outcome = run(&setting).await.expect("the measurement runs");
        assert!(outcome.holds(), "affinity {affinity:?}:\n{outcome}");
        assert_eq!(outcome.connects, CONNECTS, "{outcome}");
        // What makes it a test at all: there were changes, and connects met them.
        assert!(outcome.changes > 100 && outcome.overtaken > 10 && outcome.reached > 100, "{outcome}");
    }
}
