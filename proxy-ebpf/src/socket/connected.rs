//! The translation of a connected socket, in socket-local storage.
//!
//! Invariant: the entry describes the socket's latest connect, or is cleared. The kernel runs the hooks that write it with the socket
//! locked. Those of UDP sockets are in `SOCKETS`, those of others in `TCP_SOCKETS`; before version 7 all were in `SOCKETS`.

use aya_ebpf::{
    bindings::bpf_sock,
    btf_maps::SkStorage,
    helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get},
    macros::btf_map,
    programs::SockAddrContext,
};
use proxy_ebpf::abi::{BackendRef, Endpoint, SocketPair, Steering, TcpSocket};

use super::{context, tcp};
use crate::packet::header::UDP;

#[btf_map]
static SOCKETS: SkStorage<SocketPair> = SkStorage::new();

#[inline(always)]
fn is_udp(ctx: &SockAddrContext) -> bool {
    context::protocol(ctx) == u32::from(UDP)
}

/// Stores the translation of a connect. Without memory the connection works, and getpeername shows the backend.
#[inline(always)]
pub fn store(ctx: &SockAddrContext, mut pair: SocketPair) {
    if !is_udp(ctx) {
        return tcp::store(ctx, pair);
    }
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
    if !is_udp(ctx)
        && let Some(stored) = tcp::of_hook(ctx)
    {
        stored.pair.backend.port = [0; 2];
        return;
    }
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
    let tcp = if is_udp(ctx) { None } else { tcp::of_hook(ctx) };
    let pair = match tcp {
        Some(stored) => &stored.pair,
        // SAFETY: the hook always has a socket; the storage lives as long as it does.
        None => unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() }?,
    };
    (pair.backend == *peer).then_some(pair.frontend)
}

/// The translation of the socket that sent a packet of this protocol. `socket` is null or valid.
#[inline(always)]
pub fn of_sender(socket: *mut bpf_sock, protocol: u8) -> Option<&'static SocketPair> {
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
        if protocol != UDP
            && let Some(stored) = tcp::of_sender(full.cast()).as_ref()
        {
            return Some(&stored.pair);
        }
        let map = (&raw const SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, full.cast(), core::ptr::null_mut(), 0).cast::<SocketPair>().as_ref()
    }
}

/// The state of the TCP socket that sent a packet, if its SYN was not answered in time. `socket` is null or valid.
#[inline(always)]
pub fn unanswered(socket: *mut bpf_sock) -> Option<*mut TcpSocket> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: as in `of_sender`. A word that the socket's own program writes; volatile for that.
    unsafe {
        let full = bpf_sk_fullsock(socket);
        if full.is_null() {
            return None;
        }
        let stored = tcp::of_sender(full.cast());
        (!stored.is_null() && (&raw const (*stored).steering).read_volatile() != Steering::NONE)
            .then_some(stored)
    }
}
