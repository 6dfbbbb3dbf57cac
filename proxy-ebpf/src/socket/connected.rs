//! The translation of a connected socket, in socket-local storage.
//!
//! Invariant: the entry in `SOCKETS` describes the socket's latest connect, or is cleared. The kernel runs the hooks that write it
//! with the socket locked.

use aya_ebpf::{
    bindings::bpf_sock,
    btf_maps::SkStorage,
    helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get},
    macros::btf_map,
    programs::SockAddrContext,
};
use proxy_ebpf::abi::{BackendRef, Endpoint, SocketPair};

use super::operation::LockedSocket;

#[btf_map]
static SOCKETS: SkStorage<SocketPair> = SkStorage::new();

/// Stores the translation of a connect. Without memory the connection works, and getpeername shows the backend.
#[inline(always)]
pub fn store(ctx: &SockAddrContext, mut pair: SocketPair) {
    // SAFETY: connect hooks run with the socket locked and always have one; the storage lives as long as it does.
    let stored = unsafe { SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut pair)) };
    if !stored.is_null() {
        // SAFETY: not null, and the socket lock excludes other writers.
        unsafe { *stored = pair };
    }
}

/// Clears the translation: a socket that connects to a frontend and then to a pod must not show the frontend for the pod. Port 0
/// matches no peer.
#[inline(always)]
pub fn clear(ctx: &SockAddrContext) {
    // SAFETY: as in `store`.
    let stored = unsafe { SOCKETS.get_ptr_mut(ctx) };
    if !stored.is_null() {
        // SAFETY: not null, and the socket lock excludes other writers.
        unsafe { (*stored).backend.port = [0; 2] };
    }
}

/// The backend of a socket that is connected through a frontend, generation 0 if none. Datagrams that it sends to that frontend
/// by address go to the same backend, as a connected socket receives from no other.
#[inline(always)]
pub fn backend(ctx: &SockAddrContext, frontend: &Endpoint) -> BackendRef {
    // SAFETY: the hook always has a socket; the storage lives as long as it does.
    match unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() } {
        Some(pair) if pair.backend.port != [0; 2] && pair.frontend == *frontend => pair.reference,
        Some(_) | None => BackendRef::default(),
    }
}

/// The frontend through which the socket is connected to `peer`, if it is.
#[inline(always)]
pub fn frontend(ctx: &SockAddrContext, peer: &Endpoint) -> Option<Endpoint> {
    // SAFETY: the hook always has a socket; the storage lives as long as it does.
    let pair = unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() }?;
    (pair.backend == *peer).then_some(pair.frontend)
}

/// The translation of the latest connect of a socket, if it was translated.
#[inline(always)]
pub fn of(socket: LockedSocket) -> Option<&'static SocketPair> {
    // SAFETY: the storage of a locked socket lives until the program ends.
    let pair = unsafe {
        let map = (&raw const SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, socket.pointer().cast(), core::ptr::null_mut(), 0)
            .cast::<SocketPair>()
            .as_ref()
    }?;
    (pair.backend.port != [0; 2]).then_some(pair)
}

/// The translation of the socket that sent a packet. `socket` is null or valid.
#[inline(always)]
pub fn of_sender(socket: *mut bpf_sock) -> Option<&'static SocketPair> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null, and the kernel's own; a request or timewait socket has no storage. The storage lives as long as the
    // socket, which lives as long as the packet.
    unsafe {
        let full = bpf_sk_fullsock(socket);
        if full.is_null() {
            return None;
        }
        let map = (&raw const SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, full.cast(), core::ptr::null_mut(), 0).cast::<SocketPair>().as_ref()
    }
}
