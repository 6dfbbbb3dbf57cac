//! Insertion of the references to a new flow.
//!
//! They are added in the order in which packets could need them: the reply's first, the original direction's last.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_prandom_u32, generated::bpf_loop};
use proxy_ebpf::{
    abi::{DropReason, Flow, FlowFlags, FlowRef, TupleKind},
    bucket,
};

use super::{
    allocate::{NO_SLOT, allocate},
    table::{Flows, TrackedFlow, bucket_of, delete_references, load_state, relation, store_state},
};
use crate::{
    clock,
    family::{V4, V6},
    packet::header::SCTP,
};

/// An allocated record to which no reference leads yet.
pub struct UnconfirmedFlow<F: Flows>(TrackedFlow<F>);

impl<F: Flows> UnconfirmedFlow<F> {
    /// Errors: `ConntrackFull`.
    #[inline(always)]
    pub fn new() -> Result<Self, DropReason> {
        let slot = allocate::<F>(clock::ticks());
        let record = u32::try_from(slot).ok().and_then(F::flow).ok_or(DropReason::ConntrackFull)?;
        let state = load_state::<F>(record);
        Ok(Self(TrackedFlow { record, slot: slot as u32, kind: TupleKind::Original, state }))
    }

    #[inline(always)]
    pub fn slot(&self) -> u32 {
        self.0.slot
    }

    #[inline(always)]
    pub fn record(&mut self) -> &mut Flow<F::Bytes> {
        // SAFETY: this CPU owns the record since `allocate`, no reference leads to it, and it lies in an array map.
        unsafe { &mut *self.0.record }
    }

    /// Inserts the references. Returns the slot, of another CPU's record if that one inserted the same flow first.
    #[inline(always)]
    pub fn confirm(self) -> Result<u32, DropReason> {
        match insert_references::<F>(self.0.record, self.0.slot, self.0.state.tag()) {
            Inserted::NEW => Ok(self.0.slot),
            code => {
                self.discard();
                Inserted(code).duplicate().ok_or(Inserted(code).reason())
            }
        }
    }

    #[inline(always)]
    fn discard(&self) {
        let dying = self.0.state.dying();
        store_state::<F>(self.0.record, dying);
        delete_references::<F>(self.0.slot, dying);
    }
}

/// The result of an insertion in one register, as functions that are not inlined return no more: below 2^32 the slot of the same
/// flow, inserted by another CPU; `NEW`; above it a drop reason.
struct Inserted(u64);

impl Inserted {
    const NEW: u64 = 1 << 32;
    const REFUSED: u64 = 1 << 33;

    #[inline(always)]
    fn refused(reason: DropReason) -> u64 {
        Self::REFUSED | reason as u64
    }

    #[inline(always)]
    fn duplicate(&self) -> Option<u32> {
        u32::try_from(self.0).ok()
    }

    #[inline(always)]
    fn reason(&self) -> DropReason {
        DropReason::of(self.0 as u8)
    }
}

/// Inserts the references to an unconfirmed flow.
#[inline(always)]
fn insert_references<F: Flows>(record: *mut Flow<F::Bytes>, slot: u32, tag: u32) -> u64 {
    let reply = insert_reply::<F>(record, slot, tag);
    if reply != Inserted::NEW {
        return reply;
    }
    // SAFETY: `record` points into an array map, whose memory lives as long as the program.
    if unsafe { (*record).flags.contains(FlowFlags::MASQUERADE) } {
        let after_dnat = insert_reference::<F>(slot, tag, TupleKind::OriginalAfterDnat);
        if after_dnat != Inserted::NEW {
            return after_dnat;
        }
    }
    insert_reference::<F>(slot, tag, TupleKind::Original)
}

/// Limit of other source ports that are tried if the tuple after DNAT is in use.
const OTHER_PORTS: u32 = 8;

/// A search for a source port after DNAT.
#[repr(C)]
struct PortSearch {
    slot: u32,
    tag: u32,
    /// An `Inserted`.
    result: u64,
}

/// Inserts the reply's reference, which decides the client's source port after DNAT: its own, or another one if the client reaches
/// the same backend through another frontend from the same port.
#[inline(always)]
fn insert_reply<F: Flows>(record: *mut Flow<F::Bytes>, slot: u32, tag: u32) -> u64 {
    let own_port = insert_reference::<F>(slot, tag, TupleKind::ReplyAfterReverseSnat);
    if !is_of_another_flow::<F>(record, own_port) {
        return own_port;
    }
    let mut search = PortSearch { slot, tag, result: Inserted::refused(DropReason::NoTranslatedPort) };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = try_port::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `search` outlives the loop.
    unsafe { bpf_loop(OTHER_PORTS, callback as *mut c_void, (&raw mut search).cast(), 0) };
    search.result
}

