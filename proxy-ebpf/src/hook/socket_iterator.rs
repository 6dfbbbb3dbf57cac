//! Reads the sockets of open connections at intervals, so that the counters of a connection that stays open for days do not wait for
//! its end. The agent runs the iterator over `TCP_SOCKETS`, which has the sockets of all network namespaces.

use aya_ebpf::bindings::bpf_sock;
use proxy_ebpf::abi::{SocketStage, TcpSocket};

use crate::{
    metrics::Counters,
    socket::{operation::IteratedSocket, tcp},
};

/// `struct bpf_iter__bpf_sk_storage_map`, which has only pointers.
#[repr(C)]
pub struct SocketIteration {
    meta: u64,
    map: u64,
    /// Null after the last socket.
    socket: *mut bpf_sock,
    value: *mut TcpSocket,
}

#[inline(always)]
pub fn handle(ctx: *mut SocketIteration) {
    // SAFETY: the kernel passes a valid context. Volatile, as the verifier permits whole fields only.
    let (socket, known) =
        unsafe { ((&raw const (*ctx).socket).read_volatile(), (&raw const (*ctx).value).read_volatile()) };
    if socket.is_null() || known.is_null() {
        return;
    }
    // SAFETY: not null, and valid while the program runs. The socket is not locked, so this is a copy; what both programs write is
    // changed by compare-and-swap.
    let copy = unsafe { known.read_volatile() };
    if copy.stage != SocketStage::OPEN {
        return;
    }
    let Some(totals) = IteratedSocket(socket).totals() else { return };
    Counters::of(&copy).carried(&tcp::take_new(known, &totals));
}
