//! Atomic operations on words in maps. `core::sync::atomic` has no compare-and-swap for this target.

/// Adds to a word; the previous value is not returned, so all kernels have the instruction.
#[inline(always)]
pub fn add_u64(word: *mut u64, more: u64) {
    use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};
    // SAFETY: as in `compare_exchange`.
    unsafe { atomic_xadd::<u64, u64, { Relaxed }>(word, more) };
}

/// As `add_u64`, to half a word.
#[inline(always)]
pub fn add_u32(word: *mut u32, more: u32) {
    use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};
    // SAFETY: as in `compare_exchange`.
    unsafe { atomic_xadd::<u32, u32, { Relaxed }>(word, more) };
}

/// Stores `new` if the word is `old`. Returns the previous value.
#[inline(always)]
pub fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
    // SAFETY: callers pass aligned words in the memory of maps that lives as long as the program runs.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, old, new).0 }
}
