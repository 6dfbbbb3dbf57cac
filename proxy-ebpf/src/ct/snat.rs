//! SNAT: masquerade address and port of a flow, chosen when its first packet leaves, as only then the egress device is known.
//!
//! A port is taken only if neither another flow nor a socket of the node has the resulting tuple, and only from outside the range of
//! ephemeral ports: a connection of the node is never mistaken for a masqueraded one. If none is free, that of a flow is taken over
//! whose client was never heard after an answer, or which is closed, and which was silent for 10 s: SYNs alone hold no ports.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, generated::bpf_loop},
    programs::TcContext,
};
use proxy_ebpf::abi::{DropReason, Flow, FlowFlags, MASQUERADE_DONE, MASQUERADE_NONE, MASQUERADE_PENDING};

use super::{
    Flows, Next, Scratch,
    allocate::{NO_SLOT, delete_expendable, expendable_state},
    insert::insert_masqueraded_reply,
    table::{TrackedFlow, flow_in},
};
use crate::{
    atomic, clock,
    config::masquerade_ports,
    packet::{Translation, header::SCTP},
    socket,
};

/// Limit of free ports that are tried. With half of the ports in use, one flow in four billion finds none.
const FREE_PORTS: u32 = 32;
/// Limit of ports after these that are tried, in use or not.
const HELD_PORTS: u32 = 32;

/// The translation of a packet that leaves for its backend in a masqueraded flow.
#[inline(always)]
pub fn snat<F: Flows>(ctx: &TcContext, scratch: &mut Scratch<F>, slot: u32) -> Next {
    let Some(flow) = flow_in::<F>(slot) else { return Next::flow_ending() };
    // SAFETY: the kernel's own context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    if let Err(reason) = ensure_source(ctx.skb.skb.cast(), device, &flow) {
        return Next::refuse(reason, None);
    }
    let record = flow.record();
    scratch.translation = Translation {
        source: F::address(record.masquerade),
        source_port: record.masquerade_port,
        ..Translation::of(&scratch.packet)
    };
    // The flow was looked up by this packet's tuple; checked last that the record is still the same flow's.
    let is_flow_of_packet = F::is_same(record.client, F::bytes(scratch.packet.source)) && flow.is_current();
    if is_flow_of_packet { Next::TRANSLATE } else { Next::flow_ending() }
}

#[inline(always)]
fn state<F: Flows>(flow: &TrackedFlow<F>) -> u64 {
    // SAFETY: `record` points into an array map, whose memory lives as long as the program; volatile because other CPUs
    // write it.
    unsafe { (&raw const (*flow.record).masquerade_state).read_volatile() }
}

/// Chooses masquerade address and port of a flow that leaves by a device, unless done. `ctx` is the program's own context.
#[inline(always)]
pub fn ensure_source<F: Flows>(
    ctx: *mut c_void,
    device: u32,
    flow: &TrackedFlow<F>,
) -> Result<(), DropReason> {
    if state(flow) == MASQUERADE_DONE {
        return Ok(());
    }
    // SAFETY: `record` points into an array map, whose memory lives as long as the program.
    let word = unsafe { &raw mut (*flow.record).masquerade_state };
    match atomic::compare_exchange(word, MASQUERADE_NONE, MASQUERADE_PENDING) {
        MASQUERADE_NONE => {}
        MASQUERADE_DONE => return Ok(()),
        // Another CPU is choosing for an earlier packet: a retransmission of this one finds the result.
        _ => return Err(DropReason::FlowEnding),
    }
    let Some(address) = F::masquerade_address(device) else {
        set_state(flow, MASQUERADE_NONE);
        return Err(DropReason::NoMasqueradeAddress);
    };
    // SAFETY: the CPU that set `MASQUERADE_PENDING` owns the masquerade fields.
    unsafe { (*flow.record).masquerade = F::bytes(address) };
    if !keep_port::<F>(flow, address) && !choose_port::<F>(ctx, flow) {
        set_state(flow, MASQUERADE_NONE);
        return Err(DropReason::NoMasqueradePort);
    }
    set_state(flow, MASQUERADE_DONE);
    Ok(())
}

#[inline(always)]
fn set_state<F: Flows>(flow: &TrackedFlow<F>, state: u64) {
    // SAFETY: as in `ensure_source`; one aligned word, written only by the owner of `MASQUERADE_PENDING`.
    unsafe { (&raw mut (*flow.record).masquerade_state).write_volatile(state) }
}

