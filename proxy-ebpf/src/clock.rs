//! The clock of flows.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use proxy_ebpf::abi::flow_state::TICK_SHIFT;

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes no argument and has no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// Ticks of the monotonic clock.
#[inline(always)]
pub fn ticks() -> u32 {
    (now() >> TICK_SHIFT) as u32
}
