//! The round-trip time (RTT) of an upstream, and the hedging delay that follows from it.

use std::time::Duration;

/// The smoothed RTT and its variation, as in TCP (RFC 6298).
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct RttEstimator {
    smoothed: Option<Duration>,
    variation: Duration,
}

/// The delay before the first sample. A client's own first try ends after 5 s, so a second upstream has to answer
/// well before.
const INITIAL_DELAY: Duration = Duration::from_millis(400);
const MIN_DELAY: Duration = Duration::from_millis(30);
const MAX_DELAY: Duration = Duration::from_secs(1);

impl RttEstimator {
    /// Adds the sample of an answer.
    pub(super) fn sample(&mut self, took: Duration) {
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variation) = (Some(took), took / 2);
            return;
        };
        self.variation = (self.variation * 3 + took.abs_diff(smoothed)) / 4;
        self.smoothed = Some((smoothed * 7 + took) / 8);
    }

    /// Adds a wait without an answer as a lower bound of the RTT: it counts only if it is above the smoothed RTT.
    pub(super) fn timed_out(&mut self, waited: Duration) {
        if self.smoothed.is_some_and(|smoothed| waited > smoothed) {
            self.sample(waited);
        }
    }

    /// The hedging delay: smoothed RTT plus four times its variation, within bounds. Nearly all answers arrive
    /// sooner.
    pub(super) fn hedging_delay(&self) -> Duration {
        let estimate = self.smoothed.map(|smoothed| smoothed + self.variation * 4);
        estimate.map_or(INITIAL_DELAY, |estimate| estimate.clamp(MIN_DELAY, MAX_DELAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hedging_delay_follows_the_rtt() {
        let ms = Duration::from_millis;
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.hedging_delay(), INITIAL_DELAY, "unknown");
        rtt.timed_out(ms(1500));
        assert_eq!(rtt.hedging_delay(), INITIAL_DELAY, "a timeout alone is no sample");
        rtt.sample(ms(20));
        assert_eq!(rtt.hedging_delay(), ms(60), "a first answer");
        (0..50).for_each(|_| rtt.sample(ms(20)));
        assert_eq!(rtt.hedging_delay(), MIN_DELAY, "steady");
        (0..20).for_each(|_| rtt.timed_out(ms(300)));
        assert!(rtt.hedging_delay() > ms(300), "slower than it was: {:?}", rtt.hedging_delay());
        (0..50).for_each(|_| rtt.sample(ms(1900)));
        assert_eq!(rtt.hedging_delay(), MAX_DELAY, "limited");
    }
}
