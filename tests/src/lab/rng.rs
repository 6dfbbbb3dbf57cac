//! Random choices that a printed seed brings back.

use std::{env, time::Duration};

use crate::lab::traffic::now_us;

/// A xorshift generator: random enough to choose instants and sets.
#[derive(Debug)]
pub struct Chance {
    pub seed: u64,
    state: u64,
}

impl Chance {
    /// With `$PORTREEVE_SEED`, or one that nobody has had; the story prints it.
    pub fn new() -> Self {
        let seed = match env::var("PORTREEVE_SEED") {
            Ok(seed) => seed.parse().expect("PORTREEVE_SEED is a number"),
            Err(_) => now_us(),
        };
        // Zero would stay zero.
        Self { seed, state: seed | 1 }
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

    /// Waits for an instant: for stories that are about instants, not about conditions.
    pub async fn instant(&mut self, within: Duration) {
        let micros = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_micros(self.below(micros))).await;
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}
