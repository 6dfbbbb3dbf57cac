//! The socket plane: translation once per connection, before the first packet exists.
//!
//! Invariant: what `SOCKETS` holds for a socket describes its latest connect, or nothing. The application sees
//! the address it dialled; the wire carries the backend's.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_sock_addr, btf_maps::SkStorage, helpers::bpf_set_retval, macros::btf_map,
    programs::SockAddrContext,
};
use proxy_ebpf::abi::{Endpoint, SocketPair, mapped, unmapped};

use crate::{
    decide::{Scope, Verdict, decide},
    family::{Backend, Family, V4, V6},
    metrics,
};

#[btf_map]
static SOCKETS: SkStorage<SocketPair> = SkStorage::new();

const TCP: u8 = 6;
const IPPROTO_TCP: u32 = 6;
/// Linux's own number for MPTCP sockets, whose subflows are TCP on the wire.
const IPPROTO_MPTCP: u32 = 262;
const ECONNREFUSED: i32 = 111;

/// What became of a connect.
#[must_use]
pub enum Outcome {
    /// Not Service traffic; goes where it was going.
    Untouched,
    /// Goes to a backend.
    Translated,
    /// Refused with ECONNREFUSED: an application that gets EPERM from connect may loop for ever (kernel NFS
    /// clients did).
    Refused,
}

#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> Outcome {
    let dialled = destination4(ctx);
    let outcome = connect::<V4>(ctx, dialled);
    settle(ctx, outcome, set_destination4)
}

#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> Outcome {
    let (address, port) = destination6(ctx);
    match unmapped(address) {
        Some(v4) => settle(ctx, connect::<V4>(ctx, (v4, port)), |ctx, address, port| {
            set_destination6(ctx, mapped(address), port);
        }),
        None => settle(ctx, connect::<V6>(ctx, (address, port)), set_destination6),
    }
}

#[inline(always)]
pub fn getpeername4(ctx: &SockAddrContext) {
    let (address, port) = destination4(ctx);
    if let Some(frontend) = dialled(ctx, Endpoint::new(mapped(address), port))
        && let Some(v4) = unmapped(frontend.address)
    {
        set_destination4(ctx, v4, frontend.port);
    }
}

#[inline(always)]
pub fn getpeername6(ctx: &SockAddrContext) {
    let (address, port) = destination6(ctx);
    if let Some(frontend) = dialled(ctx, Endpoint::new(address, port)) {
        set_destination6(ctx, frontend.address, frontend.port);
    }
}

/// Decides, and remembers what was decided.
#[inline(always)]
fn connect<F: Family>(ctx: &SockAddrContext, dialled: (F::Address, [u8; 2])) -> Verdict<F::Address> {
    let (address, port) = dialled;
    let verdict = match transport(ctx) {
        Some(protocol) => decide::<F>(address, port, protocol, Scope::Internal),
        None => Verdict::NotOurs,
    };
    match &verdict {
        Verdict::Backend(backend) => remember(
            ctx,
            SocketPair {
                frontend: Endpoint::new(F::mapped(address), port),
                backend: Endpoint::new(F::mapped(backend.address), backend.port),
            },
        ),
        Verdict::NotOurs | Verdict::Refuse(..) | Verdict::RefuseUnknown(_) => forget(ctx),
    }
    verdict
}

/// Acts on a verdict and counts it.
#[inline(always)]
fn settle<A: Copy>(
    ctx: &SockAddrContext,
    verdict: Verdict<A>,
    set_destination: impl Fn(&SockAddrContext, A, [u8; 2]),
) -> Outcome {
    match verdict {
        Verdict::NotOurs => Outcome::Untouched,
        Verdict::Backend(Backend { address, port, service, .. }) => {
            set_destination(ctx, address, port);
            metrics::translated(service);
            Outcome::Translated
        }
        Verdict::Refuse(reason, service) => {
            metrics::refused(reason, Some(service));
            refuse()
        }
        Verdict::RefuseUnknown(reason) => {
            metrics::refused(reason, None);
            refuse()
        }
    }
}

#[inline(always)]
fn refuse() -> Outcome {
    // SAFETY: available to connect hooks since Linux 5.18; the kernel keeps the value for this call only.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    Outcome::Refused
}

