//! The clock of flows.

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64};
use proxy_ebpf::abi::flow_state::TICK_SHIFT;

use crate::config;

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes no argument and has no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// Ticks of the monotonic clock, from jiffies where their length is known: they lag behind by a jiffy at most, and reading them
/// costs a third of reading the clock.
#[inline(always)]
pub fn ticks() -> u32 {
    let (jiffy, origin) = config::jiffies();
    let now = if jiffy == 0 {
        now()
    } else {
        // SAFETY: takes no argument and has no precondition.
        let jiffies = unsafe { bpf_jiffies64() };
        jiffies.wrapping_mul(jiffy.into()).wrapping_add(origin)
    };
    (now >> TICK_SHIFT) as u32
}
