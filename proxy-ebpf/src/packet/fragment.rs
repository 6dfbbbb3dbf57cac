//! Fragments. Only the first of a datagram has ports; the ports of later ones are looked up by the datagram's identification.
//!
//! Fragments that arrive before the first are queued, up to `MAX_HELD_FRAGMENTS`, and re-injected at ingress when it arrives.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM},
    btf_maps::{Array, PerCpuArray},
    helpers::generated::{
        bpf_clone_redirect, bpf_loop, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    macros::btf_map,
    programs::TcContext,
};
use proxy_ebpf::abi::{DropReason, Fragment, FragmentPorts, flow_state::ticks as ticks_of, map};

use super::parse::Packet;
use crate::{
    atomic, clock,
    family::{Family, bytes, same, words},
    metrics, shared,
};

/// Source and destination port by datagram. The sources with one hash share `FRAGMENTS_SHARE` of them.
#[btf_map]
static FRAGMENTS: Array<FragmentPorts, { map::MAX_FRAGMENTS as usize }> = Array::new();

/// The datagram of the fragment being processed.
#[btf_map]
static SCRATCH_FRAGMENT: PerCpuArray<Fragment, 1> = PerCpuArray::new();

/// Fragments that arrived before the first of their datagram.
#[btf_map]
static QUEUED_FRAGMENTS: Array<QueuedFragment, { map::MAX_HELD_FRAGMENTS as usize }> = Array::new();
/// Time of the last queued fragment, in ticks: the queue is not searched when nothing was queued for long.
#[btf_map]
static LAST_QUEUED: Array<u64, 1> = Array::new();

/// Longer frames are not queued.
const MAX_LENGTH: u32 = 2048;
/// An IPv4 header. Linux 6.1's verifier does not derive a lower bound from `!= 0`.
const MIN_LENGTH: u32 = 20;
/// Limit of queued fragments of one source: one sender does not fill the queue.
const SHARE: u32 = map::MAX_HELD_FRAGMENTS / 4;
/// Time after which a queued fragment is discarded, in ticks. A sender sends the fragments of a datagram in one burst.
const TIMEOUT: u32 = ticks_of(1);

/// A slot of the queue.
#[repr(C)]
struct QueuedFragment {
    state: u64,
    since: u32,
    length: u32,
    fragment: Fragment,
    frame: [u8; MAX_LENGTH as usize],
}

const FREE: u64 = 0;
/// Owned by one CPU, which reads or writes it.
const BUSY: u64 = 1;
const QUEUED: u64 = 2;

#[inline(always)]
fn scratch() -> Option<&'static mut Fragment> {
    // SAFETY: this CPU's own; every pattern of its plain values is valid, and it lives as long as the program.
    SCRATCH_FRAGMENT.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

#[inline(always)]
fn datagram<F: Family>(packet: &Packet<F::Address>) -> Option<&'static Fragment> {
    let scratch = scratch()?;
    *scratch = Fragment {
        source: bytes(F::mapped(packet.source)),
        destination: bytes(F::mapped(packet.destination)),
        id: packet.id,
        protocol: packet.protocol,
        zero: [0; 3],
    };
    Some(scratch)
}

/// Stores the ports of a first fragment. An entry that is replaced or contended costs its datagram, as a lost fragment would.
#[inline(always)]
pub fn store_ports<F: Family>(packet: &Packet<F::Address>) {
    let ([a, b], [c, d]) = (packet.source_port, packet.destination_port);
    let ports = [a, b, c, d];
    let Some(fragment) = datagram::<F>(packet) else { return };
    let line = line_of(fragment);
    let Some(first) = FRAGMENTS.get_ptr_mut(line) else { return };
    let Some(second) = FRAGMENTS.get_ptr_mut(line + 1) else { return };
    let (in_first, in_second) = (ports_in(first, fragment), ports_in(second, fragment));
    // The next device sees the same datagram again.
    if in_first == Some(ports) || in_second == Some(ports) {
        return;
    }
    // Its own entry, of an earlier datagram with this identification; else the one that was written less often, and so earlier.
    let is_second_older = shared::version(second) < shared::version(first);
    let chosen = if in_second.is_some() || (in_first.is_none() && is_second_older) { second } else { first };
    shared::write(chosen, |entry| {
        entry.fragment = *fragment;
        entry.ports = ports;
    });
}

