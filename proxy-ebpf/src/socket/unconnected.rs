//! Translations of an unconnected UDP socket: pairs of frontend and backend, so that each datagram to a frontend goes to the same
//! backend, and replies show the frontend's address.
//!
//! Eight pairs are in socket-local storage, under the socket lock that the kernel holds around these hooks. A ninth evicts the
//! oldest to a table that all sockets use, in which each network namespace has a share. MSG_PEEK counts as a read: if two frontends share a backend, reading the same
//! datagram again may show the other frontend.
//!
//! Most functions are not inlined: each has its own stack frame, and together they would exceed 512 bytes. Results fit in a
//! register, as the verifier refuses results that are returned through the stack. Functions with external linkage are verified
//! once, not for each call.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    btf_maps::{Array, SkStorage},
    macros::btf_map,
    programs::SockAddrContext,
};
use proxy_ebpf::abi::{
    BackendRef, Endpoint, OverflowEntry, OverflowKey, UNCONNECTED_PAIRS, UnconnectedPair, UnconnectedPairs,
    map,
};

use super::context;
use crate::{family::words, shared};

#[btf_map]
static UNCONNECTED_SOCKETS: SkStorage<UnconnectedPairs> = SkStorage::new();
#[btf_map]
static SOCKET_OVERFLOW: Array<OverflowEntry, { map::MAX_OVERFLOW as usize }> = Array::new();

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
    overflow(ctx, &key).map(|(_, reference)| reference).unwrap_or_default()
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
    match overflow(ctx, &key) {
        Some((frontend, _)) => {
            *peer = frontend;
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
    store_overflow(ctx, &key, &pair.backend, pair.reference);
    // The variable is reused: two would exceed the stack.
    key = OverflowKey::backend(key.socket, pair.backend);
    store_overflow(ctx, &key, &pair.frontend, pair.reference);
}

/// Writes an entry in place of the key's previous one, or else of the one of its line that was written least often. If another socket of
/// the share is writing there, the pair is lost, as if the socket had never sent to the frontend.
#[inline(always)]
fn store_overflow(ctx: &SockAddrContext, key: &OverflowKey, end: &Endpoint, reference: BackendRef) {
    let line = line_of(ctx, key);
    let (mut chosen, mut least) = (0, u64::MAX);
    for way in 0..map::OVERFLOW_WAYS {
        let Some(entry) = SOCKET_OVERFLOW.get_ptr_mut(line + way) else { return };
        let is_own = shared::read(entry, |entry| is_same_key(&entry.key, key).then_some(())).is_some();
        let rank = if is_own { 0 } else { shared::version(entry) };
        if rank < least {
            (chosen, least) = (way, rank);
        }
    }
    let Some(entry) = SOCKET_OVERFLOW.get_ptr_mut(line + chosen) else { return };
    shared::write(entry, |entry| {
        entry.key = *key;
        entry.end = *end;
        entry.reference = reference;
    });
}

/// The other end of a pair and its backend's reference.
#[inline(always)]
fn overflow(ctx: &SockAddrContext, key: &OverflowKey) -> Option<(Endpoint, BackendRef)> {
    let line = line_of(ctx, key);
    for way in 0..map::OVERFLOW_WAYS {
        let entry = SOCKET_OVERFLOW.get_ptr_mut(line + way)?;
        let found =
            shared::read(entry, |entry| is_same_key(&entry.key, key).then_some((entry.end, entry.reference)));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The first place of a key's line, in the share of its socket's network namespace. The kernel numbers the namespaces, so that the
/// first of them have shares of their own.
#[inline(always)]
fn line_of(ctx: &SockAddrContext, key: &OverflowKey) -> u32 {
    const SHARES: u64 = (map::MAX_OVERFLOW / map::OVERFLOW_SHARE) as u64;
    const LINES: u32 = map::OVERFLOW_SHARE / map::OVERFLOW_WAYS;
    let share = (context::netns_cookie(ctx) % SHARES) as u32;
    let of_socket = (key.socket as u32) ^ u32::from(u16::from_be_bytes(key.end.port)) ^ key.kind << 16;
    let [a, b, c, d] = words(key.end.address);
    let line = shared::hash([a, b, c ^ of_socket, d]) % LINES;
    share * map::OVERFLOW_SHARE + line * map::OVERFLOW_WAYS
}

#[inline(always)]
fn is_same_key(a: &OverflowKey, b: &OverflowKey) -> bool {
    a.socket == b.socket && a.kind == b.kind && a.end == b.end
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
