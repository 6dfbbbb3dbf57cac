//! Reads the sockets of open connections at intervals, so that the counters of a connection that stays open for days do not wait for
//! its end; and lists those whose backend was removed. The agent runs the iterators over `TCP_SOCKETS`, which has the sockets of all
//! network namespaces.

use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_seq_write};
use proxy_ebpf::abi::{Endpoint, OpenSocket, SocketStage, TcpSocket};

use super::sock_ops::service_of;
use crate::{
    metrics::Counters,
    socket::{
        operation::{IteratedSocket, Position},
        tcp,
    },
};

/// The head of `struct bpf_iter_meta`.
#[repr(C)]
struct Iteration {
    /// The output, a `struct seq_file`.
    output: u64,
}

/// The sockets that are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    All,
    /// Those whose backend was removed.
    Stale,
}

/// `struct bpf_iter__bpf_sk_storage_map`, which has only pointers.
#[repr(C)]
pub struct SocketIteration {
    meta: *const Iteration,
    map: u64,
    /// Null after the last socket.
    socket: *mut bpf_sock,
    value: *mut TcpSocket,
}

impl SocketIteration {
    /// The socket of an open connection, and a copy of its storage. `None` after the last socket, and if there is no connection.
    #[inline(always)]
    fn open(this: *mut Self) -> Option<(IteratedSocket, *mut TcpSocket, TcpSocket)> {
        // SAFETY: the kernel passes a valid context. Volatile, as the verifier permits whole fields only.
        let (socket, known) = unsafe {
            ((&raw const (*this).socket).read_volatile(), (&raw const (*this).value).read_volatile())
        };
        if socket.is_null() || known.is_null() {
            return None;
        }
        // SAFETY: not null, and valid while the program runs. The socket is not locked, so this is a copy; what both programs write
        // is changed by compare-and-swap.
        let copy = unsafe { known.read_volatile() };
        (copy.stage == SocketStage::OPEN).then_some((IteratedSocket(socket), known, copy))
    }
}

#[inline(always)]
pub fn handle(ctx: *mut SocketIteration) {
    let Some((socket, known, copy)) = SocketIteration::open(ctx) else { return };
    let Some(totals) = socket.totals() else { return };
    Counters::of(&copy).carried(&tcp::take_new(known, &totals));
}

/// Writes an `OpenSocket` if the socket is selected.
#[inline(always)]
pub fn list(ctx: *mut SocketIteration, which: Selection) {
    let Some((socket, _, copy)) = SocketIteration::open(ctx) else { return };
    if which == Selection::Stale && service_of(&copy.pair).is_some() {
        return;
    }
    let Some(position) = socket.position(copy.is_v6 != 0) else { return };
    let Position { local, port, receive_next, send_next } = position;
    let record =
        OpenSocket { backend: copy.pair.backend, local: Endpoint::new(local, port), receive_next, send_next };
    // SAFETY: the context is valid, and so is its head. The record is as long as stated.
    unsafe {
        let meta = (&raw const (*ctx).meta).read_volatile();
        let output = (&raw const (*meta).output).read_volatile();
        bpf_seq_write(output as *mut _, (&raw const record).cast(), size_of::<OpenSocket>() as u32);
    }
}
