//! Deletion of expired flows, and the traffic of the others, with or without an agent: a `bpf_timer` in a pinned map, whose
//! callback sweeps a bounded part of the tables each time.
//!
//! Sweep and packets contend for a flow's state by compare-and-swap, so a refreshed flow is not deleted.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_timer,
    btf_maps::Array,
    helpers::generated::{bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
    macros::btf_map,
};

use super::{
    Flows, counters,
    table::{change_state, delete_references, is_expired, load_state},
};
use crate::{
    clock,
    config::max_flows,
    family::{V4, V6},
};

/// The timer and its position. The kernel finds the timer by its BTF type.
#[repr(C)]
pub struct Sweeper {
    timer: bpf_timer,
    next: u32,
    zero: u32,
}

#[btf_map]
static SWEEPER: Array<Sweeper, 1> = Array::new();

const CLOCK_MONOTONIC: u64 = 1;
const MILLISECOND: u64 = 1_000_000;
const INTERVAL: u64 = 100 * MILLISECOND;
/// Records of each family per callback: a full sweep takes seconds, and a callback occupies its CPU only briefly.
const BATCH: u32 = 2048;

/// Starts the timer, or replaces the callback of a running one. Returns 0 on success.
#[inline(always)]
pub fn start() -> i32 {
    let Some(sweeper) = SWEEPER.get_ptr_mut(0) else { return -1 };
    // SAFETY: the timer lies in this map. For a timer that an earlier program initialised, `bpf_timer_init` returns EBUSY, and
    // the callback is replaced all the same.
    unsafe {
        let timer = &raw mut (*sweeper).timer;
        let map = (&raw const SWEEPER).cast_mut().cast();
        let _ = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        let callback: extern "C" fn(*mut c_void, *mut u32, *mut Sweeper) -> i32 = on_timer;
        let set = bpf_timer_set_callback(timer, callback as *mut c_void);
        if set != 0 {
            return set as i32;
        }
        bpf_timer_start(timer, INTERVAL, 0) as i32
    }
}

extern "C" fn on_timer(_: *mut c_void, _: *mut u32, sweeper: *mut Sweeper) -> i32 {
    // SAFETY: the kernel passes the map value that contains the timer.
    let first = unsafe { (*sweeper).next };
    sweep_batch::<V4>(first);
    sweep_batch::<V6>(first);
    let next = first.wrapping_add(BATCH);
    // SAFETY: as above; a timer's callback does not run concurrently with itself.
    unsafe {
        (*sweeper).next = if next < max_flows() { next } else { 0 };
        bpf_timer_start(&raw mut (*sweeper).timer, INTERVAL, 0);
    }
    0
}

/// A range of records.
#[repr(C)]
struct Batch {
    first: u32,
    now: u32,
}

#[inline(always)]
fn sweep_batch<F: Flows>(first: u32) {
    let mut batch = Batch { first, now: clock::ticks() };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = step::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `batch` outlives the loop.
    unsafe { bpf_loop(BATCH, callback as *mut c_void, (&raw mut batch).cast(), 0) };
}

extern "C" fn step<F: Flows>(at: u64, batch: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `sweep_batch`.
    let batch = unsafe { &*batch.cast::<Batch>() };
    sweep_record::<F>(batch.first.wrapping_add(at as u32), batch.now);
    0
}

#[inline(always)]
fn sweep_record<F: Flows>(slot: u32, now: u32) {
    let Some(record) = F::flow(slot) else { return };
    let state = load_state::<F>(record);
    if !state.is_alive() {
        return;
    }
    if is_expired::<F>(record, state, now) {
        let dying = state.dying();
        if change_state::<F>(record, state, dying) {
            delete_references::<F>(slot, dying);
        }
    } else {
        // SAFETY: `record` points into an array map; one aligned half-word.
        let service = unsafe { (&raw const (*record).service).read_volatile() };
        counters::add_to_service::<F>(slot, service);
    }
}
