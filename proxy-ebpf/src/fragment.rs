//! Fragments: only the first of a datagram says which ports it is between, the others follow it.
//!
//! Those that come before the first are held until it comes, as many as there is room for: then they come in once more.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM},
    btf_maps::{Array, LruHashMap, PerCpuArray},
    helpers::generated::{
        bpf_clone_redirect, bpf_loop, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    macros::btf_map,
    programs::TcContext,
};
use proxy_ebpf::abi::{DropReason, Fragment, flow_state::ticks as ticks_of, map};

use crate::{
    atomic, clock,
    family::{Family, bytes},
    metrics,
    packet::Packet,
};

/// Which ports the datagram of a fragment is between.
#[btf_map]
static FRAGMENTS: LruHashMap<Fragment, [u8; 4], { map::MAX_FRAGMENTS as usize }> = LruHashMap::new();

/// The datagram of the packet at work, if that is a fragment.
#[btf_map]
static SCRATCH_FRAGMENT: PerCpuArray<Fragment, 1> = PerCpuArray::new();

/// Fragments that wait for the first of their datagram.
#[btf_map]
static QUEUED_FRAGMENTS: Array<Held, { map::MAX_HELD_FRAGMENTS as usize }> = Array::new();
/// When the last one began to wait, in ticks: nobody looks for one where none has come for long.
#[btf_map]
static LAST_QUEUED: Array<u64, 1> = Array::new();

/// Longer frames are not held.
const LONGEST: u32 = 2048;
/// An IPv4 header. The verifier of Linux 6.1 does not see that what is not 0 is at least 1, so a bound has to say it.
const SHORTEST: u32 = 20;
/// For so long a place is kept for a fragment; a sender sends them one after the other.
const PATIENCE: u32 = ticks_of(1);

/// One that waits.
#[repr(C)]
struct Held {
    state: u64,
    since: u32,
    length: u32,
    fragment: Fragment,
    frame: [u8; LONGEST as usize],
}

const FREE: u64 = 0;
/// Somebody writes or reads it.
const BUSY: u64 = 1;
const WAITING: u64 = 2;

#[inline(always)]
fn work() -> Option<&'static mut Fragment> {
    // SAFETY: this CPU's own; every pattern of its plain values is valid, and it lives as long as the program.
    SCRATCH_FRAGMENT.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

#[inline(always)]
fn note<F: Family>(packet: &Packet<F::Address>) -> Option<&'static Fragment> {
    let work = work()?;
    *work = Fragment {
        source: bytes(F::mapped(packet.source)),
        destination: bytes(F::mapped(packet.destination)),
        id: packet.id,
        protocol: packet.protocol,
        zero: [0; 3],
    };
    Some(work)
}

/// Notes the ports of a datagram.
#[inline(always)]
pub fn remember<F: Family>(packet: &Packet<F::Address>) {
    let ([a, b], [c, d]) = (packet.source_port, packet.destination_port);
    // The map evicts: it does not fill up. Without its entry the datagram is lost, as by a lost fragment.
    if let Some(fragment) = note::<F>(packet) {
        let _ = FRAGMENTS.insert(fragment, [a, b, c, d], 0);
    }
}

/// The ports of a fragment's datagram, source first.
#[inline(always)]
pub fn recall<F: Family>(packet: &Packet<F::Address>) -> Option<[u8; 4]> {
    // SAFETY: one aligned word, read at once. Should its element be recycled for another datagram under us, the fragment
    // goes where that one goes, and completes nothing there.
    unsafe { FRAGMENTS.get(note::<F>(packet)?).copied() }
}

/// A search among the places.
#[repr(C)]
struct Search {
    skb: *mut __sk_buff,
    now: u32,
    /// The place that was taken.
    place: u32,
}

impl Search {
    #[inline(always)]
    fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb, now: clock::ticks(), place: NOWHERE }
    }

    #[inline(always)]
    fn go(&mut self, step: extern "C" fn(u64, *mut c_void) -> i64) {
        // SAFETY: the callback has the signature the kernel expects, and the search outlives the loop.
        unsafe { bpf_loop(map::MAX_HELD_FRAGMENTS, step as *mut c_void, (&raw mut *self).cast(), 0) };
    }
}

const NOWHERE: u32 = u32::MAX;

/// Holds a frame until the first fragment of its datagram comes. `false`: there is no room.
#[inline(always)]
pub fn hold(ctx: &TcContext) -> bool {
    let mut search = Search::new(ctx);
    search.go(take);
    let Some(fragment) = work() else { return false };
    let Some(held) = QUEUED_FRAGMENTS.get_ptr_mut(search.place) else { return false };
    // SAFETY: the place is ours since `take`, and lies in an array map.
    let length = unsafe {
        (*held).fragment = *fragment;
        (*held).since = search.now;
        (*held).length = load(ctx.skb.skb, held);
        (*held).length
    };
    set_state(held, if length == 0 { FREE } else { WAITING });
    if let Some(last) = LAST_QUEUED.get_ptr_mut(0) {
        // SAFETY: one aligned word of an array map; any of those that write it at once will do.
        unsafe { last.write_volatile(search.now.into()) };
    }
    length != 0
}

