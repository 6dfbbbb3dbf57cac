//! The clock of the programs.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The clock of the programs: monotonic, since the machine started.
pub fn now() -> Duration {
    // It fails for unknown clocks only, and this one is older than eBPF.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
