//! Insertion of the references of flows that an earlier version tracked: it left the records, and references of another layout.
//!
//! It may run beside programs of either version that create and delete flows.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use proxy_ebpf::abi::{FlowFlags, MASQUERADE_DONE, TupleKind, map};

use super::{
    insert::insert_reference,
    table::{Flows, load_state},
};
use crate::family::{V4, V6};

/// A range of records.
#[repr(C)]
struct Range {
    first: u32,
}

/// Adopts the flows of `map::ADOPTED_PER_RUN` records of each family.
#[inline(always)]
pub fn adopt(first: u32) {
    adopt_range::<V4>(first);
    adopt_range::<V6>(first);
}

#[inline(always)]
fn adopt_range<F: Flows>(first: u32) {
    let mut range = Range { first };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = step::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `range` outlives the loop.
    unsafe { bpf_loop(map::ADOPTED_PER_RUN, callback as *mut c_void, (&raw mut range).cast(), 0) };
}

extern "C" fn step<F: Flows>(at: u64, range: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `adopt_range`.
    let range = unsafe { &*range.cast::<Range>() };
    adopt_flow::<F>(range.first.wrapping_add(at as u32));
    0
}

/// A flow whose record is being filled gets references to tuples that it will not have. They lead nowhere, as a lookup compares the
/// tuple with the record, and are replaced once the flow has ended. A flow without room is found again by its next SYN or datagram
/// only, as if it had not been adopted.
#[inline(always)]
fn adopt_flow<F: Flows>(slot: u32) {
    let Some(record) = F::flow(slot) else { return };
    let state = load_state::<F>(record);
    if !state.is_alive() {
        return;
    }
    // SAFETY: `record` points into an array map, whose memory lives as long as the program.
    let (is_masqueraded, has_source) = unsafe {
        ((*record).flags.contains(FlowFlags::MASQUERADE), (*record).masquerade_state == MASQUERADE_DONE)
    };
    let tag = state.tag();
    let _ = insert_reference::<F>(slot, tag, TupleKind::ReplyAfterReverseSnat);
    if is_masqueraded {
        let _ = insert_reference::<F>(slot, tag, TupleKind::OriginalAfterDnat);
    }
    if has_source {
        let _ = insert_reference::<F>(slot, tag, TupleKind::Reply);
    }
    let _ = insert_reference::<F>(slot, tag, TupleKind::Original);
}
