//! What an unconnected UDP socket remembers: which backend stands for each frontend it sends to, so that the same
//! backend gets the next datagram too and its answers come from the frontend.
//!
//! Eight pairs live in the socket's own storage, under the lock that the kernel holds around these hooks; a ninth drives
//! the oldest into a table that all sockets share. Who only peeks at an answer takes its turn as well: where two
//! frontends share a backend, reading the same datagram again may show the other one.
//!
//! Most functions here are not inlined: each has a stack frame of its own, and together they would not fit into one.
//! They return what fits into a register, as the verifier refuses a result that the compiler builds on the stack. Those
//! with external linkage it looks at once, and not on every way that leads to them.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    btf_maps::{LruHashMap, SkStorage},
    macros::btf_map,
    programs::SockAddrContext,
};
use proxy_ebpf::abi::{
    BackendRef, Endpoint, OverflowEntry, OverflowKey, UNCONNECTED_PAIRS, UnconnectedPair, UnconnectedPairs,
    map,
};

use crate::{
    backend::{packed, unpacked},
    context,
};

#[btf_map]
static UNCONNECTED_SOCKETS: SkStorage<UnconnectedPairs> = SkStorage::new();
#[btf_map]
static SOCKET_OVERFLOW: LruHashMap<OverflowKey, OverflowEntry, { map::MAX_OVERFLOW as usize }> =
    LruHashMap::new();

