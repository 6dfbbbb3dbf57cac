//! The translation of a TCP socket, and what was counted of it, in socket-local storage: each connection is counted as open and as
//! closed once, also if the program was attached or replaced while it was open.
//!
//! The kernel runs the hooks that write it with the socket locked.

use aya_ebpf::{
    btf_maps::SkStorage, helpers::generated::bpf_sk_storage_get, macros::btf_map, programs::SockAddrContext,
};
use proxy_ebpf::abi::{SocketPair, TcpSocket};

use super::operation::{LockedSocket, Totals};
use crate::{atomic::compare_exchange, metrics::Carried};

#[btf_map]
static TCP_SOCKETS: SkStorage<TcpSocket> = SkStorage::new();

/// Stores the translation of a connect. What was counted of the socket stays: it may be open still, and the connect fail.
#[inline(always)]
pub fn store(ctx: &SockAddrContext, pair: SocketPair) {
    // SAFETY: connect hooks run with the socket locked and always have one; the storage lives as long as it does. A new value is zero.
    let stored = unsafe { TCP_SOCKETS.get_or_insert_ptr_mut(ctx, None) };
    if !stored.is_null() {
        // SAFETY: not null, and the socket lock excludes other writers.
        unsafe { (*stored).pair = pair };
    }
}

/// The state of the socket of a connect hook, or of another one, if it was ever translated.
#[inline(always)]
pub fn of_hook(ctx: &SockAddrContext) -> Option<&'static mut TcpSocket> {
    // SAFETY: the hook always has a socket; the storage lives as long as it does.
    unsafe { TCP_SOCKETS.get_ptr_mut(ctx).as_mut() }
}

/// The state of a socket, if it was ever translated.
#[inline(always)]
pub fn get(socket: LockedSocket) -> Option<&'static mut TcpSocket> {
    // SAFETY: the storage lives as long as the socket, which the kernel has locked: no other program writes it.
    unsafe {
        let map = (&raw const TCP_SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, socket.pointer().cast(), core::ptr::null_mut(), 0)
            .cast::<TcpSocket>()
            .as_mut()
    }
}

/// The state of a full socket that sent a packet, null if it was never translated. Other programs write it meanwhile.
///
/// # Safety
///
/// `socket` is valid, and lives as long as the packet.
#[inline(always)]
pub unsafe fn of_sender(socket: *mut core::ffi::c_void) -> *mut TcpSocket {
    // SAFETY: the caller's.
    unsafe {
        let map = (&raw const TCP_SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, socket, core::ptr::null_mut(), 0).cast()
    }
}

/// What the counters lack of a connection, which counts as added from now on. Both the socket's end and an iterator may add it, each on
/// its CPU; a number is added by the one that stores it.
#[inline(always)]
pub fn take_new(known: *mut TcpSocket, totals: &Totals) -> Carried {
    // SAFETY: callers have the pointer from the kernel, to the storage of a socket that lives as long as the program runs. No
    // reference is made, as the other program may write at the same time.
    let (sent, received, retransmissions) =
        unsafe { (&raw mut (*known).sent, &raw mut (*known).received, &raw mut (*known).retransmissions) };
    Carried {
        sent: new_of(sent, totals.sent),
        received: new_of(received, totals.received),
        retransmissions: new_of(retransmissions, totals.retransmissions.into()),
    }
}

#[inline(always)]
fn new_of(added: *mut u64, total: u64) -> u64 {
    // SAFETY: an aligned word of the socket's storage; volatile because the other program may write it.
    let before = unsafe { added.read_volatile() };
    // An iterator may come late, with what it read before the end.
    if total <= before || compare_exchange(added, before, total) != before { 0 } else { total - before }
}

/// Whether the latest connect was translated.
#[inline(always)]
pub fn is_translated(socket: &TcpSocket) -> bool {
    socket.pair.backend.port != [0; 2]
}