/// Source and destination port of a later fragment's datagram.
#[inline(always)]
pub fn ports<F: Family>(packet: &Packet<F::Address>) -> Option<[u8; 4]> {
    let fragment = datagram::<F>(packet)?;
    let line = line_of(fragment);
    ports_in(FRAGMENTS.get_ptr_mut(line)?, fragment)
        .or_else(|| ports_in(FRAGMENTS.get_ptr_mut(line + 1)?, fragment))
}

#[inline(always)]
fn ports_in(entry: *mut FragmentPorts, fragment: &Fragment) -> Option<[u8; 4]> {
    shared::read(entry, |entry| is_same(&entry.fragment, fragment).then_some(entry.ports))
}

/// The first of the two places of a datagram, within the share of its source. Senders count the identification up, so datagrams that
/// are on their way together have places of their own. There are two for the same datagram before and after translation.
#[inline(always)]
fn line_of(fragment: &Fragment) -> u32 {
    let share = shared::hash(words(fragment.source)) % (map::MAX_FRAGMENTS / map::FRAGMENTS_SHARE);
    let of_destination = shared::hash(words(fragment.destination)).wrapping_add(fragment.protocol.into());
    let line = of_destination.wrapping_add(u32::from_be(fragment.id)) % (map::FRAGMENTS_SHARE / 2);
    share * map::FRAGMENTS_SHARE + 2 * line
}

/// A search of the queue.
#[repr(C)]
struct Search {
    skb: *mut __sk_buff,
    now: u32,
    /// The acquired slot.
    slot: u32,
    /// `now` and the number of queued fragments of the same source: the verifier follows a counter that begins with a known number
    /// through each iteration.
    of_source: u32,
}

impl Search {
    #[inline(always)]
    fn new(ctx: &TcContext) -> Self {
        let now = clock::ticks();
        Self { skb: ctx.skb.skb, now, slot: NO_SLOT, of_source: now }
    }

    #[inline(always)]
    fn run(&mut self, step: extern "C" fn(u64, *mut c_void) -> i64) {
        // SAFETY: the callback has the signature the kernel expects, and the search outlives the loop.
        unsafe { bpf_loop(map::MAX_HELD_FRAGMENTS, step as *mut c_void, (&raw mut *self).cast(), 0) };
    }
}

const NO_SLOT: u32 = u32::MAX;

/// Queues a fragment until the first of its datagram arrives. Returns `false` if the queue or its source's share is full, or the frame
/// too long.
#[inline(always)]
pub fn queue(ctx: &TcContext) -> bool {
    let mut search = Search::new(ctx);
    search.run(count);
    if search.of_source.wrapping_sub(search.now) >= SHARE {
        return false;
    }
    search.run(acquire);
    let Some(fragment) = scratch() else { return false };
    let Some(queued) = QUEUED_FRAGMENTS.get_ptr_mut(search.slot) else { return false };
    // SAFETY: this CPU owns the slot since `acquire`, and it lies in an array map.
    let length = unsafe {
        (*queued).fragment = *fragment;
        (*queued).since = search.now;
        (*queued).length = load(ctx.skb.skb, queued);
        (*queued).length
    };
    set_state(queued, if length == 0 { FREE } else { QUEUED });
    if let Some(last) = LAST_QUEUED.get_ptr_mut(0) {
        // SAFETY: one aligned word of an array map; of concurrent writes any is right.
        unsafe { last.write_volatile(search.now.into()) };
    }
    length != 0
}

/// Re-injects the queued fragments of this packet's datagram. Returns `false` if the packet could not be restored.
#[inline(always)]
pub fn release(ctx: &TcContext) -> bool {
    let mut search = Search::new(ctx);
    // SAFETY: one aligned word of an array map.
    let last = LAST_QUEUED.get_ptr(0).map_or(0, |last| unsafe { last.read_volatile() }) as u32;
    if last == 0 || search.now.wrapping_sub(last) > 2 * TIMEOUT {
        return true;
    }
    search.run(acquire);
    let Some(own) = QUEUED_FRAGMENTS.get_ptr_mut(search.slot) else { return true };
    // SAFETY: as in `queue`.
    let length = unsafe { load(ctx.skb.skb, own) };
    let mut is_restored = true;
    if length != 0 {
        search.run(reinject);
        // SAFETY: as in `queue`.
        is_restored = unsafe { store(ctx.skb.skb, own, length) };
    }
    set_state(own, FREE);
    is_restored
}