/// The backend that stands for a frontend on this socket, whether or not it is still alive. Generation 0 is none.
#[inline(always)]
pub fn partner(ctx: &SockAddrContext, frontend: &Endpoint) -> BackendRef {
    unpacked(partner_on_socket(ctx.sock_addr, frontend))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn partner_on_socket(sock_addr: *mut bpf_sock_addr, frontend: *const Endpoint) -> u64 {
    // SAFETY: an endpoint of the caller's, which the verifier makes sure of; it wants to see the question.
    let Some(frontend) = (unsafe { frontend.as_ref() }) else { return 0 };
    packed(find_partner(&SockAddrContext::new(sock_addr), frontend))
}

#[inline(always)]
fn find_partner(ctx: &SockAddrContext, frontend: &Endpoint) -> BackendRef {
    let Some(known) = stored(ctx) else { return BackendRef::default() };
    let now = tick(known);
    for pair in &mut known.pairs {
        if pair.frontend == *frontend {
            if pair.awaited == 0 {
                pair.since = now;
            }
            pair.awaited = pair.awaited.saturating_add(1);
            return pair.reference;
        }
    }
    let key = OverflowKey::frontend(context::socket_cookie(ctx), *frontend);
    overflow(&key).map(|entry| entry.reference).unwrap_or_default()
}

/// Whether the socket talks to this backend under the name of another frontend: answers could not be told apart.
#[inline(always)]
pub fn is_taken(ctx: &SockAddrContext, backend: &Endpoint, frontend: &Endpoint) -> bool {
    is_backend_taken(ctx.sock_addr, backend, frontend) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_backend_taken(
    sock_addr: *mut bpf_sock_addr,
    backend: *const Endpoint,
    frontend: *const Endpoint,
) -> u32 {
    // SAFETY: both point to endpoints of the caller's, which the verifier makes sure of; it wants to see the question.
    let (Some(backend), Some(frontend)) = (unsafe { (backend.as_ref(), frontend.as_ref()) }) else {
        return 0;
    };
    let ctx = SockAddrContext::new(sock_addr);
    let Some(known) = stored(&ctx) else { return 0 };
    let taken = |pair: &UnconnectedPair| pair.backend == *backend && pair.frontend != *frontend;
    known.pairs.iter().any(taken).into()
}

/// Remembers a pair, in the place of the frontend's earlier one, or else of the one that was put in longest ago.
#[inline(never)]
pub fn remember(ctx: &SockAddrContext, frontend: &Endpoint, backend: &Endpoint, reference: BackendRef) {
    let Some(known) = stored_or_new(ctx) else {
        // Out of memory: the datagram goes out, its answer keeps the backend's address.
        return;
    };
    let since = tick(known);
    for pair in &mut known.pairs {
        if pair.frontend == *frontend {
            *pair = UnconnectedPair { backend: *backend, reference, since, awaited: 1, ..*pair };
            return;
        }
    }
    // The remainder is not a constant to the verifier, which would follow each place by itself.
    let place = known.placed as usize % UNCONNECTED_PAIRS;
    known.placed = known.placed.wrapping_add(1);
    let Some(place) = known.pairs.get_mut(place) else { return };
    if place.since != 0 {
        evict(ctx, place);
    }
    *place =
        UnconnectedPair { frontend: *frontend, backend: *backend, reference, since, awaited: 1, zero: 0 };
}

/// Forgets the pair of a frontend that is none any more.
#[inline(never)]
pub fn forget(ctx: &SockAddrContext, frontend: &Endpoint) {
    let Some(known) = stored(ctx) else { return };
    for pair in &mut known.pairs {
        if pair.frontend == *frontend {
            *pair = UnconnectedPair::default();
        }
    }
}

/// Replaces a backend that answers by the frontend it answers for; `false` when it answers for itself. Where two
/// frontends share it, the one that has waited longest gets the answer.
#[inline(never)]
pub fn rename(ctx: &SockAddrContext, peer: &mut Endpoint) -> bool {
    let Some(known) = stored(ctx) else { return false };
    let mut best: Option<usize> = None;
    let mut best_rank = u64::MAX;
    for (at, pair) in known.pairs.iter().enumerate() {
        if pair.backend == *peer {
            let rank = rank(pair);
            if best.is_none() || rank < best_rank {
                (best, best_rank) = (Some(at), rank);
            }
        }
    }
    let now = tick(known);
    if let Some(pair) = best.and_then(|at| known.pairs.get_mut(at)) {
        pair.awaited = pair.awaited.saturating_sub(1);
        pair.since = now;
        *peer = pair.frontend;
        return true;
    }
    let key = OverflowKey::backend(context::socket_cookie(ctx), *peer);
    match overflow(&key) {
        Some(entry) => {
            *peer = entry.end;
            true
        }
        None => false,
    }
}

/// Awaited answers first, and in turn; else the one that was last heard of.
#[inline(always)]
fn rank(pair: &UnconnectedPair) -> u64 {
    if pair.awaited > 0 { pair.since } else { u64::MAX - pair.since }
}

#[inline(always)]
fn tick(known: &mut UnconnectedPairs) -> u64 {
    known.clock = known.clock.wrapping_add(1);
    known.clock
}

/// Both ends go into the shared table: the next datagram finds the backend there, and an answer the frontend.
#[inline(never)]
fn evict(ctx: &SockAddrContext, pair: &UnconnectedPair) {
    let mut key = OverflowKey::frontend(context::socket_cookie(ctx), pair.frontend);
    let mut entry = OverflowEntry { end: pair.backend, zero: 0, reference: pair.reference };
    // An LRU table refuses only when its memory is in use on other CPUs: then the pair is forgotten, as if the socket
    // had never sent to it.
    let _ = SOCKET_OVERFLOW.insert(key, entry, 0);
    // The same places again: two of each would not fit onto the stack.
    key = OverflowKey::backend(key.socket, pair.backend);
    entry.end = pair.frontend;
    let _ = SOCKET_OVERFLOW.insert(key, entry, 0);
}

#[inline(always)]
fn overflow(key: &OverflowKey) -> Option<OverflowEntry> {
    // SAFETY: copied at once. Should the element be recycled under us, the reference it holds is checked against the
    // backend before anything is sent, and an answer shows another frontend of a socket that has more than eight.
    unsafe { SOCKET_OVERFLOW.get(key).copied() }
}

#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "the storage is the socket's, the context only leads to it")]
fn stored(ctx: &SockAddrContext) -> Option<&mut UnconnectedPairs> {
    // SAFETY: the hook always has a socket; its storage lives as long as it does, longer than this program runs.
    unsafe { UNCONNECTED_SOCKETS.get_ptr_mut(ctx).as_mut() }
}

#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "as in `stored`")]
fn stored_or_new(ctx: &SockAddrContext) -> Option<&mut UnconnectedPairs> {
    // SAFETY: as in `stored`; a new one is zeroed by the kernel.
    unsafe { UNCONNECTED_SOCKETS.get_or_insert_ptr_mut(ctx, None).as_mut() }
}
