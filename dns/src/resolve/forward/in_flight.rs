//! Identical questions that are asked at the same time are asked once.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use prometheus::IntCounter;
use tokio::sync::OnceCell;

/// The questions that are being asked. Whoever comes first does the work; if it gives up, another one who waits goes on.
#[derive(Debug)]
pub(super) struct Flights<K, T>(Mutex<HashMap<K, Weak<OnceCell<T>>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, T: Clone> Flights<K, T> {
    /// Asks, or waits for who does; `joined` is counted for those who wait.
    pub(super) async fn join<F: Future<Output = T>>(
        &self,
        key: K,
        joined: &IntCounter,
        ask: impl FnOnce() -> F,
    ) -> T {
        let seat = Seat { cell: self.board(&key, joined), key, flights: self };
        seat.cell.get_or_init(ask).await.clone()
    }

    fn board(&self, key: &K, joined: &IntCounter) -> Arc<OnceCell<T>> {
        let mut flights = self.lock();
        if let Some(cell) = flights.get(key).and_then(Weak::upgrade) {
            joined.inc();
            return cell;
        }
        let cell = Arc::default();
        flights.insert(key.clone(), Arc::downgrade(&cell));
        cell
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Weak<OnceCell<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits. Who leaves when the answer is there, or leaves last, closes the flight: later ones ask anew.
struct Seat<'a, K: Hash + Eq + Clone, T: Clone> {
    cell: Arc<OnceCell<T>>,
    key: K,
    flights: &'a Flights<K, T>,
}

impl<K: Hash + Eq + Clone, T: Clone> Drop for Seat<'_, K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let is_over = self.cell.initialized() || Arc::strong_count(&self.cell) == 1;
        let is_ours =
            flights.get(&self.key).is_some_and(|flight| Weak::as_ptr(flight) == Arc::as_ptr(&self.cell));
        if is_over && is_ours {
            flights.remove(&self.key);
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
    async fn who_comes_while_it_is_asked_gets_the_same_answer() {
        let (flights, asked) = (Flights::default(), AtomicU32::new(0));
        let joined = IntCounter::new("joined", "joined").unwrap();
        let ask = || async {
            sleep(Duration::from_secs(1)).await;
            asked.fetch_add(1, Relaxed)
        };
        assert_eq!(
            join_all((0..10).map(|_| flights.join("a", &joined, ask))).await,
            [0; 10],
            "at the same time"
        );
        assert_eq!(joined.get(), 9);
        assert_eq!(flights.join("a", &joined, ask).await, 1, "later");
        assert!(flights.lock().is_empty(), "nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_the_work_to_the_next() {
        let (flights, finished) = (Flights::default(), AtomicU32::new(0));
        let joined = IntCounter::new("joined", "joined").unwrap();
        let ask = || async {
            sleep(Duration::from_secs(1)).await;
            finished.fetch_add(1, Relaxed);
        };
        let impatient = timeout(Duration::from_millis(500), flights.join("a", &joined, ask));
        let (left, ()) = tokio::join!(impatient, flights.join("a", &joined, ask));
        assert!(left.is_err());
        assert_eq!(finished.load(Relaxed), 1);
        let alone = timeout(Duration::from_millis(500), flights.join("a", &joined, ask)).await;
        assert!(alone.is_err());
        assert!(flights.lock().is_empty(), "a question that everybody gave up is forgotten");
    }
}
