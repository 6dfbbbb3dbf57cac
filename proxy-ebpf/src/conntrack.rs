//! The flows the packet plane follows: finding, beginning, reviving and ending them.
//!
//! Invariants: a record is owned by whoever changed its state by compare-and-swap; entries of `CONNTRACK_*` are added
//! only by the owner of a record under construction, and deleted only by the owner of a dying one. So the two ways of
//! a flow live and die together, and nothing that was heard of a moment ago is taken for another.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap},
    helpers::{bpf_get_prandom_u32, generated::bpf_loop},
    macros::btf_map,
};
use proxy_ebpf::abi::{
    Direction, DropReason, Flow, FlowDirection, FlowFlags, FlowRef, FlowState, FlowV4, FlowV6, Tuple,
    TupleKind, TupleV4, TupleV6, flow_state, map,
};

use crate::{
    atomic, clock,
    config::{flows, timeouts},
    family::Family,
    packet::SCTP,
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;
const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static FLOWS_V4: Array<FlowV4, { map::MAX_FLOWS as usize }, MAPPED> = Array::new();
#[btf_map]
static FLOWS_V6: Array<FlowV6, { map::MAX_FLOWS as usize }, MAPPED> = Array::new();
#[btf_map]
static CONNTRACK_V4: HashMap<TupleV4, FlowRef, { map::MAX_CONNTRACK as usize }, LAZY> = HashMap::new();
#[btf_map]
static CONNTRACK_V6: HashMap<TupleV6, FlowRef, { map::MAX_CONNTRACK as usize }, LAZY> = HashMap::new();

/// A flow that was alive when it was found.
#[derive(Clone, Copy)]
pub struct Tracked<F: Family> {
    pub record: *mut Flow<F::Bytes>,
    pub slot: u32,
    pub kind: TupleKind,
    pub state: FlowState,
}

/// What a packet's ends lead to.
pub enum Found<F: Family> {
    Flow(Tracked<F>),
    /// A flow that is being ended this very instant.
    Ending,
    Nothing,
}

#[inline(always)]
pub fn find<F: Family>(tuple: &Tuple<F::Bytes>) -> Found<F> {
    let Some(reference) = F::flow_ref(tuple) else { return Found::Nothing };
    let Some(record) = F::flow(reference.slot) else { return Found::Nothing };
    let state = load::<F>(record);
    if state.tag() != reference.tag() {
        return Found::Nothing;
    }
    if !state.is_alive() {
        return if state.has(FlowState::DYING) { Found::Ending } else { Found::Nothing };
    }
    Found::Flow(Tracked { record, slot: reference.slot, kind: reference.kind(), state })
}

/// The flow in a slot, as its client's packets find it.
#[inline(always)]
pub fn at<F: Family>(slot: u32) -> Option<Tracked<F>> {
    let record = F::flow(slot)?;
    Some(Tracked { record, slot, kind: TupleKind::Original, state: load::<F>(record) })
        .filter(|flow| flow.state.is_alive())
}

impl<F: Family> Tracked<F> {
    /// The record as it is; `is_still_there` tells whether it was this flow's all the while.
    #[inline(always)]
    pub fn record(&self) -> &'static Flow<F::Bytes> {
        // SAFETY: `record` points into an array map, whose memory lives as long as the program.
        unsafe { &*self.record }
    }

    /// Whether the record is still this flow's.
    #[inline(always)]
    pub fn is_still_there(&self) -> bool {
        load::<F>(self.record).tag() == self.state.tag()
    }

    /// Notes that a packet was seen. `false`: the flow has ended meanwhile.
    ///
    /// Nothing is written more often than once a tick, unless the state changes.
    #[inline(always)]
    pub fn refresh(&self, direction: FlowDirection, flags: u8, now: u32) -> bool {
        let mut state = self.state;
        for _ in 0..ATTEMPTS {
            let next = state.after(direction, flags, now);
            if next == state {
                return true;
            }
            let found = FlowState(atomic::compare_exchange(self.state_word(), state.0, next.0));
            if found == state {
                return true;
            }
            if found.tag() != state.tag() || !found.is_alive() {
                return false;
            }
            state = found;
        }
        // Other CPUs write to it all the time, so it is as alive as can be; at worst a state is seen one packet later.
        true
    }

    /// Ends the flow, whose place another one takes. `false`: somebody else did, or it was revived.
    #[inline(always)]
    pub fn end(&self) -> bool {
        let dying = self.state.dying();
        if atomic::compare_exchange(self.state_word(), self.state.0, dying.0) != self.state.0 {
            return false;
        }
        bury::<F>(self.record, self.slot, dying.0);
        true
    }

    #[inline(always)]
    fn state_word(&self) -> *mut u64 {
        self.record.cast()
    }
}

