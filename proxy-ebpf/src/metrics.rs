//! Counters, always on: per service port, per drop reason, per outcome at XDP.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use proxy_ebpf::abi::{DropReason, ServiceStats, XdpOutcome, map};

#[btf_map]
static SERVICE_STATS: PerCpuArray<ServiceStats, { map::MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
static DROPS: PerCpuArray<u64, { DropReason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static XDP_OUTCOMES: PerCpuArray<u64, { XdpOutcome::ALL.len() }> = PerCpuArray::new();

/// Counts a new connection to a backend.
#[inline(always)]
pub fn translated(service: u32) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: the element is this CPU's own and programs do not migrate. A program that preempts this one on the
        // same CPU may lose one count, which is the worst outcome.
        unsafe { (*stats).translated = (*stats).translated.wrapping_add(1) };
    }
}

/// Counts a refusal by reason and, if known, by service port.
#[inline(always)]
pub fn refused(reason: DropReason, service: Option<u32>) {
    if let Some(stats) = service.and_then(|service| SERVICE_STATS.get_ptr_mut(service)) {
        // SAFETY: as in `translated`.
        unsafe { (*stats).refused = (*stats).refused.wrapping_add(1) };
    }
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: as in `translated`.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}

/// Counts an outcome at XDP.
#[inline(always)]
pub fn xdp(outcome: XdpOutcome) {
    if let Some(count) = XDP_OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: as in `translated`.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}
