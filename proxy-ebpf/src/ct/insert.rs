//! Insertion of the conntrack entries of a new flow.
//!
//! Entries are added in the order in which packets could need them: the reply's first, the original direction's last.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_prandom_u32, generated::bpf_loop};
use proxy_ebpf::abi::{DropReason, Flow, FlowFlags, FlowRef, TupleKind};

use super::{
    allocate::{NO_SLOT, allocate},
    table::{Flows, Lookup, TrackedFlow, delete_entries, load_state, lookup, store_state, tuple_of},
};
use crate::{clock, packet::header::SCTP};

/// An allocated record to which no entry refers yet.
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
    pub fn record(&mut self) -> &mut Flow<F::Bytes> {
        // SAFETY: this CPU owns the record since `allocate`, no entry refers to it, and it lies in an array map.
        unsafe { &mut *self.0.record }
    }

    /// Inserts the entries. Returns the slot, of another CPU's record if that one inserted the same flow first.
    #[inline(always)]
    pub fn confirm(self) -> Result<u32, DropReason> {
        match insert_entries::<F>(self.0.record, self.0.slot, self.0.state.tag()) {
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
        delete_entries::<F>(self.0.record, self.0.slot, dying.0);
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

/// Inserts the entries of an unconfirmed flow.
#[inline(never)]
fn insert_entries<F: Flows>(record: *mut Flow<F::Bytes>, slot: u32, tag: u32) -> u64 {
    let reply = insert_reply::<F>(slot, tag);
    if reply != Inserted::NEW {
        return reply;
    }
    // SAFETY: `record` points into an array map, whose memory lives as long as the program.
    if unsafe { (*record).flags.contains(FlowFlags::MASQUERADE) } {
        match insert_entry::<F>(record, slot, tag, TupleKind::OriginalAfterDnat) {
            EntryInserted::New => {}
            other @ (EntryInserted::Duplicate(_) | EntryInserted::Refused(_)) => return other.code(),
        }
    }
    insert_entry::<F>(record, slot, tag, TupleKind::Original).code()
}

/// The result of the insertion of one entry.
#[derive(Clone, Copy)]
enum EntryInserted {
    New,
    /// The flow in this slot has the tuple.
    Duplicate(u32),
    Refused(DropReason),
}

impl EntryInserted {
    #[inline(always)]
    fn code(self) -> u64 {
        match self {
            Self::New => Inserted::NEW,
            Self::Duplicate(slot) => slot.into(),
            Self::Refused(reason) => Inserted::refused(reason),
        }
    }
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

/// Inserts the reply's entry, which decides the client's source port after DNAT: its own, or another one if the client reaches the
/// same backend through another frontend from the same port.
#[inline(always)]
fn insert_reply<F: Flows>(slot: u32, tag: u32) -> u64 {
    let mut search = PortSearch { slot, tag, result: Inserted::refused(DropReason::NoTranslatedPort) };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = try_port::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `search` outlives the loop.
    unsafe { bpf_loop(1 + OTHER_PORTS, callback as *mut c_void, (&raw mut search).cast(), 0) };
    search.result
}

/// Tries one port. Returns 1 to end the search.
extern "C" fn try_port<F: Flows>(_: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `insert_reply`.
    let search = unsafe { &mut *search.cast::<PortSearch>() };
    let Some(record) = F::flow(search.slot) else { return 1 };
    let inserted = insert_entry::<F>(record, search.slot, search.tag, TupleKind::ReplyAfterReverseSnat);
    if let EntryInserted::Duplicate(other) = inserted
        && !is_same_flow::<F>(record, other)
    {
        // SAFETY: this CPU owns the record, which lies in an array map.
        unsafe {
            // SCTP's checksum cannot be updated for another port.
            if (*record).protocol == SCTP {
                return 1;
            }
            (*record).translated_port = random_port();
        }
        return 0;
    }
    search.result = inserted.code();
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

/// Whether the flow in a slot has the same client and destination.
#[inline(always)]
fn is_same_flow<F: Flows>(record: *mut Flow<F::Bytes>, slot: u32) -> bool {
    let Some(other) = F::flow(slot) else { return false };
    // SAFETY: both point into an array map. A torn read of a record that is reused meanwhile yields a difference, and then
    // another port is taken, which is harmless.
    let (a, b) = unsafe { (&*record, &*other) };
    F::is_same(a.client, b.client)
        && F::is_same(a.destination, b.destination)
        && a.client_port == b.client_port
        && a.destination_port == b.destination_port
}

#[inline(always)]
fn insert_entry<F: Flows>(
    record: *mut Flow<F::Bytes>,
    slot: u32,
    tag: u32,
    kind: TupleKind,
) -> EntryInserted {
    let tuple = tuple_of::<F>(record, kind);
    let reference = FlowRef::new(slot, tag, kind);
    if F::insert_flow_ref(&tuple, &reference, false).is_ok() {
        return EntryInserted::New;
    }
    match lookup::<F>(&tuple) {
        Lookup::Found(other) => EntryInserted::Duplicate(other.slot),
        Lookup::Dying => EntryInserted::Refused(DropReason::FlowEnding),
        // A stale entry, or no memory: replacing it tells which.
        Lookup::NotFound => match F::insert_flow_ref(&tuple, &reference, true) {
            Ok(()) => EntryInserted::New,
            Err(_) => EntryInserted::Refused(DropReason::ConntrackNoMemory),
        },
    }
}

/// The result of `insert_masqueraded_reply` where the kernel has no memory.
pub const NO_MEMORY: u32 = NO_SLOT - 1;

/// Inserts the entry for replies to a masqueraded flow. Returns its slot; that of another flow if the tuple is in use; `NO_MEMORY`;
/// `NO_SLOT` if the flow with the tuple is being deleted.
#[inline(always)]
pub fn insert_masqueraded_reply<F: Flows>(record: *mut Flow<F::Bytes>, slot: u32, tag: u32) -> u32 {
    match insert_entry::<F>(record, slot, tag, TupleKind::Reply) {
        EntryInserted::New => slot,
        EntryInserted::Duplicate(other) => other,
        EntryInserted::Refused(DropReason::ConntrackNoMemory) => NO_MEMORY,
        EntryInserted::Refused(_) => NO_SLOT,
    }
}