/// How often a contended word is tried again.
const ATTEMPTS: u32 = 4;

#[inline(always)]
fn load<F: Family>(record: *mut Flow<F::Bytes>) -> FlowState {
    // SAFETY: `record` points into an array map; one aligned word.
    FlowState(unsafe { record.cast::<u64>().read_volatile() })
}

/// A record that is being made into a flow; nothing leads to it yet.
pub struct Claimed<F: Family>(Tracked<F>);

impl<F: Family> Claimed<F> {
    /// A record for a new flow, if one can be had.
    #[inline(always)]
    pub fn new() -> Result<Self, DropReason> {
        let slot = claim::<F>(clock::ticks());
        let record = u32::try_from(slot).ok().and_then(F::flow).ok_or(DropReason::ConntrackFull)?;
        Ok(Self(Tracked { record, slot: slot as u32, kind: TupleKind::Original, state: load::<F>(record) }))
    }

    #[inline(always)]
    pub fn record(&mut self) -> &mut Flow<F::Bytes> {
        // SAFETY: the record is ours since `claim`, nothing leads to it, and it lies in an array map.
        unsafe { &mut *self.0.record }
    }

    /// Lets packets find the flow. The entries appear in the order in which packets could need them: the answer's first, the
    /// client's last. Where another CPU was faster with the same flow, that one's.
    #[inline(always)]
    pub fn publish(self) -> Result<u32, DropReason> {
        match register::<F>(self.0.record, self.0.slot, self.0.state.tag()) {
            Registered::NEW => Ok(self.0.slot),
            code => {
                abandon(&self.0);
                Registered(code).twin().ok_or(Registered(code).reason())
            }
        }
    }
}

/// What became of a registration, in one register: programs return no more from a function that is not inlined.
/// Below 2^32 the slot of a twin, then "new", then the reasons of refusal.
struct Registered(u64);

impl Registered {
    const NEW: u64 = 1 << 32;
    const REFUSED: u64 = 1 << 33;

    #[inline(always)]
    fn refused(reason: DropReason) -> u64 {
        Self::REFUSED | reason as u64
    }

    #[inline(always)]
    fn twin(&self) -> Option<u32> {
        u32::try_from(self.0).ok()
    }

    #[inline(always)]
    fn reason(&self) -> DropReason {
        const NO_PORT: u64 = Registered::REFUSED | DropReason::NoMasqueradePort as u64;
        const NO_MEMORY: u64 = Registered::REFUSED | DropReason::ConntrackNoMemory as u64;
        match self.0 {
            NO_PORT => DropReason::NoMasqueradePort,
            NO_MEMORY => DropReason::ConntrackNoMemory,
            _ => DropReason::FlowEnding,
        }
    }
}

/// Adds the entries of a claimed record.
#[inline(never)]
fn register<F: Family>(record: *mut Flow<F::Bytes>, slot: u32, tag: u32) -> u64 {
    let answer = add_answer::<F>(slot, tag);
    if answer != Registered::NEW {
        return answer;
    }
    // SAFETY: `record` points into an array map, whose memory lives as long as the program.
    if unsafe { (*record).flags.contains(FlowFlags::MASQUERADE) } {
        match add::<F>(record, slot, tag, TupleKind::OriginalAfterDnat) {
            Added::Done => {}
            other @ (Added::Taken(_) | Added::Refused(_)) => return other.code(),
        }
    }
    add::<F>(record, slot, tag, TupleKind::Original).code()
}

/// What became of one entry.
#[derive(Clone, Copy)]
enum Added {
    Done,
    /// A living flow has those ends.
    Taken(u32),
    Refused(DropReason),
}

impl Added {
    #[inline(always)]
    fn code(self) -> u64 {
        match self {
            Self::Done => Registered::NEW,
            Self::Taken(slot) => slot.into(),
            Self::Refused(reason) => Registered::refused(reason),
        }
    }
}

