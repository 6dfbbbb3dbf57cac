//! Singleflight: identical queries at the same time are sent once.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use prometheus::IntCounter;
use tokio::sync::OnceCell;

/// The queries in flight, by key. The first caller runs the query; if it is cancelled, another waiter runs it
/// again.
#[derive(Debug)]
pub(super) struct InFlight<K, T>(Mutex<HashMap<K, Weak<OnceCell<T>>>>);

impl<K, T> Default for InFlight<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, T: Clone> InFlight<K, T> {
    /// Runs the query, or waits for the caller that runs it, which counts as `joined`.
    pub(super) async fn join<F: Future<Output = T>>(
        &self,
        key: K,
        joined: &IntCounter,
        ask: impl FnOnce() -> F,
    ) -> T {
        let waiter = Waiter { cell: self.enter(&key, joined), key, in_flight: self };
        waiter.cell.get_or_init(ask).await.clone()
    }

    fn enter(&self, key: &K, joined: &IntCounter) -> Arc<OnceCell<T>> {
        let mut in_flight = self.lock();
        if let Some(cell) = in_flight.get(key).and_then(Weak::upgrade) {
            joined.inc();
            return cell;
        }
        let cell = Arc::default();
        in_flight.insert(key.clone(), Arc::downgrade(&cell));
        cell
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Weak<OnceCell<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiter. The first one dropped after the answer, or the last one dropped without it, removes the entry: later
/// callers send a new query.
struct Waiter<'a, K: Hash + Eq + Clone, T: Clone> {
    cell: Arc<OnceCell<T>>,
    key: K,
    in_flight: &'a InFlight<K, T>,
}

impl<K: Hash + Eq + Clone, T: Clone> Drop for Waiter<'_, K, T> {
    fn drop(&mut self) {
        let mut in_flight = self.in_flight.lock();
        let is_over = self.cell.initialized() || Arc::strong_count(&self.cell) == 1;
        let is_ours =
            in_flight.get(&self.key).is_some_and(|flight| Weak::as_ptr(flight) == Arc::as_ptr(&self.cell));
        if is_over && is_ours {
            in_flight.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering::Relaxed},
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_during_a_query_share_its_answer() {
        let (in_flight, queries) = (InFlight::default(), AtomicU32::new(0));
        let joined = IntCounter::new("joined", "joined").unwrap();
        let ask = || async {
            sleep(Duration::from_secs(1)).await;
            queries.fetch_add(1, Relaxed)
        };
        assert_eq!(
            join_all((0..10).map(|_| in_flight.join("a", &joined, ask))).await,
            [0; 10],
            "at the same time"
        );
        assert_eq!(joined.get(), 9);
        assert_eq!(in_flight.join("a", &joined, ask).await, 1, "later");
        assert!(in_flight.lock().is_empty(), "no waiters");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_query_is_taken_over_by_the_next_waiter() {
        let (in_flight, finished) = (InFlight::default(), AtomicU32::new(0));
        let joined = IntCounter::new("joined", "joined").unwrap();
        let ask = || async {
            sleep(Duration::from_secs(1)).await;
            finished.fetch_add(1, Relaxed);
        };
        let impatient = timeout(Duration::from_millis(500), in_flight.join("a", &joined, ask));
        let (left, ()) = tokio::join!(impatient, in_flight.join("a", &joined, ask));
        assert!(left.is_err());
        assert_eq!(finished.load(Relaxed), 1);
        let alone = timeout(Duration::from_millis(500), in_flight.join("a", &joined, ask)).await;
        assert!(alone.is_err());
        assert!(in_flight.lock().is_empty(), "a query without waiters is removed");
    }
}