/// Lets those come in that wait for this packet. `false`: it could not be made again what it was.
#[inline(always)]
pub fn release(ctx: &TcContext) -> bool {
    let mut search = Search::new(ctx);
    // SAFETY: one aligned word of an array map.
    let last = LAST_QUEUED.get_ptr(0).map_or(0, |last| unsafe { last.read_volatile() }) as u32;
    if last == 0 || search.now.wrapping_sub(last) > 2 * PATIENCE {
        return true;
    }
    search.go(take);
    let Some(own) = QUEUED_FRAGMENTS.get_ptr_mut(search.place) else { return true };
    // SAFETY: as in `hold`.
    let length = unsafe { load(ctx.skb.skb, own) };
    let mut is_itself = true;
    if length != 0 {
        search.go(let_in);
        // SAFETY: as in `hold`.
        is_itself = unsafe { store(ctx.skb.skb, own, length) };
    }
    set_state(own, FREE);
    is_itself
}

/// Takes a place that is free, or was for longer than anybody waits; 1 ends the search.
extern "C" fn take(at: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes on the pointer that `go` gave.
    let search = unsafe { &mut *search.cast::<Search>() };
    let place = at as u32;
    let Some(held) = QUEUED_FRAGMENTS.get_ptr_mut(place) else { return 1 };
    // SAFETY: an aligned word of an array map.
    let (state, since) = unsafe { ((&raw const (*held).state).read_volatile(), (*held).since) };
    let is_stale = state == WAITING && search.now.wrapping_sub(since) > PATIENCE;
    if (state == FREE || is_stale) && change_state(held, state, BUSY) {
        if is_stale {
            metrics::refused(DropReason::FragmentNotHeld, None);
        }
        search.place = place;
        return 1;
    }
    0
}

/// Lets one in, if it waits for this datagram.
extern "C" fn let_in(at: u64, search: *mut c_void) -> i64 {
    // SAFETY: the kernel passes on the pointer that `go` gave.
    let search = unsafe { &mut *search.cast::<Search>() };
    let Some(held) = QUEUED_FRAGMENTS.get_ptr_mut(at as u32) else { return 1 };
    if !change_state(held, WAITING, BUSY) {
        return 0;
    }
    // SAFETY: the place is ours, and lies in an array map.
    let is_meant = work().is_some_and(|fragment| unsafe { is_same(&(*held).fragment, fragment) });
    if !is_meant {
        set_state(held, WAITING);
        return 0;
    }
    // SAFETY: as above; the kernel's own context. A frame that cannot be sent is lost, as fragments are.
    unsafe {
        if store(search.skb, held, (*held).length) {
            bpf_clone_redirect(search.skb, (*search.skb).ifindex, BPF_F_INGRESS.into());
        }
    }
    set_state(held, FREE);
    0
}

#[inline(always)]
fn is_same(a: &Fragment, b: &Fragment) -> bool {
    let words = |address| crate::family::words(address);
    crate::family::same(words(a.source), words(b.source))
        && crate::family::same(words(a.destination), words(b.destination))
        && a.id == b.id
        && a.protocol == b.protocol
}

/// Copies a frame into a place: its length, 0 if it does not fit.
#[inline(always)]
#[expect(clippy::manual_range_contains, reason = "the verifier needs a bound for each comparison")]
unsafe fn load(skb: *mut __sk_buff, held: *mut Held) -> u32 {
    // SAFETY: the caller owns the place; the length is within it, as checked.
    unsafe {
        let length = (*skb).len;
        if length < SHORTEST || length > LONGEST {
            return 0;
        }
        let frame = (&raw mut (*held).frame).cast();
        if bpf_skb_load_bytes(skb.cast(), 0, frame, length) == 0 { length } else { 0 }
    }
}

/// Makes the packet what a place holds.
#[inline(always)]
#[expect(clippy::manual_range_contains, reason = "the verifier needs a bound for each comparison")]
unsafe fn store(skb: *mut __sk_buff, held: *mut Held, length: u32) -> bool {
    const FLAGS: u32 = BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH;
    if length < SHORTEST || length > LONGEST {
        return false;
    }
    // SAFETY: the caller owns the place; the length is within it, as checked. Nothing that was read from the packet is
    // used after this.
    unsafe {
        let frame = (&raw const (*held).frame).cast();
        bpf_skb_change_tail(skb, length, 0) == 0
            && bpf_skb_store_bytes(skb, 0, frame, length, FLAGS.into()) == 0
    }
}

#[inline(always)]
fn change_state(held: *mut Held, old: u64, new: u64) -> bool {
    atomic::compare_exchange(held.cast(), old, new) == old
}

#[inline(always)]
fn set_state(held: *mut Held, state: u64) {
    // SAFETY: one aligned word of an array map, which only the place's owner writes.
    unsafe { held.cast::<u64>().write_volatile(state) };
}
