//! Atomic operations on words in maps. `core::sync::atomic` has no compare-and-swap for this target.

/// Stores `new` if the word is `old`. Returns the previous value.
#[inline(always)]
pub fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
    // SAFETY: callers pass aligned words in the memory of array maps, which lives as long as the program.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, old, new).0 }
}
