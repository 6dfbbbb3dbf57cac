//! Ends flows that have expired, with or without an agent: a timer in a pinned map, whose callback looks at a bounded piece
//! of the tables each time.
//!
//! A sweep and a packet contend for a flow's state by compare-and-swap, so a flow that is revived is not swept.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_timer,
    btf_maps::Array,
    helpers::generated::{bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
    macros::btf_map,
};

use crate::{
    clock,
    config::flows,
    conntrack::sweep,
    family::{Family, V4, V6},
};

/// The timer, and how far it has come. The kernel finds the timer by its type.
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
/// Records of each family at a time: the tables are gone through in seconds, and no CPU is held for long.
const PIECE: u32 = 2048;

/// Starts the timer, or gives the one that runs this program's callback. 0: it runs.
#[inline(always)]
pub fn start() -> i32 {
    let Some(sweeper) = SWEEPER.get_ptr_mut(0) else { return -1 };
    // SAFETY: the timer lies in this map. A timer that an earlier program set up answers that it is busy, and gets its new
    // callback all the same.
    unsafe {
        let timer = &raw mut (*sweeper).timer;
        let map = (&raw const SWEEPER).cast_mut().cast();
        let _ = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        let callback: extern "C" fn(*mut c_void, *mut u32, *mut Sweeper) -> i32 = swept;
        let set = bpf_timer_set_callback(timer, callback as *mut c_void);
        if set != 0 {
            return set as i32;
        }
        bpf_timer_start(timer, INTERVAL, 0) as i32
    }
}

/// One piece.
extern "C" fn swept(_: *mut c_void, _: *mut u32, sweeper: *mut Sweeper) -> i32 {
    // SAFETY: the kernel passes the value that the timer lies in.
    let first = unsafe { (*sweeper).next };
    sweep_piece::<V4>(first);
    sweep_piece::<V6>(first);
    let next = first.wrapping_add(PIECE);
    // SAFETY: as above; a timer's callback does not run twice at a time.
    unsafe {
        (*sweeper).next = if next < flows() { next } else { 0 };
        bpf_timer_start(&raw mut (*sweeper).timer, INTERVAL, 0);
    }
    0
}

/// A piece of one table.
#[repr(C)]
struct Piece {
    first: u32,
    now: u32,
}

#[inline(always)]
fn sweep_piece<F: Family>(first: u32) {
    let mut piece = Piece { first, now: clock::ticks() };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = step::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `piece` outlives the loop.
    unsafe { bpf_loop(PIECE, callback as *mut c_void, (&raw mut piece).cast(), 0) };
}

extern "C" fn step<F: Family>(at: u64, piece: *mut c_void) -> i64 {
    // SAFETY: the kernel passes on the pointer that `sweep_piece` gave.
    let piece = unsafe { &*piece.cast::<Piece>() };
    sweep::<F>(piece.first.wrapping_add(at as u32), piece.now);
    0
}
