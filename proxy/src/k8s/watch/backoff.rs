//! Exponential backoff with jitter, so that the nodes of a cluster do not retry at the same time.

use std::time::Duration;

#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, next: initial }
    }

    pub fn reset(&mut self) {
        self.next = self.initial;
    }

    /// Returns the next delay: the exponential value times a random factor between 0.5 and 1.
    pub fn next_delay(&mut self) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(self.max);
        due.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for due in [1, 2, 4, 5, 5] {
            let due = Duration::from_secs(due);
            let delay = backoff.next_delay();
            assert!(delay >= due / 2 && delay <= due, "{delay:?} of {due:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_secs(1));
    }
}