/// How many other ports of the client are tried where the ends behind the translation are taken.
const OTHER_PORTS: u32 = 8;

/// A search for a port of the client.
#[repr(C)]
struct Ports {
    slot: u32,
    tag: u32,
    /// The outcome, as a `Registered`.
    outcome: u64,
}

/// The answer's entry decides which port the client has behind the translation: its own, or another one where the client
/// reaches the same backend through another frontend from the same port.
#[inline(always)]
fn add_answer<F: Family>(slot: u32, tag: u32) -> u64 {
    let mut ports = Ports { slot, tag, outcome: Registered::refused(DropReason::NoMasqueradePort) };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = try_port::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `ports` outlives the loop.
    unsafe { bpf_loop(1 + OTHER_PORTS, callback as *mut c_void, (&raw mut ports).cast(), 0) };
    ports.outcome
}

/// One step of a search; 1 ends it.
extern "C" fn try_port<F: Family>(_: u64, ports: *mut c_void) -> i64 {
    // SAFETY: the kernel passes on the pointer that `add_answer` gave.
    let ports = unsafe { &mut *ports.cast::<Ports>() };
    let Some(record) = F::flow(ports.slot) else { return 1 };
    let added = add::<F>(record, ports.slot, ports.tag, TupleKind::ReplyAfterReverseSnat);
    if let Added::Taken(other) = added
        && !is_same_flow::<F>(record, other)
    {
        // SAFETY: the record is ours; the helper takes no argument and has no precondition.
        unsafe {
            // SCTP's checksum does not allow for another port.
            if (*record).protocol == SCTP {
                return 1;
            }
            (*record).translated_port = other_port(bpf_get_prandom_u32());
        }
        return 0;
    }
    ports.outcome = added.code();
    1
}

/// Any port that needs no privilege.
#[inline(always)]
fn other_port(random: u32) -> [u8; 2] {
    (1024 + (random % 64_512) as u16).to_be_bytes()
}

/// Whether the flow in a slot is one between the same client and what it dialled.
#[inline(always)]
fn is_same_flow<F: Family>(record: *mut Flow<F::Bytes>, slot: u32) -> bool {
    let Some(other) = F::flow(slot) else { return false };
    // SAFETY: both point into an array map. A torn read of a record that is reused under us makes a difference, and then
    // another port is taken, which is harmless.
    let (a, b) = unsafe { (&*record, &*other) };
    F::is_same(a.client, b.client)
        && F::is_same(a.destination, b.destination)
        && a.client_port == b.client_port
        && a.destination_port == b.destination_port
}

/// Adds the entry of a kind.
#[inline(always)]
fn add<F: Family>(record: *mut Flow<F::Bytes>, slot: u32, tag: u32, kind: TupleKind) -> Added {
    let tuple = tuple::<F>(record, kind);
    let reference = FlowRef::new(slot, tag, kind);
    if F::insert_flow_ref(&tuple, &reference, false).is_ok() {
        return Added::Done;
    }
    match find::<F>(&tuple) {
        Found::Flow(other) => Added::Taken(other.slot),
        Found::Ending => Added::Refused(DropReason::FlowEnding),
        // The entry of a flow that ended without its burial, or no memory: taking its place tells which.
        Found::Nothing => match F::insert_flow_ref(&tuple, &reference, true) {
            Ok(()) => Added::Done,
            Err(_) => Added::Refused(DropReason::ConntrackNoMemory),
        },
    }
}

/// Lets the answers to a masqueraded flow find it. `false`: another flow has those ends.
#[inline(always)]
pub fn add_masquerade<F: Family>(record: *mut Flow<F::Bytes>, slot: u32, tag: u32) -> bool {
    match add::<F>(record, slot, tag, TupleKind::Reply) {
        Added::Done => true,
        Added::Taken(_) | Added::Refused(_) => false,
    }
}

/// Gives up a flow that could not be finished.
#[inline(always)]
fn abandon<F: Family>(tracked: &Tracked<F>) {
    let dying = tracked.state.dying();
    store_state::<F>(tracked.record, dying);
    bury::<F>(tracked.record, tracked.slot, dying.0);
}

