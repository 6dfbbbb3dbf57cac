//! Flow records and the references to them: lookup, refresh, deletion.
//!
//! Invariants: a record is owned by the CPU that changed its state by compare-and-swap. References in `CONNTRACK_*` are added only by
//! the owner of an unconfirmed record, and deleted only by the owner of a dying one. So both directions of a flow live and die
//! together, and a flow that was refreshed is never deleted.
//!
//! A lookup reads two cache lines, of the bucket and of the record; without a flow those of the bucket.

use core::{mem::offset_of, ptr};

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use proxy_ebpf::{
    abi::{
        BUCKET, Bucket, ConfigFlags, Direction, EventHook, FLOWS_PER_BUCKET, Flow, FlowDirection, FlowFlags,
        FlowRef, FlowState, FlowV4, FlowV6, HashKeys, HealthFault, LINE, MASQUERADE_NONE, Positions, Segment,
        Tuple, TupleHash, TupleKind, TupleV4, TupleV6,
        flow_state::{BitChange, tcp},
        hash_v4, hash_v6, map,
    },
    bucket::{self, BucketWords, Relation},
};

use super::counters;
use crate::{
    atomic, clock,
    config::{flags as flags_of_config, max_flows, timeouts},
    family::{V4, V6, Words, same},
    lb::{Tables, affinity, health},
    packet::{Headers, header::TCP},
    socket::SocketLookup,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static FLOWS_V4: Array<FlowV4, { map::MAX_FLOWS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FLOWS_V6: Array<FlowV6, { map::MAX_FLOWS as usize }, MMAPABLE> = Array::new();
// Mmapable also because only then the kernel aligns buckets to cache lines.
#[btf_map]
static CONNTRACK_V4: Array<Bucket, { map::MAX_BUCKETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static CONNTRACK_V6: Array<Bucket, { map::MAX_BUCKETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static HASH_KEYS: Array<HashKeys, 1> = Array::new();
#[btf_map]
static SEARCHED_V4: PerCpuArray<TupleV4, 1> = PerCpuArray::new();
#[btf_map]
static SEARCHED_V6: PerCpuArray<TupleV6, 1> = PerCpuArray::new();

/// The flow tables of a family.
pub trait Flows: Tables + Headers + SocketLookup {
    /// The record in a slot.
    fn flow(slot: u32) -> Option<*mut Flow<Self::Bytes>>;

    /// The references in a bucket.
    fn bucket(at: u32) -> Option<*mut Bucket>;

    /// Scratch: the tuple that `find` is for.
    fn searched() -> Option<*mut Tuple<Self::Bytes>>;

    /// The hash of a tuple; `ends` as `Tuple::ends`.
    fn hash(source: Self::Address, destination: Self::Address, ends: u64) -> Option<TupleHash>;

    /// `TrackedFlow::use_for`, verified once. `state` is that of the lookup; `numbers` are sequence and acknowledgement; `flags` and
    /// length of the packet are one word, as five arguments are the limit.
    fn use_flow(slot: u32, state: u64, numbers: u64, flags: u64, is_reply: u32) -> u32;
}

macro_rules! flows {
    (
        $family:ident,
        $address:ty,
        $flows:ident,
        $conntrack:ident,
        $flow:ident,
        $tuple:ident,
        $searched:ident,
        $hash:ident,
        $use_flow:ident
    ) => {
        /// With external linkage: verified once, not for each call.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $use_flow(slot: u32, state: u64, numbers: u64, flags: u64, is_reply: u32) -> u32 {
            let Some(record) = $family::flow(slot) else { return 0 };
            let (kind, state) = (TupleKind::Original, FlowState(state));
            let flow = TrackedFlow::<$family> { record, slot, kind, state };
            let segment = Segment {
                flags: flags as u8,
                sequence: (numbers >> 32) as u32,
                acknowledged: numbers as u32,
            };
            let direction = if is_reply != 0 { FlowDirection::Reply } else { FlowDirection::Original };
            let used = flow.used_for(direction, &segment);
            if used != Used::ENDED && !flags_of_config().contains(ConfigFlags::UNCOUNTED_FLOWS) {
                counters::count::<$family>(slot, direction, (flags >> 32) as u32);
            }
            used
        }

        impl Flows for $family {
            #[inline(always)]
            fn flow(slot: u32) -> Option<*mut $flow> {
                $flows.get_ptr_mut(slot)
            }

            #[inline(always)]
            fn bucket(at: u32) -> Option<*mut Bucket> {
                $conntrack.get_ptr_mut(at)
            }

            #[inline(always)]
            fn searched() -> Option<*mut $tuple> {
                $searched.get_ptr_mut(0)
            }

            #[inline(always)]
            fn hash(source: $address, destination: $address, ends: u64) -> Option<TupleHash> {
                let keys = HASH_KEYS.get_ptr(0)?;
                // SAFETY: within an array map, whose memory lives as long as the program. Volatile, so that the keys are read one by
                // one: all of them at once do not fit in registers.
                Some($hash(source, destination, ends, |at| unsafe {
                    (&raw const (*keys).keys[at]).read_volatile()
                }))
            }

            #[inline(always)]
            fn use_flow(slot: u32, state: u64, numbers: u64, flags: u64, is_reply: u32) -> u32 {
                $use_flow(slot, state, numbers, flags, is_reply)
            }
        }
    };
}

flows!(V4, u32, FLOWS_V4, CONNTRACK_V4, FlowV4, TupleV4, SEARCHED_V4, hash_v4, use_flow_v4);
flows!(V6, Words, FLOWS_V6, CONNTRACK_V6, FlowV6, TupleV6, SEARCHED_V6, hash_v6, use_flow_v6);

/// The bucket of a tuple, as `BucketWords`.
#[derive(Clone, Copy)]
pub(super) struct BucketOf {
    words: *mut FlowRef,
    pub hash: TupleHash,
}

impl BucketOf {
    #[inline(always)]
    fn of<F: Flows>(hash: TupleHash) -> Option<Self> {
        let buckets = max_flows().div_ceil(FLOWS_PER_BUCKET);
        Some(Self { words: F::bucket(hash.bucket(buckets))?.cast(), hash })
    }

    /// The first position of the preferred line.
    #[inline(always)]
    pub fn first(&self) -> u32 {
        self.hash.line() * LINE
    }

    /// The confirmed references in a line with the tuple's fingerprint: their number, and the only one.
    #[inline(always)]
    fn matches(&self, first: u32) -> (u64, FlowRef) {
        let (mut count, mut found) = (0, 0);
        for at in 0..LINE {
            let reference = self.load(first + at);
            let is_match = reference.is_confirmed_for(self.hash);
            count += is_match;
            found |= reference.0 & 0_u64.wrapping_sub(is_match);
        }
        (count, FlowRef(found))
    }
}

impl BucketWords for BucketOf {
    const COUNT: u32 = BUCKET as u32;

    #[inline(always)]
    fn load(&self, at: u32) -> FlowRef {
        // SAFETY: within the bucket, which lies in an array map; one aligned word, volatile because other CPUs write it.
        unsafe { self.words.add((at % Self::COUNT) as usize).read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, at: u32, old: FlowRef, new: FlowRef) -> FlowRef {
        // SAFETY: within the bucket.
        let word = unsafe { self.words.add((at % Self::COUNT) as usize) };
        FlowRef(atomic::compare_exchange(word.cast(), old.0, new.0))
    }
}

/// A flow that was alive when it was looked up.
#[derive(Clone, Copy)]
pub struct TrackedFlow<F: Flows> {
    pub record: *mut Flow<F::Bytes>,
    pub slot: u32,
    /// Which of its tuples the packet has.
    pub kind: TupleKind,
    /// The state when it was looked up.
    pub state: FlowState,
}

/// The result of a lookup by tuple.
pub enum Lookup<F: Flows> {
    Found(TrackedFlow<F>),
    /// The flow is being deleted by another CPU.
    Dying,
    NotFound,
}

#[inline(always)]
pub fn lookup<F: Flows>(tuple: &Tuple<F::Bytes>) -> Lookup<F> {
    let reference = find::<F>(tuple);
    let Some(record) = F::flow(reference.slot()).filter(|_| !reference.is_none()) else {
        return Lookup::NotFound;
    };
    let state = load_state::<F>(record);
    if state.tag() != reference.tag() {
        return Lookup::NotFound;
    }
    if !state.is_alive() {
        return if state.has(FlowState::DYING) { Lookup::Dying } else { Lookup::NotFound };
    }
    Lookup::Found(TrackedFlow { record, slot: reference.slot(), kind: reference.kind(), state })
}

/// The confirmed reference from a tuple, `FlowRef::NONE` if there is none. The tuple is passed in a map: its address would keep it on
/// the caller's stack.
#[inline(always)]
fn find<F: Flows>(tuple: &Tuple<F::Bytes>) -> FlowRef {
    let Some(searched) = F::searched() else { return FlowRef::NONE };
    // SAFETY: this CPU's own; programs at devices do not interrupt each other.
    unsafe { *searched = *tuple };
    FlowRef(if F::IS_V6 { find_v6(searched_hash_v6()) } else { find_v4(searched_hash_v4()) })
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_v4(hash: u32) -> u64 {
    find_searched::<V4>(TupleHash(hash)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_v6(hash: u32) -> u64 {
    find_searched::<V6>(TupleHash(hash)).0
}

#[inline(always)]
fn find_searched<F: Flows>(hash: TupleHash) -> FlowRef {
    let Some(bucket) = BucketOf::of::<F>(hash) else { return FlowRef::NONE };
    let (mut count, mut reference) = bucket.matches(bucket.first());
    if count == 0 {
        (count, reference) = bucket.matches(bucket.first() ^ LINE);
    }
    if count == 1 && !flags_of_config().contains(ConfigFlags::UNCOUNTED_FLOWS) {
        counters::prefetch::<F>(reference);
    }
    if count == 0 || (count == 1 && is_of_searched::<F>(reference)) {
        return reference;
    }
    // Another tuple has this fingerprint: one lookup in a thousand.
    for at in 0..BucketOf::COUNT {
        let reference = bucket.load(at);
        if reference.is_confirmed_for(bucket.hash) != 0 && is_of_searched::<F>(reference) {
            return reference;
        }
    }
    FlowRef::NONE
}

/// With external linkage: its frame has ended before the references are compared, on one of the deepest call chains.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn searched_hash_v4() -> u32 {
    searched_hash::<V4>()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn searched_hash_v6() -> u32 {
    searched_hash::<V6>()
}

#[inline(always)]
fn searched_hash<F: Flows>() -> u32 {
    let Some(tuple) = F::searched() else { return 0 };
    // SAFETY: as in `find`.
    let tuple = unsafe { &*tuple };
    let hash = F::hash(F::address(tuple.source), F::address(tuple.destination), tuple.ends());
    hash.map_or(0, |hash| hash.0)
}

/// Whether a reference is that of a flow with the tuple that `find` is for.
#[inline(always)]
fn is_of_searched<F: Flows>(reference: FlowRef) -> bool {
    (if F::IS_V6 { is_of_searched_v6(reference.0) } else { is_of_searched_v4(reference.0) }) != 0
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_of_searched_v4(reference: u64) -> u32 {
    is_of::<V4>(FlowRef(reference)).into()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_of_searched_v6(reference: u64) -> u32 {
    is_of::<V6>(FlowRef(reference)).into()
}

#[inline(always)]
fn is_of<F: Flows>(reference: FlowRef) -> bool {
    let (Some(record), Some(tuple)) = (F::flow(reference.slot()), F::searched()) else { return false };
    // SAFETY: as in `find`.
    let tuple = unsafe { &*tuple };
    let state = load_state::<F>(record);
    let ends = Ends::<F>::of(record, reference.kind());
    state.tag() == reference.tag()
        && state.has(FlowState::ALIVE)
        && ends.is_of(F::address(tuple.source), F::address(tuple.destination), tuple.ends())
}

/// The flow in a slot, as for a packet of its original direction.
#[inline(always)]
pub fn flow_in<F: Flows>(slot: u32) -> Option<TrackedFlow<F>> {
    let record = F::flow(slot)?;
    Some(TrackedFlow { record, slot, kind: TupleKind::Original, state: load_state::<F>(record) })
        .filter(|flow| flow.state.is_alive())
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_answer_v4(slot: u32, used: u32) -> u32 {
    note_answer::<V4>(slot, used)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_answer_v6(slot: u32, used: u32) -> u32 {
    note_answer::<V6>(slot, used)
}

/// Notes the first answer of a flow's backend to its SYN. If the flow has ended meanwhile, another one's backend is taken for its own, at
/// worst.
#[inline(always)]
fn note_answer<F: Flows>(slot: u32, used: u32) -> u32 {
    let Some(record) = F::flow(slot) else { return 0 };
    // SAFETY: `record` points into an array map; plain words.
    let reference = unsafe { (*record).reference };
    if used == Used::REFUSED {
        health::failed(F::IS_V6, reference, HealthFault::Refused, EventHook::Conntrack);
    } else {
        health::answered(F::IS_V6, reference, EventHook::Conntrack);
    }
    0
}

/// The result of `Flows::use_flow`.
struct Used;

impl Used {
    /// The flow was deleted meanwhile.
    const ENDED: u32 = 0;
    const ON: u32 = 1;
    /// The packet is the backend's first answer to the SYN: it accepts.
    const ANSWERED: u32 = 2;
    /// The same: it refuses.
    const REFUSED: u32 = 3;
}

/// Limit of retries of a contended compare-and-swap.
const ATTEMPTS: u32 = 4;

impl<F: Flows> TrackedFlow<F> {
    /// The record. `is_current` tells afterwards whether it was this flow's during all reads.
    #[inline(always)]
    pub fn record(&self) -> &'static Flow<F::Bytes> {
        // SAFETY: `record` points into an array map, whose memory lives as long as the program.
        unsafe { &*self.record }
    }

    /// Whether the record is still this flow's.
    #[inline(always)]
    pub fn is_current(&self) -> bool {
        load_state::<F>(self.record).tag() == self.state.tag()
    }

    /// Updates state and time of last use. Returns `false` if the flow was deleted meanwhile.
    ///
    /// Writes at most once per tick, unless the state changes.
    #[inline(always)]
    fn refresh(&self, change: BitChange, now: u32) -> bool {
        let mut state = self.state;
        for _ in 0..ATTEMPTS {
            let next = state.with(change, now);
            if next == state {
                return true;
            }
            let found = FlowState(atomic::compare_exchange(self.record.cast(), state.0, next.0));
            if found == state {
                return true;
            }
            if found.tag() != state.tag() || !found.is_alive() {
                return false;
            }
            state = found;
        }
        // Other CPUs refresh it continuously, so it is alive. At worst a state change is recorded one packet later.
        true
    }

    /// Counts a packet of so many bytes, and updates state, time of last use and the streams' positions for it. The client of a flow that becomes assured keeps its
    /// backend as its affinity. Returns `false` if the flow was deleted meanwhile.
    #[inline(always)]
    pub fn use_for(&self, direction: FlowDirection, segment: &Segment, length: u32) -> bool {
        let used = self.used(direction, segment, length);
        if matches!(direction, FlowDirection::Reply) && used > Used::ON {
            // Here, as its frame has ended.
            if F::IS_V6 {
                note_answer_v6(self.slot, used)
            } else {
                note_answer_v4(self.slot, used)
            };
        }
        used != Used::ENDED
    }

    /// As `use_for`, of a packet that tells nothing about the health of the backend.
    #[inline(always)]
    pub fn use_silently(&self, direction: FlowDirection, segment: &Segment, length: u32) -> bool {
        self.used(direction, segment, length) != Used::ENDED
    }

    #[inline(always)]
    fn used(&self, direction: FlowDirection, segment: &Segment, length: u32) -> u32 {
        let numbers = u64::from(segment.sequence) << 32 | u64::from(segment.acknowledged);
        let is_reply = matches!(direction, FlowDirection::Reply);
        let flags = u64::from(length) << 32 | u64::from(segment.flags);
        F::use_flow(self.slot, self.state.0, numbers, flags, is_reply.into())
    }

    #[inline(always)]
    fn used_for(&self, direction: FlowDirection, segment: &Segment) -> u32 {
        let change = self.state.change(direction, self.follow(direction, segment));
        if !self.refresh(change, clock::ticks()) {
            return Used::ENDED;
        }
        let record = self.record();
        let is_kept = record.flags.contains(FlowFlags::AFFINITY) && change.clear & FlowState::UNASSURED != 0;
        if is_kept && self.state.has(FlowState::UNASSURED) {
            affinity::keep::<F>(F::address(record.client), record.service, record.reference);
        }
        if change.set & FlowState::SEEN_REPLY == 0 || self.state.has(FlowState::SEEN_REPLY) {
            Used::ON
        } else {
            self.answer(segment, change)
        }
    }

    /// The first answer to the SYN tells about the health of the backend. Of an untranslated flow there is none.
    #[inline(always)]
    fn answer(&self, segment: &Segment, change: BitChange) -> u32 {
        let record = self.record();
        if record.protocol != TCP || record.reference.generation == 0 {
            Used::ON
        } else if change.set & FlowState::RESET != 0 {
            Used::REFUSED
        } else if segment.flags & tcp::SYN != 0 {
            Used::ANSWERED
        } else {
            Used::ON
        }
    }

    /// Whether the flow's TCP segments are compared with its streams.
    #[inline(always)]
    pub fn is_followed(&self) -> bool {
        self.record().flags.contains(FlowFlags::FOLLOWED)
    }

    /// Where the flow's streams are.
    #[inline(always)]
    pub fn positions(&self) -> Positions {
        // SAFETY: `record` points into an array map; aligned half-words, volatile because other CPUs write them.
        unsafe {
            let positions = &raw const (*self.record).positions;
            Positions {
                client: (&raw const (*positions).client).read_volatile(),
                backend: (&raw const (*positions).backend).read_volatile(),
            }
        }
    }

    /// The flags of a segment as far as they are believed. Its stream's position follows it.
    #[inline(always)]
    fn follow(&self, direction: FlowDirection, segment: &Segment) -> u8 {
        let flags = segment.flags & tcp::FOLLOWED;
        if flags == 0 || !self.is_followed() {
            return flags;
        }
        let is_in_doubt = self.state.is_assured() && self.state.has(FlowState::IN_DOUBT);
        let is_reply = matches!(direction, FlowDirection::Reply);
        let (own, peer) = self.positions().seen_by(direction);
        if flags & (tcp::SYN | tcp::RST) == tcp::SYN {
            // The handshake sets the positions: of the first connection, or of the next one at the same backend.
            if !self.state.is_assured() || (is_reply && is_in_doubt) {
                self.set_position(direction, Positions::of(segment.sequence));
            }
            if is_reply && is_in_doubt {
                self.set_position(FlowDirection::Original, Positions::of(segment.acknowledged));
            }
            return flags;
        }
        if flags & tcp::RST != 0 && is_reply && is_in_doubt {
            // The backend refuses the next connection.
            return flags;
        }
        let believed =
            segment.believed(own, peer, self.state.is_assured()) & (tcp::FOLLOWED | tcp::ELSEWHERE);
        let moved = segment.moved(own);
        if believed & (tcp::ELSEWHERE | tcp::RST) == 0 && moved != own {
            self.set_position(direction, moved);
        }
        believed
    }

    /// If the record is another flow's since a moment ago, this costs that one a retransmission: its handshake sets the positions.
    #[inline(always)]
    fn set_position(&self, direction: FlowDirection, position: u16) {
        // SAFETY: `record` points into an array map; one aligned half-word. Of concurrent writes any is near enough.
        unsafe {
            let positions = &raw mut (*self.record).positions;
            match direction {
                FlowDirection::Original => (&raw mut (*positions).client).write_volatile(position),
                FlowDirection::Reply => (&raw mut (*positions).backend).write_volatile(position),
            }
        }
    }

    /// Notes that the flow is in doubt. If its state changes at the same time, the next such packet does.
    #[inline(always)]
    pub fn doubt(&self) {
        change_state::<F>(self.record, self.state, self.state.doubted());
    }

    /// Deletes the flow. Returns `false` if it was refreshed, or another CPU deletes it.
    #[inline(always)]
    pub fn delete(&self) -> bool {
        let dying = self.state.dying();
        if !change_state::<F>(self.record, self.state, dying) {
            return false;
        }
        delete_references::<F>(self.slot, dying);
        true
    }
}

#[inline(always)]
pub(super) fn load_state<F: Flows>(record: *mut Flow<F::Bytes>) -> FlowState {
    // SAFETY: `record` points into an array map; one aligned word.
    FlowState(unsafe { record.cast::<u64>().read_volatile() })
}

#[inline(always)]
pub(super) fn store_state<F: Flows>(record: *mut Flow<F::Bytes>, state: FlowState) {
    // SAFETY: the caller owns the record; one aligned word.
    unsafe { record.cast::<u64>().write_volatile(state.0) }
}

/// Changes the state by compare-and-swap. Returns `false` if it was not `old`.
#[inline(always)]
pub(super) fn change_state<F: Flows>(record: *mut Flow<F::Bytes>, old: FlowState, new: FlowState) -> bool {
    atomic::compare_exchange(record.cast(), old.0, new.0) == old.0
}

#[inline(always)]
pub(super) fn is_expired<F: Flows>(record: *mut Flow<F::Bytes>, state: FlowState, now: u32) -> bool {
    // SAFETY: `record` points into an array map; one byte.
    let protocol = unsafe { (&raw const (*record).protocol).read_volatile() };
    state.is_expired(protocol, &timeouts(), now)
}

/// Deletes the references to a dying flow, and frees its record.
#[inline(always)]
pub(super) fn delete_references<F: Flows>(slot: u32, dying: FlowState) {
    if F::IS_V6 {
        delete_references_v6(slot, dying.0)
    } else {
        delete_references_v4(slot, dying.0)
    };
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn delete_references_v4(slot: u32, dying: u64) -> u32 {
    delete_all::<V4>(slot, FlowState(dying))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn delete_references_v6(slot: u32, dying: u64) -> u32 {
    delete_all::<V6>(slot, FlowState(dying))
}

#[inline(always)]
fn delete_all<F: Flows>(slot: u32, dying: FlowState) -> u32 {
    let Some(record) = F::flow(slot) else { return 0 };
    // SAFETY: `record` points into an array map; this CPU owns the dying record.
    let (is_masqueraded, has_source, service) = unsafe {
        (
            (*record).flags.contains(FlowFlags::MASQUERADE),
            (*record).masquerade_state != MASQUERADE_NONE,
            (*record).service,
        )
    };
    counters::add_to_service::<F>(slot, service);
    delete_reference::<F>(slot, dying, TupleKind::Original);
    if is_masqueraded {
        delete_reference::<F>(slot, dying, TupleKind::OriginalAfterDnat);
    }
    if has_source {
        delete_reference::<F>(slot, dying, TupleKind::Reply);
    }
    delete_reference::<F>(slot, dying, TupleKind::ReplyAfterReverseSnat);
    store_state::<F>(record, dying.free());
    0
}

#[inline(always)]
fn delete_reference<F: Flows>(slot: u32, dying: FlowState, kind: TupleKind) {
    if let Some(bucket) = bucket_of::<F>(slot, kind) {
        bucket::remove(bucket, FlowRef::new(slot, dying.tag(), kind, bucket.hash));
    }
}

/// One of the four tuples of a flow, in place: copies would need much of the stack.
struct Ends<F: Flows> {
    source: *const F::Bytes,
    destination: *const F::Bytes,
    /// Ports, protocol and direction, as `Tuple::ends`.
    rest: u64,
}

/// Where addresses and ports of records are, `Ends` reads them as words.
const _: () = assert!(
    offset_of!(FlowV4, client).is_multiple_of(4)
        && offset_of!(FlowV6, client).is_multiple_of(4)
        && offset_of!(FlowV4, client_port).is_multiple_of(2)
        && offset_of!(FlowV6, client_port).is_multiple_of(2)
);

impl<F: Flows> Ends<F> {
    #[inline(always)]
    fn of(record: *mut Flow<F::Bytes>, kind: TupleKind) -> Self {
        // SAFETY: `record` points into an array map, whose memory lives as long as the program.
        let flow = unsafe { &*record };
        let (at_client, towards_client) = if flow.flags.contains(FlowFlags::HOST_CLIENT) {
            (Direction::Egress, Direction::Ingress)
        } else {
            (Direction::Ingress, Direction::Egress)
        };
        let (source, source_port, destination, destination_port, direction) = match kind {
            TupleKind::Original => {
                (&flow.client, &flow.client_port, &flow.destination, &flow.destination_port, at_client)
            }
            TupleKind::OriginalAfterDnat => {
                (&flow.client, &flow.translated_port, &flow.backend, &flow.backend_port, Direction::Egress)
            }
            TupleKind::Reply => (
                &flow.backend,
                &flow.backend_port,
                &flow.masquerade,
                &flow.masquerade_port,
                Direction::Ingress,
            ),
            TupleKind::ReplyAfterReverseSnat => {
                (&flow.backend, &flow.backend_port, &flow.client, &flow.translated_port, towards_client)
            }
        };
        let (from, to) = (half_word(source_port), half_word(destination_port));
        let rest = Tuple::<F::Bytes>::ends_of(from.to_ne_bytes(), to.to_ne_bytes(), flow.protocol, direction);
        Self { source, destination, rest }
    }

    #[inline(always)]
    fn source(&self) -> F::Address {
        // SAFETY: of a record, where addresses are at multiples of 4; as words, as the compiler would read single bytes.
        unsafe { self.source.cast::<F::Address>().read() }
    }

    #[inline(always)]
    fn destination(&self) -> F::Address {
        // SAFETY: as in `source`.
        unsafe { self.destination.cast::<F::Address>().read() }
    }

    #[inline(always)]
    fn is_of(&self, source: F::Address, destination: F::Address, rest: u64) -> bool {
        self.rest == rest
            && same(F::mapped(self.source()), F::mapped(source))
            && same(F::mapped(self.destination()), F::mapped(destination))
    }
}

/// A port of a record.
#[inline(always)]
fn half_word(port: &[u8; 2]) -> u16 {
    // SAFETY: of a record, where ports are at multiples of 2.
    unsafe { ptr::from_ref(port).cast::<u16>().read() }
}

/// The relation of a reference to a tuple of the flow in a slot.
#[inline(always)]
pub(super) fn relation<F: Flows>(reference: FlowRef, slot: u32, kind: TupleKind) -> Relation {
    let (reference, kind) = (reference.0, kind as u32);
    Relation::of(if F::IS_V6 {
        relation_v6(reference, slot, kind)
    } else {
        relation_v4(reference, slot, kind)
    })
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn relation_v4(reference: u64, slot: u32, kind: u32) -> u32 {
    relation_to::<V4>(FlowRef(reference), slot, TupleKind::of(kind)) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn relation_v6(reference: u64, slot: u32, kind: u32) -> u32 {
    relation_to::<V6>(FlowRef(reference), slot, TupleKind::of(kind)) as u32
}

#[inline(always)]
fn relation_to<F: Flows>(reference: FlowRef, slot: u32, kind: TupleKind) -> Relation {
    let (Some(other), Some(record)) = (F::flow(reference.slot()), F::flow(slot)) else {
        return Relation::Stale;
    };
    let state = load_state::<F>(other);
    if state.tag() != reference.tag() || !state.has(FlowState::ALIVE) {
        return Relation::Stale;
    }
    let (theirs, own) = (Ends::<F>::of(other, reference.kind()), Ends::<F>::of(record, kind));
    let is_same = theirs.is_of(own.source(), own.destination(), own.rest);
    match (is_same, state.has(FlowState::DYING)) {
        (false, _) => Relation::Other,
        (true, false) => Relation::Same,
        (true, true) => Relation::Dying,
    }
}

/// The bucket of a tuple of the flow in a slot.
#[inline(always)]
pub(super) fn bucket_of<F: Flows>(slot: u32, kind: TupleKind) -> Option<BucketOf> {
    let kind = kind as u32;
    let hash = if F::IS_V6 { tuple_hash_v6(slot, kind) } else { tuple_hash_v4(slot, kind) };
    BucketOf::of::<F>(TupleHash(hash))
}

/// With external linkage: verified once, and the keys are not on the stack of each caller.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tuple_hash_v4(slot: u32, kind: u32) -> u32 {
    tuple_hash::<V4>(slot, TupleKind::of(kind))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tuple_hash_v6(slot: u32, kind: u32) -> u32 {
    tuple_hash::<V6>(slot, TupleKind::of(kind))
}

#[inline(always)]
fn tuple_hash<F: Flows>(slot: u32, kind: TupleKind) -> u32 {
    let Some(record) = F::flow(slot) else { return 0 };
    let ends = Ends::<F>::of(record, kind);
    F::hash(ends.source(), ends.destination(), ends.rest).map_or(0, |hash| hash.0)
}
