//! Reading and conversion on all processors.

use std::{num::NonZeroUsize, thread};

/// Maps in order, on one thread per processor.
pub fn map<T: Sync, U: Send>(items: &[T], read: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = items.len().div_ceil(threads).max(1);
    if items.len() < 2 || threads == 1 {
        return items.iter().map(read).collect();
    }
    thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(share)
            .map(|share| scope.spawn(|| share.iter().map(&read).collect::<Vec<_>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| match worker.join() {
                Ok(read) => read,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}
