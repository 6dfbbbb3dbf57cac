//! The function in which instructions are counted.

/// Does the work that is counted. The simulator finds this function by its name.
#[inline(never)]
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    work()
}
