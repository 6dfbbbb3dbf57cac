//! Flow records and conntrack entries: lookup, refresh, deletion.
//!
//! Invariants: a record is owned by the CPU that changed its state by compare-and-swap. Entries of `CONNTRACK_*` are added only by
//! the owner of an unconfirmed record, and deleted only by the owner of a dying one. So both directions of a flow live and die
//! together, and a flow that was refreshed is never deleted.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use proxy_ebpf::abi::{
    Direction, Flow, FlowDirection, FlowFlags, FlowRef, FlowState, FlowV4, FlowV6, Positions, Segment, Tuple,
    TupleKind, TupleV4, TupleV6,
    flow_state::{BitChange, tcp},
    map,
};

use crate::{
    atomic, clock,
    config::timeouts,
    family::{V4, V6},
    lb::{Tables, affinity},
    packet::Headers,
    socket::SocketLookup,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static FLOWS_V4: Array<FlowV4, { map::MAX_FLOWS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FLOWS_V6: Array<FlowV6, { map::MAX_FLOWS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static CONNTRACK_V4: HashMap<TupleV4, FlowRef, { map::MAX_CONNTRACK as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static CONNTRACK_V6: HashMap<TupleV6, FlowRef, { map::MAX_CONNTRACK as usize }, NO_PREALLOC> = HashMap::new();

/// The flow tables of a family.
pub trait Flows: Tables + Headers + SocketLookup {
    /// The record in a slot.
    fn flow(slot: u32) -> Option<*mut Flow<Self::Bytes>>;

    /// The conntrack entry of a tuple.
    fn flow_ref(tuple: &Tuple<Self::Bytes>) -> Option<FlowRef>;

    /// Adds a conntrack entry. Errors: the tuple has one and `replace` is false, or no memory.
    fn insert_flow_ref(tuple: &Tuple<Self::Bytes>, reference: &FlowRef, replace: bool) -> Result<(), i32>;

    fn remove_flow_ref(tuple: &Tuple<Self::Bytes>);

    /// `TrackedFlow::use_for`, verified once. `state` is that of the lookup; `numbers` are sequence and acknowledgement.
    fn use_flow(slot: u32, state: u64, numbers: u64, flags: u32, is_reply: u32) -> u32;
}

macro_rules! flows {
    ($family:ident, $flows:ident, $conntrack:ident, $flow:ident, $tuple:ident, $use_flow:ident) => {
        /// With external linkage: verified once, not for each call.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $use_flow(slot: u32, state: u64, numbers: u64, flags: u32, is_reply: u32) -> u32 {
            let Some(record) = $family::flow(slot) else { return 0 };
            let (kind, state) = (TupleKind::Original, FlowState(state));
            let flow = TrackedFlow::<$family> { record, slot, kind, state };
            let segment = Segment {
                flags: flags as u8,
                sequence: (numbers >> 32) as u32,
                acknowledged: numbers as u32,
            };
            let direction = if is_reply != 0 { FlowDirection::Reply } else { FlowDirection::Original };
            flow.used_for(direction, &segment).into()
        }

        impl Flows for $family {
            #[inline(always)]
            fn flow(slot: u32) -> Option<*mut $flow> {
                $flows.get_ptr_mut(slot)
            }

            #[inline(always)]
            fn flow_ref(tuple: &$tuple) -> Option<FlowRef> {
                // SAFETY: copied at once. If the element is recycled for another tuple meanwhile, the reference is to another
                // flow, with another tag or with a record that differs from the packet.
                unsafe { $conntrack.get(tuple).copied() }
            }

            #[inline(always)]
            fn insert_flow_ref(tuple: &$tuple, reference: &FlowRef, replace: bool) -> Result<(), i32> {
                let flags = if replace { BPF_ANY } else { BPF_NOEXIST };
                $conntrack.insert(tuple, reference, flags.into())
            }

            #[inline(always)]
            fn remove_flow_ref(tuple: &$tuple) {
                // An entry that is missing already is no error.
                let _ = $conntrack.remove(tuple);
            }

            #[inline(always)]
            fn use_flow(slot: u32, state: u64, numbers: u64, flags: u32, is_reply: u32) -> u32 {
                $use_flow(slot, state, numbers, flags, is_reply)
            }
        }
    };
}

flows!(V4, FLOWS_V4, CONNTRACK_V4, FlowV4, TupleV4, use_flow_v4);
flows!(V6, FLOWS_V6, CONNTRACK_V6, FlowV6, TupleV6, use_flow_v6);

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
    let Some(reference) = F::flow_ref(tuple) else { return Lookup::NotFound };
    let Some(record) = F::flow(reference.slot) else { return Lookup::NotFound };
    let state = load_state::<F>(record);
    if state.tag() != reference.tag() {
        return Lookup::NotFound;
    }
    if !state.is_alive() {
        return if state.has(FlowState::DYING) { Lookup::Dying } else { Lookup::NotFound };
    }
    Lookup::Found(TrackedFlow { record, slot: reference.slot, kind: reference.kind(), state })
}

/// The flow in a slot, as for a packet of its original direction.
#[inline(always)]
pub fn flow_in<F: Flows>(slot: u32) -> Option<TrackedFlow<F>> {
    let record = F::flow(slot)?;
    Some(TrackedFlow { record, slot, kind: TupleKind::Original, state: load_state::<F>(record) })
        .filter(|flow| flow.state.is_alive())
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

    /// Updates state, time of last use and the streams' positions for a packet. The client of a flow that becomes assured keeps its
    /// backend as its affinity. Returns `false` if the flow was deleted meanwhile.
    #[inline(always)]
    pub fn use_for(&self, direction: FlowDirection, segment: &Segment) -> bool {
        let numbers = u64::from(segment.sequence) << 32 | u64::from(segment.acknowledged);
        let is_reply = matches!(direction, FlowDirection::Reply);
        F::use_flow(self.slot, self.state.0, numbers, segment.flags.into(), is_reply.into()) != 0
    }

    #[inline(always)]
    fn used_for(&self, direction: FlowDirection, segment: &Segment) -> bool {
        let change = self.state.change(direction, self.follow(direction, segment));
        if !self.refresh(change, clock::ticks()) {
            return false;
        }
        let record = self.record();
        let is_kept = record.flags.contains(FlowFlags::AFFINITY) && change.clear & FlowState::UNASSURED != 0;
        if is_kept && self.state.has(FlowState::UNASSURED) {
            affinity::keep::<F>(F::address(record.client), record.service, record.reference);
        }
        true
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
        delete_entries::<F>(self.record, self.slot, dying.0);
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

/// Deletes the conntrack entries of a dying flow, and frees its record.
#[inline(never)]
pub(super) fn delete_entries<F: Flows>(record: *mut Flow<F::Bytes>, slot: u32, dying: u64) -> u32 {
    let dying = FlowState(dying);
    for kind in [
        TupleKind::Original,
        TupleKind::OriginalAfterDnat,
        TupleKind::Reply,
        TupleKind::ReplyAfterReverseSnat,
    ] {
        let tuple = tuple_of::<F>(record, kind);
        // The tuple may belong to another flow by now.
        if F::flow_ref(&tuple) == Some(FlowRef::new(slot, dying.tag(), kind)) {
            F::remove_flow_ref(&tuple);
        }
    }
    store_state::<F>(record, dying.free());
    0
}

/// One of the four tuples of a flow.
#[inline(always)]
pub(super) fn tuple_of<F: Flows>(record: *mut Flow<F::Bytes>, kind: TupleKind) -> Tuple<F::Bytes> {
    // SAFETY: `record` points into an array map, whose memory lives as long as the program.
    let flow = unsafe { &*record };
    let (at_client, towards_client) = if flow.flags.contains(FlowFlags::HOST_CLIENT) {
        (Direction::Egress, Direction::Ingress)
    } else {
        (Direction::Ingress, Direction::Egress)
    };
    let (source, source_port, destination, destination_port, direction) = match kind {
        TupleKind::Original => {
            (flow.client, flow.client_port, flow.destination, flow.destination_port, at_client)
        }
        TupleKind::OriginalAfterDnat => {
            (flow.client, flow.translated_port, flow.backend, flow.backend_port, Direction::Egress)
        }
        TupleKind::Reply => {
            (flow.backend, flow.backend_port, flow.masquerade, flow.masquerade_port, Direction::Ingress)
        }
        TupleKind::ReplyAfterReverseSnat => {
            (flow.backend, flow.backend_port, flow.client, flow.translated_port, towards_client)
        }
    };
    let (protocol, direction) = (flow.protocol, direction as u8);
    Tuple { source, destination, source_port, destination_port, protocol, direction, zero: [0; 2] }
}
