//! How long to wait before the next attempt: longer each time, and never all nodes at once.

use std::time::Duration;

#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Between a half and the whole of what is due.
    pub fn wait(&mut self) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(self.longest);
        due.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_up_to_a_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for due in [1, 2, 4, 5, 5] {
            let due = Duration::from_secs(due);
            let wait = backoff.wait();
            assert!(wait >= due / 2 && wait <= due, "{wait:?} of {due:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_secs(1));
    }
}
