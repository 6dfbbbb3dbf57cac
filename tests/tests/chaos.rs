//! A short run of `cargo xtask chaos`.

use std::time::Duration;

use tests::{
    chaos::{Extent, chaos},
    rng::Rng,
};

#[tokio::test]
async fn no_connection_is_lost_in_chaos() {
    let seed = Rng::new().seed;
    println!("seed {seed}");
    let extent = Extent { seed, time: Duration::from_secs(30), steps: 40 };
    let outcome = chaos("chaos", extent, |event| println!("{event}")).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{error:#}"));
    println!("{outcome:?}");
    assert!(outcome.steps > 0 && outcome.totals.connections > 100, "there was no load: {outcome:?}");
}