/// Counts a queued fragment of the same source. One that is replaced meanwhile is counted or not: the share is not exact.
extern "C" fn count(at: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `run`.
    let search = unsafe { &mut *search.cast::<Search>() };
    let Some(queued) = QUEUED_FRAGMENTS.get_ptr_mut(at as u32) else { return 1 };
    let Some(fragment) = scratch() else { return 1 };
    // SAFETY: aligned words of an array map.
    let (state, since, source) = unsafe {
        ((&raw const (*queued).state).read_volatile(), (*queued).since, words((*queued).fragment.source))
    };
    let is_held = state == QUEUED && search.now.wrapping_sub(since) <= TIMEOUT;
    let is_of_source = is_held && same(source, words(fragment.source));
    search.of_source = search.of_source.wrapping_add(is_of_source.into());
    0
}

/// Acquires a slot that is free or timed out. Returns 1 to end the search.
extern "C" fn acquire(at: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `run`.
    let search = unsafe { &mut *search.cast::<Search>() };
    let slot = at as u32;
    let Some(queued) = QUEUED_FRAGMENTS.get_ptr_mut(slot) else { return 1 };
    // SAFETY: an aligned word of an array map.
    let (state, since) = unsafe { ((&raw const (*queued).state).read_volatile(), (*queued).since) };
    let is_stale = state == QUEUED && search.now.wrapping_sub(since) > TIMEOUT;
    if (state == FREE || is_stale) && change_state(queued, state, BUSY) {
        if is_stale {
            metrics::refused(DropReason::FragmentNotHeld, None);
        }
        search.slot = slot;
        return 1;
    }
    0
}

/// Re-injects a queued fragment of this datagram.
extern "C" fn reinject(at: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `run`.
    let search = unsafe { &mut *search.cast::<Search>() };
    let Some(queued) = QUEUED_FRAGMENTS.get_ptr_mut(at as u32) else { return 1 };
    if !change_state(queued, QUEUED, BUSY) {
        return 0;
    }
    // SAFETY: this CPU owns the slot, and it lies in an array map.
    let is_of_datagram = scratch().is_some_and(|fragment| unsafe { is_same(&(*queued).fragment, fragment) });
    if !is_of_datagram {
        set_state(queued, QUEUED);
        return 0;
    }
    // SAFETY: as above; the kernel's own context. A frame that cannot be sent is lost, as any fragment may be.
    unsafe {
        if store(search.skb, queued, (*queued).length) {
            bpf_clone_redirect(search.skb, (*search.skb).ifindex, BPF_F_INGRESS.into());
        }
    }
    set_state(queued, FREE);
    0
}

#[inline(always)]
fn is_same(a: &Fragment, b: &Fragment) -> bool {
    same(words(a.source), words(b.source))
        && same(words(a.destination), words(b.destination))
        && a.id == b.id
        && a.protocol == b.protocol
}

/// Copies the frame into a slot. Returns its length, 0 if it does not fit.
#[inline(always)]
#[expect(clippy::manual_range_contains, reason = "the verifier derives a bound from each comparison")]
unsafe fn load(skb: *mut __sk_buff, queued: *mut QueuedFragment) -> u32 {
    // SAFETY: the caller owns the slot; the length is within it, as checked.
    unsafe {
        let length = (*skb).len;
        if length < MIN_LENGTH || length > MAX_LENGTH {
            return 0;
        }
        let frame = (&raw mut (*queued).frame).cast();
        if bpf_skb_load_bytes(skb.cast(), 0, frame, length) == 0 { length } else { 0 }
    }
}

/// Replaces the packet by the frame in a slot.
#[inline(always)]
#[expect(clippy::manual_range_contains, reason = "the verifier derives a bound from each comparison")]
unsafe fn store(skb: *mut __sk_buff, queued: *mut QueuedFragment, length: u32) -> bool {
    const FLAGS: u32 = BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH;
    if length < MIN_LENGTH || length > MAX_LENGTH {
        return false;
    }
    // SAFETY: the caller owns the slot; the length is within it, as checked. Nothing read from the packet before is used
    // after this.
    unsafe {
        let frame = (&raw const (*queued).frame).cast();
        bpf_skb_change_tail(skb, length, 0) == 0
            && bpf_skb_store_bytes(skb, 0, frame, length, FLAGS.into()) == 0
    }
}

#[inline(always)]
fn change_state(queued: *mut QueuedFragment, old: u64, new: u64) -> bool {
    atomic::compare_exchange(queued.cast(), old, new) == old
}

#[inline(always)]
fn set_state(queued: *mut QueuedFragment, state: u64) {
    // SAFETY: one aligned word of an array map, written only by the owner of the slot.
    unsafe { queued.cast::<u64>().write_volatile(state) };
}
