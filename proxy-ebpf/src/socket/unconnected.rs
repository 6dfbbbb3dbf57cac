//! Translations of an unconnected UDP socket: pairs of frontend and backend, so that each datagram to a frontend goes to the same
//! backend, and replies show the frontend's address.
//!
//! Eight pairs are in socket-local storage, under the socket lock that the kernel holds around these hooks. A ninth evicts the
//! oldest to an LRU table that all sockets share. MSG_PEEK counts as a read: if two frontends share a backend, reading the same
//! datagram again may show the other frontend.
//!
//! Most functions are not inlined: each has its own stack frame, and together they would exceed 512 bytes. Results fit in a
//! register, as the verifier refuses results that are returned through the stack. Functions with external linkage are verified
//! once, not for each call.

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

use super::context;

#[btf_map]
static UNCONNECTED_SOCKETS: SkStorage<UnconnectedPairs> = SkStorage::new();
#[btf_map]
static SOCKET_OVERFLOW: LruHashMap<OverflowKey, OverflowEntry, { map::MAX_OVERFLOW as usize }> =
    LruHashMap::new();

/// The socket's backend for a frontend, alive or not. Generation 0 if none.
#[inline(always)]
pub fn backend(ctx: &SockAddrContext, frontend: &Endpoint) -> BackendRef {
    BackendRef::from_bits(unconnected_backend(ctx.sock_addr, frontend))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unconnected_backend(sock_addr: *mut bpf_sock_addr, frontend: *const Endpoint) -> u64 {
    // SAFETY: an endpoint on the caller's stack, as the verifier checks; it requires the null check.
    let Some(frontend) = (unsafe { frontend.as_ref() }) else { return 0 };
    find_backend(&SockAddrContext::new(sock_addr), frontend).to_bits()
}

#[inline(always)]
fn find_backend(ctx: &SockAddrContext, frontend: &Endpoint) -> BackendRef {
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

/// Whether the socket already uses this backend for another frontend: replies could not be attributed.
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
    // SAFETY: both point to endpoints on the caller's stack, as the verifier checks; it requires the null check.
    let (Some(backend), Some(frontend)) = (unsafe { (backend.as_ref(), frontend.as_ref()) }) else {
        return 0;
    };
    let ctx = SockAddrContext::new(sock_addr);
    let Some(known) = stored(&ctx) else { return 0 };
    let taken = |pair: &UnconnectedPair| pair.backend == *backend && pair.frontend != *frontend;
    known.pairs.iter().any(taken).into()
}

/// Stores a pair, replacing the frontend's previous pair or else the oldest one.
#[inline(never)]
pub fn store(ctx: &SockAddrContext, frontend: &Endpoint, backend: &Endpoint, reference: BackendRef) {
    let Some(known) = stored_or_new(ctx) else {
        // Out of memory: the datagram is sent, its reply shows the backend's address.
        return;
    };
    let since = tick(known);
    for pair in &mut known.pairs {
        if pair.frontend == *frontend {
            *pair = UnconnectedPair { backend: *backend, reference, since, awaited: 1, ..*pair };
            return;
        }
    }
    // The remainder is not constant for the verifier, which would otherwise follow each index separately.
    let index = known.placed as usize % UNCONNECTED_PAIRS;
    known.placed = known.placed.wrapping_add(1);
    let Some(slot) = known.pairs.get_mut(index) else { return };
    if slot.since != 0 {
        evict(ctx, slot);
    }
    *slot = UnconnectedPair { frontend: *frontend, backend: *backend, reference, since, awaited: 1, zero: 0 };
}

/// Removes the pair of an address that is no longer a frontend.
#[inline(never)]
pub fn remove(ctx: &SockAddrContext, frontend: &Endpoint) {
    let Some(known) = stored(ctx) else { return };
    for pair in &mut known.pairs {
        if pair.frontend == *frontend {
            *pair = UnconnectedPair::default();
        }
    }
}

/// Replaces the backend's address of a received datagram by the frontend's. Returns `false` if it is of no pair. If two frontends
/// share the backend, the reply is attributed to the one that has waited longest.
#[inline(never)]
pub fn reverse_translate(ctx: &SockAddrContext, peer: &mut Endpoint) -> bool {
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

/// Pairs with outstanding replies first, longest wait first; else the most recently used.
#[inline(always)]
fn rank(pair: &UnconnectedPair) -> u64 {
    if pair.awaited > 0 { pair.since } else { u64::MAX - pair.since }
}

#[inline(always)]
fn tick(known: &mut UnconnectedPairs) -> u64 {
    known.clock = known.clock.wrapping_add(1);
    known.clock
}

/// Moves a pair to the shared table, keyed by frontend for the next datagram and by backend for the next reply.
#[inline(never)]
fn evict(ctx: &SockAddrContext, pair: &UnconnectedPair) {
    let mut key = OverflowKey::frontend(context::socket_cookie(ctx), pair.frontend);
    let mut entry = OverflowEntry { end: pair.backend, zero: 0, reference: pair.reference };
    // An LRU table refuses only when its free lists are in use on other CPUs: then the pair is lost, as if the socket
    // had never sent to the frontend.
    let _ = SOCKET_OVERFLOW.insert(key, entry, 0);
    // Variables are reused: two of each would exceed the stack.
    key = OverflowKey::backend(key.socket, pair.backend);
    entry.end = pair.frontend;
    let _ = SOCKET_OVERFLOW.insert(key, entry, 0);
}

#[inline(always)]
fn overflow(key: &OverflowKey) -> Option<OverflowEntry> {
    // SAFETY: copied at once. If the element is recycled meanwhile, its reference is checked against the backend before a
    // datagram is sent, and a reply shows another frontend of a socket that has more than eight.
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
