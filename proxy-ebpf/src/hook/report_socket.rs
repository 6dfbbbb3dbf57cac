//! Events of system calls and of TCP sockets.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    programs::{SockAddrContext, SockOpsContext},
};
use proxy_ebpf::abi::{BackendRef, ConnectFailure, EventHook, EventKind, TcpSocket};

use crate::{
    events::{self, Record, What},
    family::{V4, V6, mapped, unmapped, words},
    lb::Backends,
    packet::header::{TCP, UDP},
    socket::{context, operation},
};

/// The family of a hook's context, which may be another than that of the addresses in it.
pub trait Reporting {
    /// Reports what a system call came to. The context still has the destination as the application gave it. `service` is
    /// `Event::NO_SERVICE` where none is known.
    fn report(ctx: &SockAddrContext, what: What, backend: BackendRef, service: u32);
}

/// `connect4` and `sendmsg4`.
pub struct Context4;
/// `connect6` and `sendmsg6`.
pub struct Context6;

impl Reporting for Context4 {
    #[inline(always)]
    fn report(ctx: &SockAddrContext, what: What, backend: BackendRef, service: u32) {
        report_call4(ctx.sock_addr, what.0, backend.to_bits(), service);
    }
}

impl Reporting for Context6 {
    #[inline(always)]
    fn report(ctx: &SockAddrContext, what: What, backend: BackendRef, service: u32) {
        report_call6(ctx.sock_addr, what.0, backend.to_bits(), service);
    }
}

/// With external linkage, as `report_call6`: verified once, and without a branch in the callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn report_call4(sock_addr: *mut bpf_sock_addr, what: u32, backend: u64, service: u32) -> u32 {
    let ctx = SockAddrContext::new(sock_addr);
    if is_reported(&ctx, what) {
        events::write(What(what), |event| {
            let (address, port) = context::address4(&ctx);
            event.set_source(mapped(context::bound4(&ctx)), context::bound_port(&ctx));
            event.set_destination(mapped(address), port);
            complete::<V4>(&ctx, event, backend, service);
        });
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn report_call6(sock_addr: *mut bpf_sock_addr, what: u32, backend: u64, service: u32) -> u32 {
    let ctx = SockAddrContext::new(sock_addr);
    if is_reported(&ctx, what) {
        events::write(What(what), |event| {
            event.set_source(context::bound6(&ctx), context::bound_port(&ctx));
            let (address, port) = context::address6(&ctx);
            event.set_destination(address, port);
            if unmapped(address).is_some() {
                complete::<V4>(&ctx, event, backend, service);
            } else {
                complete::<V6>(&ctx, event, backend, service);
            }
        });
    }
    0
}

/// A TCP connect that was translated is reported by `sock_ops`, which knows its source.
#[inline(always)]
fn is_reported(ctx: &SockAddrContext, what: u32) -> bool {
    const TCP_SOCKET: u32 = TCP as u32;
    events::has_listener()
        && (What(what).kind() == EventKind::Refused as u8
            || context::protocol(ctx) != TCP_SOCKET
            || !events::sock_ops_reports())
}

/// Adds the backend and the process.
#[inline(always)]
fn complete<F: Backends>(ctx: &SockAddrContext, event: &mut Record, backend: u64, service: u32) {
    const UDP_SOCKET: u32 = UDP as u32;
    let reference = BackendRef::from_bits(backend);
    event.set_service(service);
    if reference.generation != 0
        && let Some(backend) = F::backend(reference)
    {
        event.set_backend(F::mapped(backend.address), backend.port);
        event.set_service(backend.service);
    }
    // Subflows of MPTCP are TCP.
    event.set_protocol(if context::protocol(ctx) == UDP_SOCKET { UDP } else { TCP });
    event.set_process();
}

/// A translated socket sends its first SYN.
#[inline(always)]
pub fn connects(ctx: &SockOpsContext, socket: &TcpSocket) {
    write_of_socket(ctx, socket, What::new(EventKind::NewFlow, EventHook::SockOps, 0).0, 0);
}

/// Its connection was of no use, after so many nanoseconds.
#[inline(always)]
pub fn failed(ctx: &SockOpsContext, socket: &TcpSocket, failure: ConnectFailure, nanoseconds: u64) {
    let what = EventKind::ConnectFailed as u32 | (EventHook::SockOps as u32) << 8 | (failure as u32) << 16;
    write_of_socket(ctx, socket, what, nanoseconds);
}

/// Not inlined: it is called at two places.
#[inline(never)]
fn write_of_socket(ctx: &SockOpsContext, socket: &TcpSocket, what: u32, nanoseconds: u64) {
    if !events::has_listener() {
        return;
    }
    events::write(What(what), |event| {
        event.set_duration(nanoseconds);
        let port = operation::local_port(ctx);
        let backend = words(socket.pair.backend.address);
        // Both are read: from two branches the compiler would make one read at a variable offset, which the verifier refuses.
        let (v4, v6) = (mapped(operation::local4(ctx)), operation::local6(ctx));
        event.set_source(if unmapped(backend).is_some() { v4 } else { v6 }, port);
        event.set_backend(backend, socket.pair.backend.port);
        event.set_destination(words(socket.pair.frontend.address), socket.pair.frontend.port);
        event.set_service(socket.service);
        event.set_protocol(TCP);
    });
}