/// The protocol Services know for this socket; none where the socket plane leaves it alone.
#[inline(always)]
fn transport(ctx: &SockAddrContext) -> Option<u8> {
    match read(ctx, |addr| unsafe { &raw const (*addr).protocol }) {
        IPPROTO_TCP | IPPROTO_MPTCP => Some(TCP),
        _ => None,
    }
}

#[inline(always)]
fn remember(ctx: &SockAddrContext, mut pair: SocketPair) {
    // SAFETY: connect hooks run with the socket locked and always have one; the storage lives as long as it does.
    let stored = unsafe { SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut pair)) };
    if !stored.is_null() {
        // SAFETY: not null, and the socket lock keeps other writers away.
        unsafe { *stored = pair };
    }
    // Out of memory: the connection works, getpeername shows the backend.
}

/// Without this a socket that dials a frontend and then a pod would show the frontend for the pod.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: as in `remember`.
    let stored = unsafe { SOCKETS.get_ptr_mut(ctx) };
    if !stored.is_null() {
        // SAFETY: not null, and the socket lock keeps other writers away.
        unsafe { *stored = SocketPair::default() };
    }
}

/// The frontend to show instead of a peer, when that peer is the backend this socket was translated to.
#[inline(always)]
fn dialled(ctx: &SockAddrContext, peer: Endpoint) -> Option<Endpoint> {
    // SAFETY: the hook always has a socket; the storage lives as long as it does.
    let pair = unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() }?;
    (pair.backend == peer).then_some(pair.frontend)
}

#[inline(always)]
fn destination4(ctx: &SockAddrContext) -> ([u8; 4], [u8; 2]) {
    let address = read(ctx, |addr| unsafe { &raw const (*addr).user_ip4 });
    (address.to_ne_bytes(), destination_port(ctx))
}

#[inline(always)]
fn destination6(ctx: &SockAddrContext) -> ([u8; 16], [u8; 2]) {
    let mut address = [0; 16];
    for (at, word) in address.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *word =
            read(ctx, |addr| unsafe { (&raw const (*addr).user_ip6).cast::<u32>().add(at) }).to_ne_bytes();
    }
    (address, destination_port(ctx))
}

/// The port is in network order in the first half of the word.
#[inline(always)]
fn destination_port(ctx: &SockAddrContext) -> [u8; 2] {
    let [high, low, _, _] = read(ctx, |addr| unsafe { &raw const (*addr).user_port }).to_ne_bytes();
    [high, low]
}

#[inline(always)]
fn set_destination4(ctx: &SockAddrContext, address: [u8; 4], port: [u8; 2]) {
    write(ctx, |addr| unsafe { &raw mut (*addr).user_ip4 }, u32::from_ne_bytes(address));
    set_destination_port(ctx, port);
}

#[inline(always)]
fn set_destination6(ctx: &SockAddrContext, address: [u8; 16], port: [u8; 2]) {
    for (at, word) in address.as_chunks::<4>().0.iter().enumerate() {
        write(
            ctx,
            |addr| unsafe { (&raw mut (*addr).user_ip6).cast::<u32>().add(at) },
            u32::from_ne_bytes(*word),
        );
    }
    set_destination_port(ctx, port);
}

#[inline(always)]
fn set_destination_port(ctx: &SockAddrContext, [high, low]: [u8; 2]) {
    write(ctx, |addr| unsafe { &raw mut (*addr).user_port }, u32::from_ne_bytes([high, low, 0, 0]));
}

/// Reads a word of the context. Volatile, because the verifier allows only accesses of the declared width and
/// the compiler would merge them.
#[inline(always)]
fn read(ctx: &SockAddrContext, field: impl Fn(*mut bpf_sock_addr) -> *const u32) -> u32 {
    // SAFETY: the kernel passes a valid context, and `field` stays within it.
    unsafe { ptr::read_volatile(field(ctx.sock_addr)) }
}

/// Writes a word of the context; volatile as in `read`.
#[inline(always)]
fn write(ctx: &SockAddrContext, field: impl Fn(*mut bpf_sock_addr) -> *mut u32, value: u32) {
    // SAFETY: the kernel passes a valid context, and `field` stays within it.
    unsafe { ptr::write_volatile(field(ctx.sock_addr), value) }
}
