//! The address and port that stand for a client: chosen when its first packet leaves, because only then the device is
//! known.
//!
//! A port is taken only where neither another flow nor a socket of the node has the same ends, and outside of the range
//! from which the node's own sockets get theirs: a connection of the node is never mistaken for a masqueraded one.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, generated::bpf_loop},
    programs::TcContext,
};
use proxy_ebpf::abi::{DropReason, FlowFlags, MASQUERADE_DONE, MASQUERADE_NONE, MASQUERADE_PENDING};

use crate::{
    atomic,
    config::masquerade_ports,
    conntrack::{self, Tracked},
    family::Family,
    nat::Ends,
    network,
    packet::SCTP,
    stage::{Step, Work},
};

/// How many ports are tried. With half of them in use between the two addresses, one flow in four billion finds none.
const PORTS: u32 = 32;

/// What the ends of a packet are to be that leaves for its backend in a masqueraded flow.
#[inline(always)]
pub fn masquerade<F: Family>(ctx: &TcContext, work: &mut Work<F>, slot: u32) -> Step {
    let Some(flow) = conntrack::at::<F>(slot) else { return ending() };
    // SAFETY: the kernel's own context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    if let Err(reason) = settle(ctx.skb.skb.cast(), device, &flow) {
        return Step::refuse(reason, None);
    }
    let record = flow.record();
    work.ends = Ends {
        source: F::address(record.masquerade),
        source_port: record.masquerade_port,
        ..Ends::of(&work.packet)
    };
    // The flow was found by this packet's ends; that the record is still the same flow's is asked last.
    let is_this_packets = F::is_same(record.client, F::bytes(work.packet.source)) && flow.is_still_there();
    if is_this_packets { Step::TRANSLATE } else { ending() }
}

#[inline(always)]
fn ending() -> Step {
    Step::refuse(DropReason::FlowEnding, None)
}

#[inline(always)]
fn state<F: Family>(flow: &Tracked<F>) -> u64 {
    // SAFETY: `record` points into an array map, whose memory lives as long as the program; volatile because other CPUs
    // write it.
    unsafe { (&raw const (*flow.record).masquerade_state).read_volatile() }
}

/// Sees to it that an address and a port stand for the client of a flow that leaves by a device. `ctx` is the program's own
/// context.
#[inline(always)]
pub fn settle<F: Family>(ctx: *mut c_void, device: u32, flow: &Tracked<F>) -> Result<(), DropReason> {
    if state(flow) == MASQUERADE_DONE {
        return Ok(());
    }
    // SAFETY: `record` points into an array map, whose memory lives as long as the program.
    let word = unsafe { &raw mut (*flow.record).masquerade_state };
    match atomic::compare_exchange(word, MASQUERADE_NONE, MASQUERADE_PENDING) {
        MASQUERADE_NONE => {}
        MASQUERADE_DONE => return Ok(()),
        // Another CPU is at it with an earlier packet: the sender's next attempt finds it done.
        _ => return Err(DropReason::FlowEnding),
    }
    let Some(address) = F::masquerade_address(device) else {
        set_state(flow, MASQUERADE_NONE);
        return Err(DropReason::NoMasqueradeAddress);
    };
    // SAFETY: whoever set `MASQUERADE_PENDING` owns the masquerade fields.
    unsafe { (*flow.record).masquerade = F::bytes(address) };
    if !keep_port::<F>(flow, address) && !choose_port::<F>(ctx, flow) {
        set_state(flow, MASQUERADE_NONE);
        return Err(DropReason::NoMasqueradePort);
    }
    set_state(flow, MASQUERADE_DONE);
    Ok(())
}

#[inline(always)]
fn set_state<F: Family>(flow: &Tracked<F>, state: u64) {
    // SAFETY: as in `settle`; one aligned word, which only the owner of `MASQUERADE_PENDING` writes.
    unsafe { (&raw mut (*flow.record).masquerade_state).write_volatile(state) }
}

/// A client on the node that has the address already stands for itself: its answers find it as they are.
#[inline(always)]
fn keep_port<F: Family>(flow: &Tracked<F>, address: F::Address) -> bool {
    let record = flow.record();
    if !record.flags.contains(FlowFlags::HOST_CLIENT) || !F::is_same(record.client, F::bytes(address)) {
        return false;
    }
    // SAFETY: whoever set `MASQUERADE_PENDING` owns the masquerade fields.
    unsafe { (*flow.record).masquerade_port = record.translated_port };
    true
}

/// A search for a port.
#[repr(C)]
struct Search {
    /// The program's own context.
    ctx: *mut c_void,
    slot: u32,
    tag: u32,
    is_found: u64,
}

/// Takes a port. `false`: every one that was tried is in use.
#[inline(always)]
fn choose_port<F: Family>(ctx: *mut c_void, flow: &Tracked<F>) -> bool {
    let mut search = Search { ctx, slot: flow.slot, tag: flow.state.tag(), is_found: 0 };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = try_port::<F>;
    // SAFETY: the callback has the signature the kernel expects, and `search` outlives the loop.
    unsafe { bpf_loop(PORTS, callback as *mut c_void, (&raw mut search).cast(), 0) };
    search.is_found != 0
}

/// One step of a search; 1 ends it.
extern "C" fn try_port<F: Family>(_: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes on the pointer that `choose_port` gave.
    let search = unsafe { &mut *search.cast::<Search>() };
    let Some(record) = F::flow(search.slot) else { return 1 };
    // SAFETY: `record` points into an array map; whoever set `MASQUERADE_PENDING` owns the masquerade fields.
    unsafe {
        // SCTP's checksum does not allow for another port.
        let port = if (*record).protocol == SCTP { (*record).translated_port } else { random_port() };
        (*record).masquerade_port = port;
    }
    if F::has_socket(search.ctx, record) || !conntrack::add_masquerade::<F>(record, search.slot, search.tag) {
        return 0;
    }
    search.is_found = 1;
    1
}

#[inline(always)]
fn random_port() -> [u8; 2] {
    let (first, last) = masquerade_ports();
    let ports = u32::from(last.wrapping_sub(first)) + 1;
    // SAFETY: takes no argument and has no precondition.
    let random = unsafe { bpf_get_prandom_u32() };
    first.wrapping_add(((u64::from(random) * u64::from(ports)) >> 32) as u16).to_be_bytes()
}

/// The address that stands for others on a device.
#[inline(always)]
pub fn address_v4(device: u32) -> Option<u32> {
    let address = u32::from_ne_bytes(network::device(device)?.masquerade_v4);
    (address != 0).then_some(address)
}

#[inline(always)]
pub fn address_v6(device: u32) -> Option<crate::family::Words> {
    let address = crate::family::words(network::device(device)?.masquerade_v6);
    (address != [0; 4]).then_some(address)
}
