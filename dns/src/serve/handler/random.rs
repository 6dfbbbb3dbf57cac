//! Random numbers for the order of records: fast, seeded per thread, not cryptographically secure.

use std::{
    cell::Cell,
    hash::{BuildHasher as _, RandomState},
};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
}

/// Returns a number below `limit`, or 0 for 0.
pub fn below(limit: usize) -> usize {
    // xorshift64*
    let mut state = STATE.get();
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    STATE.set(state);
    let upper = u128::from(state.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let scaled = (upper * u128::try_from(limit).unwrap_or_default()) >> 64;
    usize::try_from(scaled).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_occurs() {
        let mut seen = [0_u32; 5];
        (0..5000).for_each(|_| seen[below(5)] += 1);
        assert!(seen.iter().all(|times| *times > 500), "{seen:?}");
        assert_eq!([below(1), below(0)], [0, 0]);
    }
}