#[inline(always)]
fn store_state<F: Family>(record: *mut Flow<F::Bytes>, state: FlowState) {
    // SAFETY: the caller owns the record; one aligned word.
    unsafe { record.cast::<u64>().write_volatile(state.0) }
}

/// Deletes what leads to a dying record, and frees it.
#[inline(never)]
fn bury<F: Family>(record: *mut Flow<F::Bytes>, slot: u32, dying: u64) -> u32 {
    let dying = FlowState(dying);
    for kind in [
        TupleKind::Original,
        TupleKind::OriginalAfterDnat,
        TupleKind::Reply,
        TupleKind::ReplyAfterReverseSnat,
    ] {
        let tuple = tuple::<F>(record, kind);
        // Ends that another flow has by now lead elsewhere.
        if F::flow_ref(&tuple) == Some(FlowRef::new(slot, dying.tag(), kind)) {
            F::remove_flow_ref(&tuple);
        }
    }
    store_state::<F>(record, dying.free());
    0
}

/// The ends under which a flow's packets are met on a kind.
#[inline(always)]
fn tuple<F: Family>(record: *mut Flow<F::Bytes>, kind: TupleKind) -> Tuple<F::Bytes> {
    // SAFETY: `record` points into an array map, whose memory lives as long as the program.
    let flow = unsafe { &*record };
    let (near, far) = if flow.flags.contains(FlowFlags::HOST_CLIENT) {
        (Direction::Egress, Direction::Ingress)
    } else {
        (Direction::Ingress, Direction::Egress)
    };
    let (source, source_port, destination, destination_port, direction) = match kind {
        TupleKind::Original => (flow.client, flow.client_port, flow.destination, flow.destination_port, near),
        TupleKind::OriginalAfterDnat => {
            (flow.client, flow.translated_port, flow.backend, flow.backend_port, Direction::Egress)
        }
        TupleKind::Reply => {
            (flow.backend, flow.backend_port, flow.masquerade, flow.masquerade_port, Direction::Ingress)
        }
        TupleKind::ReplyAfterReverseSnat => {
            (flow.backend, flow.backend_port, flow.client, flow.translated_port, far)
        }
    };
    let (protocol, direction) = (flow.protocol, direction as u8);
    Tuple { source, destination, source_port, destination_port, protocol, direction, zero: [0; 2] }
}

/// How many records are looked at for one that can be had.
const CANDIDATES: u32 = 64;

/// A step among 2^32 places: an odd number that is far from every simple fraction.
const STEP: u32 = 0x9e37_79b1;

/// No slot.
const NONE: u32 = u32::MAX;

/// A search for a record.
#[repr(C)]
struct Search {
    now: u32,
    start: u32,
    /// The slot that was taken.
    slot: u32,
    /// The most dispensable flow that was met, and for how long it has been silent.
    victim: u32,
    silence: u32,
}

/// The slot of a record for a new flow: a free one, an expired one, or in a full table that of a flow which has been silent
/// for the longest time, and for more than ten seconds. `u64::MAX`: none.
#[inline(never)]
fn claim<F: Family>(now: u32) -> u64 {
    // SAFETY: takes no argument and has no precondition.
    let start = unsafe { bpf_get_prandom_u32() };
    let mut search = Search { now, start, slot: NONE, victim: NONE, silence: 0 };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = look_at::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `search` outlives the loop.
    unsafe { bpf_loop(CANDIDATES, callback as *mut c_void, (&raw mut search).cast(), 0) };
    if search.slot != NONE {
        search.slot.into()
    } else if search.victim != NONE && take::<F>(search.victim, now) != 0 {
        search.victim.into()
    } else {
        u64::MAX
    }
}

/// One step of a search; 1 ends it.
extern "C" fn look_at<F: Family>(step: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes on the pointer that `claim` gave.
    let search = unsafe { &mut *search.cast::<Search>() };
    let step = step as u32;
    // Squares, as steps of one length run into each other's ends: a table nine tenths full would refuse one flow in fifty
    // instead of one in a thousand.
    let at = search.start.wrapping_add(step.wrapping_mul(step).wrapping_mul(STEP));
    // Multiplying instead of dividing: no zero test, and every record is as near as any other.
    let slot = ((u64::from(at) * u64::from(flows())) >> 32) as u32;
    let Some(record) = F::flow(slot) else { return 0 };
    let state = load::<F>(record);
    if state.has(FlowState::DYING) {
        return 0;
    }
    if !state.has(FlowState::ALIVE) || is_expired::<F>(record, state, search.now) {
        if take::<F>(slot, search.now) != 0 {
            search.slot = slot;
            return 1;
        }
        return 0;
    }
    let silence = dispensability(state, search.now);
    if silence > search.silence {
        search.silence = silence;
        search.victim = slot;
    }
    0
}

