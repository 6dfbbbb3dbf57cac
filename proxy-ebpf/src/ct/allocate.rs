//! Allocation of a record for a new flow, with eviction when the table is full.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::{bpf_get_prandom_u32, generated::bpf_loop},
    macros::btf_map,
};
use proxy_ebpf::abi::{EventHook, EventKind, FlowState, TupleKind, flow_state};

use super::table::{Flows, TrackedFlow, change_state, delete_references, flow_in, is_expired, load_state};
use crate::{
    config::max_flows,
    events::{self, What},
    family::{V4, V6},
};

/// The slot after the last allocated one, of IPv4 and IPv6, on each CPU: the records behind it are probably free, and in the cache.
#[btf_map]
static FREE_RECORDS: PerCpuArray<u32, 2> = PerCpuArray::new();

/// Limit of records that are probed.
const PROBES: u32 = 80;

/// The first of them lie behind the last allocated one. Where a part of the table is full of long flows, the others find free ones.
const NEIGHBOURS: u32 = 16;

/// 2^32 divided by the golden ratio: successive multiples are far from each other.
const STRIDE: u32 = 0x9e37_79b1;

pub const NO_SLOT: u32 = u32::MAX;

/// A search for a record.
#[repr(C)]
struct Search {
    now: u32,
    /// The first slot that is probed.
    next: u32,
    /// Determines the others.
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
    let Some(next) = FREE_RECORDS.get_ptr_mut(F::IS_V6.into()) else { return u64::MAX };
    // SAFETY: this CPU's own number; a program that interrupts this one on the same CPU at worst probes the same records.
    let first = match unsafe { next.read_volatile() } {
        0 => scaled(start),
        first => first,
    };
    let mut search = Search { now, next: first, start, slot: NO_SLOT, candidate: NO_SLOT, score: 0 };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = probe::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `search` outlives the loop.
    unsafe { bpf_loop(PROBES, callback as *mut c_void, (&raw mut search).cast(), 0) };
    let slot = if search.slot != NO_SLOT {
        search.slot
    } else if search.candidate != NO_SLOT && acquire::<F>(search.candidate, now) != 0 {
        search.candidate
    } else {
        return u64::MAX;
    };
    // SAFETY: as above.
    unsafe { next.write_volatile(slot.wrapping_add(1)) };
    slot.into()
}

/// Probes one record. Returns 1 to end the search.
extern "C" fn probe<F: Flows>(step: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `allocate`.
    let search = unsafe { &mut *search.cast::<Search>() };
    let slot = slot_of(search, step as u32);
    let offer = offered::<F>(slot, search.now);
    if offer == ACQUIRED {
        search.slot = slot;
        return 1;
    }
    let score = offer as u32;
    if score > search.score {
        search.score = score;
        search.candidate = slot;
    }
    0
}

/// The result of `offered` for a record that this CPU owns now.
const ACQUIRED: u64 = 1 << 32;

