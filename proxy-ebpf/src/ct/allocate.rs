//! Allocation of a record for a new flow, with eviction when the table is full.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_prandom_u32, generated::bpf_loop};
use proxy_ebpf::abi::{FlowState, TupleKind, flow_state};

use super::table::{Flows, TrackedFlow, change_state, delete_entries, flow_in, is_expired, load_state};
use crate::config::max_flows;

/// Limit of records that are probed.
const PROBES: u32 = 64;

/// 2^32 divided by the golden ratio: successive multiples are far from each other.
const STRIDE: u32 = 0x9e37_79b1;

pub const NO_SLOT: u32 = u32::MAX;

/// A search for a record.
#[repr(C)]
struct Search {
    now: u32,
    start: u32,
    /// The allocated slot.
    slot: u32,
    /// The eviction candidate with the highest score so far.
    candidate: u32,
    score: u32,
}

/// Allocates a record: a free one, an expired one, or, in a full table, the one with the highest eviction score. Returns its slot, `u64::MAX` if none.
#[inline(never)]
pub fn allocate<F: Flows>(now: u32) -> u64 {
    // SAFETY: takes no argument and has no precondition.
    let start = unsafe { bpf_get_prandom_u32() };
    let mut search = Search { now, start, slot: NO_SLOT, candidate: NO_SLOT, score: 0 };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = probe::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `search` outlives the loop.
    unsafe { bpf_loop(PROBES, callback as *mut c_void, (&raw mut search).cast(), 0) };
    if search.slot != NO_SLOT {
        search.slot.into()
    } else if search.candidate != NO_SLOT && acquire::<F>(search.candidate, now) != 0 {
        search.candidate.into()
    } else {
        u64::MAX
    }
}

/// Probes one record. Returns 1 to end the search.
extern "C" fn probe<F: Flows>(step: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `allocate`.
    let search = unsafe { &mut *search.cast::<Search>() };
    let step = step as u32;
    // Quadratic probing: linear probes with one stride overlap, and a table that is nine tenths full would refuse one flow in
    // fifty instead of one in a thousand.
    let at = search.start.wrapping_add(step.wrapping_mul(step).wrapping_mul(STRIDE));
    // Multiplication instead of a remainder: no zero check, and uniform.
    let slot = ((u64::from(at) * u64::from(max_flows())) >> 32) as u32;
    let Some(record) = F::flow(slot) else { return 0 };
    let state = load_state::<F>(record);
    if state.has(FlowState::DYING) {
        return 0;
    }
    if !state.has(FlowState::ALIVE) || is_expired::<F>(record, state, search.now) {
        if acquire::<F>(slot, search.now) != 0 {
            search.slot = slot;
            return 1;
        }
        return 0;
    }
    let score = eviction_score(state, search.now);
    if score > search.score {
        search.score = score;
        search.candidate = slot;
    }
    0
}

/// Added to the score of unassured and closed flows, which are evicted before any assured one.
const EXPENDABLE: u32 = 1 << 30;

/// Ticks without packets. 0 for flows that must not be evicted: nf_conntrack's early drop spares assured flows, here only those that
/// had a packet within the last hour.
#[inline(always)]
fn eviction_score(state: FlowState, now: u32) -> u32 {
    let idle = state.idle(now);
    if idle <= flow_state::SAFE_TICKS {
        0
    } else if !state.is_assured() || state.is_closed() {
        idle.saturating_add(EXPENDABLE)
    } else if idle <= flow_state::ASSURED_SAFE_TICKS {
        0
    } else {
        idle
    }
}

/// Whether a flow is expired, or unassured or closed, and silent: what it holds is given to another.
#[inline(always)]
pub fn is_expendable<F: Flows>(flow: &TrackedFlow<F>, now: u32) -> bool {
    eviction_score(flow.state, now) >= EXPENDABLE || is_expired::<F>(flow.record, flow.state, now)
}

/// Deletes an expendable flow. Returns 1 on success.
#[inline(never)]
pub fn delete_expendable<F: Flows>(slot: u32, now: u32) -> u32 {
    let state = FlowState(expendable_state::<F>(slot, now));
    let Some(record) = F::flow(slot) else { return 0 };
    let flow = TrackedFlow::<F> { record, slot, kind: TupleKind::Original, state };
    u32::from(state.is_alive() && flow.delete())
}

/// The state of a flow if it is expendable, else 0. In a frame of its own, which has ended before the flow is deleted: this is
/// one of the deepest call chains.
#[inline(never)]
fn expendable_state<F: Flows>(slot: u32, now: u32) -> u64 {
    match flow_in::<F>(slot) {
        Some(flow) if is_expendable(&flow, now) => flow.state.0,
        _ => 0,
    }
}

/// Takes ownership of a record, deleting its flow. Returns 1 on success.
#[inline(never)]
fn acquire<F: Flows>(slot: u32, now: u32) -> u32 {
    let Some(record) = F::flow(slot) else { return 0 };
    let state = load_state::<F>(record);
    if !state.has(FlowState::ALIVE) {
        return u32::from(change_state::<F>(record, state, state.successor(now)));
    }
    // Checked again: the flow may have been refreshed since the probe.
    let is_evictable = !state.has(FlowState::DYING)
        && (eviction_score(state, now) != 0 || is_expired::<F>(record, state, now));
    let dying = state.dying();
    if !is_evictable || !change_state::<F>(record, state, dying) {
        return 0;
    }
    delete_entries::<F>(record, slot, dying.0);
    u32::from(change_state::<F>(record, dying.free(), dying.successor(now)))
}
