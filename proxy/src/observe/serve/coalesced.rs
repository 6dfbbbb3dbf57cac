//! A value that is expensive to compute: computed once at a time, and not again for a while.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

pub struct Coalesced<T> {
    max_age: Duration,
    /// The last value and when it was complete. Locked while a value is computed.
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Coalesced<T> {
    pub fn new(max_age: Duration) -> Self {
        Self { max_age, last: Mutex::new(None) }
    }

    /// Returns the last value, or a new one if it is too old. Callers that arrive meanwhile wait and get the same
    /// one.
    pub async fn get(&self, compute: impl AsyncFnOnce() -> T) -> T {
        let mut last = self.last.lock().await;
        if let Some((computed, value)) = &*last
            && computed.elapsed() < self.max_age
        {
            return value.clone();
        }
        let value = compute().await;
        *last = Some((Instant::now(), value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use tokio::{task::JoinSet, time::sleep};

    use super::*;

    const MAX_AGE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn concurrent_callers_share_one_computation() {
        let (value, computed) = (Arc::new(Coalesced::new(MAX_AGE)), Arc::new(AtomicUsize::new(0)));
        for round in 1..=2 {
            let mut callers = JoinSet::new();
            for _ in 0..50 {
                let (value, computed) = (Arc::clone(&value), Arc::clone(&computed));
                callers.spawn(async move {
                    value
                        .get(async || {
                            sleep(Duration::from_millis(10)).await;
                            computed.fetch_add(1, Relaxed) + 1
                        })
                        .await
                });
            }
            assert!(callers.join_all().await.into_iter().all(|found| found == round));
            sleep(MAX_AGE).await;
        }
        assert_eq!(computed.load(Relaxed), 2);
    }
}