/// Takes a record that is free or expired. Returns `ACQUIRED`, or else the eviction score of its flow.
#[inline(always)]
fn offered<F: Flows>(slot: u32, now: u32) -> u64 {
    if F::IS_V6 { offered_v6(slot, now) } else { offered_v4(slot, now) }
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn offered_v4(slot: u32, now: u32) -> u64 {
    offer::<V4>(slot, now)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn offered_v6(slot: u32, now: u32) -> u64 {
    offer::<V6>(slot, now)
}

#[inline(always)]
fn offer<F: Flows>(slot: u32, now: u32) -> u64 {
    let Some(record) = F::flow(slot) else { return 0 };
    let state = load_state::<F>(record);
    if state.has(FlowState::DYING) {
        return 0;
    }
    if !state.has(FlowState::ALIVE) || is_expired::<F>(record, state, now) {
        return if acquire::<F>(slot, now) != 0 { ACQUIRED } else { 0 };
    }
    eviction_score(state, now).into()
}

/// The slot of a step.
#[inline(always)]
fn slot_of(search: &Search, step: u32) -> u32 {
    if step < NEIGHBOURS {
        let slot = search.next.wrapping_add(step);
        return if slot < max_flows() { slot } else { step };
    }
    // Quadratic probing: linear probes with one stride overlap, and a table that is nine tenths full would refuse one flow in
    // fifty instead of one in a thousand.
    scaled(search.start.wrapping_add(step.wrapping_mul(step).wrapping_mul(STRIDE)))
}

/// A slot, from a number of 32 bits. Multiplication instead of a remainder: no zero check, and uniform.
#[inline(always)]
fn scaled(number: u32) -> u32 {
    ((u64::from(number) * u64::from(max_flows())) >> 32) as u32
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
fn is_expendable<F: Flows>(flow: &TrackedFlow<F>, now: u32) -> bool {
    eviction_score(flow.state, now) >= EXPENDABLE || is_expired::<F>(flow.record, flow.state, now)
}

/// Deletes an expendable flow. Returns 1 on success.
#[inline(never)]
pub fn delete_expendable<F: Flows>(slot: u32, now: u32) -> u32 {
    let state = FlowState(expendable_state::<F>(slot, now));
    let Some(record) = F::flow(slot) else { return 0 };
    let flow = TrackedFlow::<F> { record, slot, kind: TupleKind::Original, state };
    if !state.is_alive() {
        return 0;
    }
    // Before the deletion, after which the record may be another flow's. At worst the flow was used meanwhile, and stays.
    report::<F>(slot, state, now);
    flow.delete().into()
}

/// The state of a flow if it is expendable, else 0. In a frame of its own, which has ended before the flow is deleted: this is
/// one of the deepest call chains.
#[inline(never)]
pub fn expendable_state<F: Flows>(slot: u32, now: u32) -> u64 {
    match flow_in::<F>(slot) {
        Some(flow) if is_expendable(&flow, now) => flow.state.0,
        _ => 0,
    }
}

/// Takes ownership of a record, deleting its flow. Returns 1 on success.
#[inline(always)]
fn acquire<F: Flows>(slot: u32, now: u32) -> u32 {
    if F::IS_V6 { acquire_v6(slot, now) } else { acquire_v4(slot, now) }
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn acquire_v4(slot: u32, now: u32) -> u32 {
    acquire_record::<V4>(slot, now)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn acquire_v6(slot: u32, now: u32) -> u32 {
    acquire_record::<V6>(slot, now)
}

#[inline(always)]
fn acquire_record<F: Flows>(slot: u32, now: u32) -> u32 {
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
    report::<F>(slot, state, now);
    delete_references::<F>(slot, dying);
    u32::from(change_state::<F>(record, dying.free(), dying.successor(now)))
}

/// Reports the eviction of a flow that was in this state, unless it had expired.
#[inline(always)]
fn report<F: Flows>(slot: u32, state: FlowState, now: u32) {
    if F::IS_V6 {
        report_eviction_v6(slot, state.0, now)
    } else {
        report_eviction_v4(slot, state.0, now)
    };
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn report_eviction_v4(slot: u32, state: u64, now: u32) -> u32 {
    report_eviction::<V4>(slot, FlowState(state), now)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn report_eviction_v6(slot: u32, state: u64, now: u32) -> u32 {
    report_eviction::<V6>(slot, FlowState(state), now)
}

#[inline(always)]
fn report_eviction<F: Flows>(slot: u32, state: FlowState, now: u32) -> u32 {
    if !events::has_listener() {
        return 0;
    }
    let Some(record) = F::flow(slot) else { return 0 };
    if is_expired::<F>(record, state, now) {
        return 0;
    }
    let words = |address: F::Bytes| F::mapped(F::address(address));
    events::write(What::new(EventKind::Evicted, EventHook::Conntrack, 0), |event| {
        // SAFETY: a record of an array map. Its ends change only after it was deleted.
        let record = unsafe { &*record };
        event.set_source(words(record.client), record.client_port);
        event.set_destination(words(record.destination), record.destination_port);
        event.set_backend(words(record.backend), record.backend_port);
        event.set_service(record.service);
        event.set_protocol(record.protocol);
    });
    0
}