#[inline(always)]
fn is_expired<F: Family>(record: *mut Flow<F::Bytes>, state: FlowState, now: u32) -> bool {
    // SAFETY: `record` points into an array map; one byte.
    let protocol = unsafe { (&raw const (*record).protocol).read_volatile() };
    state.is_expired(protocol, &timeouts(), now)
}

/// How much sooner than others a flow is given up that was never answered or is over.
const UNIMPORTANT: u32 = flow_state::ticks(3_600);

/// 0 for what must not be taken.
#[inline(always)]
fn dispensability(state: FlowState, now: u32) -> u32 {
    let silence = state.idle(now);
    if silence <= flow_state::SAFE_TICKS {
        0
    } else if !state.has(FlowState::SEEN_REPLY) || state.is_closed() {
        silence.saturating_add(UNIMPORTANT)
    } else {
        silence
    }
}

/// Ends the flow in a slot if it has expired.
#[inline(always)]
pub fn sweep<F: Family>(slot: u32, now: u32) {
    let Some(record) = F::flow(slot) else { return };
    let state = load::<F>(record);
    if state.is_alive() && is_expired::<F>(record, state, now) {
        let dying = state.dying();
        if compare_exchange::<F>(record, state, dying) {
            bury::<F>(record, slot, dying.0);
        }
    }
}

/// Tries to become the owner of a record; ends the flow that has it. 1: done.
#[inline(never)]
fn take<F: Family>(slot: u32, now: u32) -> u32 {
    let Some(record) = F::flow(slot) else { return 0 };
    let state = load::<F>(record);
    if !state.has(FlowState::ALIVE) {
        return u32::from(compare_exchange::<F>(record, state, state.successor(now)));
    }
    // Whoever revived the flow since it was looked at is heard here.
    let is_to_be_had = !state.has(FlowState::DYING)
        && (dispensability(state, now) != 0 || is_expired::<F>(record, state, now));
    let dying = state.dying();
    if !is_to_be_had || !compare_exchange::<F>(record, state, dying) {
        return 0;
    }
    bury::<F>(record, slot, dying.0);
    u32::from(compare_exchange::<F>(record, dying.free(), dying.successor(now)))
}

#[inline(always)]
fn compare_exchange<F: Family>(record: *mut Flow<F::Bytes>, old: FlowState, new: FlowState) -> bool {
    atomic::compare_exchange(record.cast(), old.0, new.0) == old.0
}

macro_rules! tables {
    ($name:ident, $flows:ident, $conntrack:ident, $flow:ident, $tuple:ident) => {
        pub mod $name {
            use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
            use proxy_ebpf::abi::{FlowRef, $flow, $tuple};

            #[inline(always)]
            pub fn flow(slot: u32) -> Option<*mut $flow> {
                super::$flows.get_ptr_mut(slot)
            }

            #[inline(always)]
            pub fn flow_ref(tuple: &$tuple) -> Option<FlowRef> {
                // SAFETY: copied at once. Should the element be recycled for other ends under us, the reference leads to
                // another flow with another tag or to one whose record says that it is not this packet's.
                unsafe { super::$conntrack.get(tuple).copied() }
            }

            #[inline(always)]
            pub fn insert(tuple: &$tuple, reference: &FlowRef, replace: bool) -> Result<(), i32> {
                let flags = if replace { BPF_ANY } else { BPF_NOEXIST };
                super::$conntrack.insert(tuple, reference, flags.into())
            }

            #[inline(always)]
            pub fn remove(tuple: &$tuple) {
                // What is not there any more is as it should be.
                let _ = super::$conntrack.remove(tuple);
            }
        }
    };
}

tables!(v4, FLOWS_V4, CONNTRACK_V4, FlowV4, TupleV4);
tables!(v6, FLOWS_V6, CONNTRACK_V6, FlowV6, TupleV6);
