//! Random numbers with a printed seed, by which a run can be repeated.

use std::{env, time::Duration};

use crate::lab::traffic::now_us;

/// A xorshift generator: sufficient for choosing instants and sets.
#[derive(Debug)]
pub struct Rng {
    pub seed: u64,
    state: u64,
}

impl Rng {
    /// With `$PORTREEVE_SEED`, or a new seed; the story prints it.
    pub fn new() -> Self {
        let seed = match env::var("PORTREEVE_SEED") {
            Ok(seed) => seed.parse().expect("PORTREEVE_SEED is a number"),
            Err(_) => now_us(),
        };
        Self::of(seed)
    }

    pub fn of(seed: u64) -> Self {
        // Small seeds differ in few bits, and a state of zero would stay zero.
        Self { seed, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % end
    }

    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Sleeps for a random time: for stories about instants instead of conditions.
    pub async fn sleep_up_to(&mut self, within: Duration) {
        let micros = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_micros(self.below(micros))).await;
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}