/// Tries another port. Returns 1 to end the search.
extern "C" fn try_port<F: Flows>(_: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `insert_reply`.
    let search = unsafe { &mut *search.cast::<PortSearch>() };
    let Some(record) = F::flow(search.slot) else { return 1 };
    // SAFETY: this CPU owns the record, which lies in an array map.
    unsafe {
        // SCTP's checksum cannot be updated for another port.
        if (*record).protocol == SCTP {
            return 1;
        }
        (*record).translated_port = random_port();
    }
    let inserted = insert_reference::<F>(search.slot, search.tag, TupleKind::ReplyAfterReverseSnat);
    if is_of_another_flow::<F>(record, inserted) {
        return 0;
    }
    search.result = inserted;
    1
}

/// Another unprivileged port.
#[inline(always)]
pub fn other_port(port: [u8; 2]) -> [u8; 2] {
    let other = random_port();
    // The lowest bit stays within the range, as it begins with an even number.
    if other == port { [other[0], other[1] ^ 1] } else { other }
}

#[inline(always)]
fn random_port() -> [u8; 2] {
    // SAFETY: takes no argument and has no precondition.
    let random = unsafe { bpf_get_prandom_u32() };
    (1024 + (random % 64_512) as u16).to_be_bytes()
}

/// Whether a tuple after DNAT belongs to a flow with another client or destination.
#[inline(always)]
fn is_of_another_flow<F: Flows>(record: *mut Flow<F::Bytes>, inserted: u64) -> bool {
    let Some(other) = Inserted(inserted).duplicate().and_then(F::flow) else { return false };
    // SAFETY: both point into an array map. A torn read of a record that is reused meanwhile yields a difference, and then
    // another port is taken, which is harmless.
    let (a, b) = unsafe { (&*record, &*other) };
    !(F::is_same(a.client, b.client)
        && F::is_same(a.destination, b.destination)
        && a.client_port == b.client_port
        && a.destination_port == b.destination_port)
}

/// Inserts one of a flow's references. Returns an `Inserted`.
#[inline(always)]
pub(super) fn insert_reference<F: Flows>(slot: u32, tag: u32, kind: TupleKind) -> u64 {
    if F::IS_V6 {
        insert_reference_v6(slot, tag, kind as u32)
    } else {
        insert_reference_v4(slot, tag, kind as u32)
    }
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn insert_reference_v4(slot: u32, tag: u32, kind: u32) -> u64 {
    insert_one::<V4>(slot, tag, TupleKind::of(kind))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn insert_reference_v6(slot: u32, tag: u32, kind: u32) -> u64 {
    insert_one::<V6>(slot, tag, TupleKind::of(kind))
}

#[inline(always)]
fn insert_one<F: Flows>(slot: u32, tag: u32, kind: TupleKind) -> u64 {
    if F::flow(slot).is_none_or(|record| load_state::<F>(record).tag() != tag) {
        return Inserted::refused(DropReason::FlowEnding);
    }
    let Some(bucket) = bucket_of::<F>(slot, kind) else {
        return Inserted::refused(DropReason::ConntrackBucketFull);
    };
    let reference = FlowRef::new(slot, tag, kind, bucket.hash);
    let inserted =
        bucket::insert(bucket, bucket.first(), reference, |other| relation::<F>(other, slot, kind));
    match inserted {
        bucket::Inserted::NEW => Inserted::NEW,
        bucket::Inserted::FULL => Inserted::refused(DropReason::ConntrackBucketFull),
        bucket::Inserted::DYING | bucket::Inserted::CANCELLED => Inserted::refused(DropReason::FlowEnding),
        // Its own if `ADOPT_FLOWS` was first.
        bucket::Inserted(other) if other == u64::from(slot) => Inserted::NEW,
        bucket::Inserted(other) => other,
    }
}

/// Inserts the reference for replies to a masqueraded flow. Returns its slot; that of another flow if the tuple is in use; else
/// `NO_SLOT`.
#[inline(always)]
pub fn insert_masqueraded_reply<F: Flows>(slot: u32, tag: u32) -> u32 {
    match insert_reference::<F>(slot, tag, TupleKind::Reply) {
        Inserted::NEW => slot,
        code => Inserted(code).duplicate().unwrap_or(NO_SLOT),
    }
}