/// A client on the node that already has the masquerade address keeps its port: replies reach it by the other tuple.
#[inline(always)]
fn keep_port<F: Flows>(flow: &TrackedFlow<F>, address: F::Address) -> bool {
    let record = flow.record();
    if !record.flags.contains(FlowFlags::HOST_CLIENT) || !F::is_same(record.client, F::bytes(address)) {
        return false;
    }
    // SAFETY: the CPU that set `MASQUERADE_PENDING` owns the masquerade fields.
    unsafe { (*flow.record).masquerade_port = record.translated_port };
    true
}

/// A search for a port.
#[repr(C)]
struct PortSearch {
    /// The program's own context.
    ctx: *mut c_void,
    slot: u32,
    tag: u32,
    /// The flow that holds the port tried last, if its port may be taken over; else `NO_SLOT`.
    holder: u32,
    is_found: u32,
}

/// Chooses a port at random. Returns `false` if each one that was tried is in use, and must stay so.
#[inline(always)]
fn choose_port<F: Flows>(ctx: *mut c_void, flow: &TrackedFlow<F>) -> bool {
    let mut search = PortSearch { ctx, slot: flow.slot, tag: flow.state.tag(), holder: NO_SLOT, is_found: 0 };
    search.run(FREE_PORTS + HELD_PORTS, try_port::<F>);
    if search.holder != NO_SLOT && delete_expendable::<F>(search.holder, clock::ticks()) != 0 {
        search.run(1, try_same_port::<F>);
    }
    search.is_found != 0
}

impl PortSearch {
    #[inline(always)]
    fn run(&mut self, steps: u32, callback: extern "C" fn(u64, *mut c_void) -> i64) {
        // SAFETY: the callback has the signature the kernel expects, and the search outlives the loop.
        unsafe { bpf_loop(steps, callback as *mut c_void, (&raw mut *self).cast(), 0) };
    }
}

/// Tries the port of a flow that was deleted for it.
extern "C" fn try_same_port<F: Flows>(_: u64, search: *mut c_void) -> i64 {
    // SAFETY: as in `try_port`.
    let search = unsafe { &mut *search.cast::<PortSearch>() };
    let slot = insert_masqueraded_reply::<F>(search.slot, search.tag);
    search.is_found = (slot == search.slot).into();
    1
}

/// Tries one port. Returns 1 to end the search.
extern "C" fn try_port<F: Flows>(step: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `choose_port`.
    let search = unsafe { &mut *search.cast::<PortSearch>() };
    let Some(record) = F::flow(search.slot) else { return 1 };
    // SAFETY: `record` points into an array map; the CPU that set `MASQUERADE_PENDING` owns the masquerade fields.
    unsafe {
        // SCTP's checksum cannot be updated for another port.
        let port = if (*record).protocol == SCTP { (*record).translated_port } else { random_port() };
        (*record).masquerade_port = port;
    }
    if has_socket::<F>(search.ctx, record) {
        return 0;
    }
    let holder = insert_masqueraded_reply::<F>(search.slot, search.tag);
    if holder == search.slot {
        search.is_found = 1;
        return 1;
    }
    let may_take_over = step >= FREE_PORTS.into() && expendable_state::<F>(holder, clock::ticks()) != 0;
    if may_take_over {
        search.holder = holder;
    }
    may_take_over.into()
}

/// Whether a socket of the node has the tuple of the replies. Not inlined: its tuple would be on the stack of the insertion.
#[inline(never)]
fn has_socket<F: Flows>(ctx: *mut c_void, record: *mut Flow<F::Bytes>) -> bool {
    // SAFETY: as in `try_port`.
    let flow = unsafe { &*record };
    let reply = socket::Incoming {
        source: F::address(flow.backend),
        destination: F::address(flow.masquerade),
        source_port: flow.backend_port,
        destination_port: flow.masquerade_port,
    };
    F::has_socket(ctx, flow.protocol, &reply)
}

#[inline(always)]
fn random_port() -> [u8; 2] {
    let (first, last) = masquerade_ports();
    let ports = u32::from(last.wrapping_sub(first)) + 1;
    // SAFETY: takes no argument and has no precondition.
    let random = unsafe { bpf_get_prandom_u32() };
    first.wrapping_add(((u64::from(random) * u64::from(ports)) >> 32) as u16).to_be_bytes()
}
