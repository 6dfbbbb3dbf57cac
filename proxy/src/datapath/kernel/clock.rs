//! The clock of the programs.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns` reads it.
pub fn now() -> Duration {
    // The call fails for unknown clocks only, and this one is older than eBPF.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
