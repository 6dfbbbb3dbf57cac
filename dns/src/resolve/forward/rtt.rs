//! How fast an upstream answers, and how long one waits for it.

use std::time::Duration;

/// The smoothed round trip, as TCP keeps it (RFC 6298).
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pace {
    smoothed: Option<Duration>,
    varied: Duration,
}

/// Before an upstream is known. A client's own first try ends after 5 s, so a second upstream has to answer well before.
const UNKNOWN: Duration = Duration::from_millis(400);
const SHORTEST: Duration = Duration::from_millis(30);
const LONGEST: Duration = Duration::from_secs(1);

impl Pace {
    /// An answer took so long.
    pub(super) fn answered(&mut self, took: Duration) {
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.varied) = (Some(took), took / 2);
            return;
        };
        self.varied = (self.varied * 3 + took.abs_diff(smoothed)) / 4;
        self.smoothed = Some((smoothed * 7 + took) / 8);
    }

    /// There was no answer for so long: it would have taken longer.
    pub(super) fn silent(&mut self, waited: Duration) {
        if self.smoothed.is_some_and(|smoothed| waited > smoothed) {
            self.answered(waited);
        }
    }

    /// Nearly every answer comes sooner: time to ask somebody else as well.
    pub(super) fn patience(&self) -> Duration {
        let known = self.smoothed.map(|smoothed| smoothed + self.varied * 4);
        known.map_or(UNKNOWN, |known| known.clamp(SHORTEST, LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_answers() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!(pace.patience(), UNKNOWN, "unknown");
        pace.silent(ms(1500));
        assert_eq!(pace.patience(), UNKNOWN, "silence alone says nothing about the speed");
        pace.answered(ms(20));
        assert_eq!(pace.patience(), ms(60), "a first answer");
        (0..50).for_each(|_| pace.answered(ms(20)));
        assert_eq!(pace.patience(), SHORTEST, "steady");
        (0..20).for_each(|_| pace.silent(ms(300)));
        assert!(pace.patience() > ms(300), "slower than it was: {:?}", pace.patience());
        (0..50).for_each(|_| pace.answered(ms(1900)));
        assert_eq!(pace.patience(), LONGEST, "too slow to wait for");
    }
}
