//! The socket plane: translation once per connection, before the first packet exists; for unconnected UDP once per
//! datagram, always to the same backend.
//!
//! Invariant: what `SOCKETS` holds for a socket describes its latest connect, or nothing. The application sees the
//! address it dialled; the wire carries the backend's. The kernel runs these hooks with the socket locked.

use aya_ebpf::{btf_maps::SkStorage, macros::btf_map, programs::SockAddrContext};
use aya_log_ebpf::debug;
use proxy_ebpf::abi::{BackendRef, ConfigFlags, DescriptorFlags, Endpoint, SocketPair};

use crate::{
    config::config,
    context,
    decide::{Choice, Client, Verdict, decide, is_host},
    family::{Family, V4, V6, bytes, mapped, unmapped, words},
    frontend::{self, Found},
    metrics, unconnected,
};

#[btf_map]
static SOCKETS: SkStorage<SocketPair> = SkStorage::new();

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Linux's own number for MPTCP sockets, whose subflows are TCP on the wire.
const MPTCP: u32 = 262;

/// What became of a system call.
#[must_use]
pub enum Outcome {
    /// Not Service traffic; goes where it was going.
    Untouched,
    /// Goes to a backend.
    Translated,
    /// Refused, with ECONNREFUSED set.
    Refused,
}

/// A socket that connects.
struct Connecting<'a>(&'a SockAddrContext);

impl Client for Connecting<'_> {
    #[inline(always)]
    fn netns(&self) -> u64 {
        context::netns_cookie(self.0)
    }

    #[inline(always)]
    fn would_rather_not(&self, _: &Endpoint) -> bool {
        false
    }
}

/// An unconnected socket that sends to a frontend for the first time.
struct Sending<'a> {
    ctx: &'a SockAddrContext,
    frontend: &'a Endpoint,
}

impl Client for Sending<'_> {
    #[inline(always)]
    fn netns(&self) -> u64 {
        context::netns_cookie(self.ctx)
    }

    /// Answers of a backend that stands for two frontends cannot be told apart.
    #[inline(always)]
    fn would_rather_not(&self, backend: &Endpoint) -> bool {
        unconnected::is_taken(self.ctx, backend, self.frontend)
    }
}

#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> Outcome {
    let (address, port) = context::address4(ctx);
    settle(ctx, connect::<V4>(ctx, address, port), context::set_address4)
}

#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> Outcome {
    let (address, port) = context::address6(ctx);
    match unmapped(address) {
        Some(v4) => settle(ctx, connect::<V4>(ctx, v4, port), set_mapped),
        None => settle(ctx, connect::<V6>(ctx, address, port), context::set_address6),
    }
}

#[inline(always)]
pub fn sendmsg4(ctx: &SockAddrContext) -> Outcome {
    let (address, port) = context::address4(ctx);
    settle(ctx, send::<V4>(ctx, address, port), context::set_address4)
}

/// IPv4-mapped destinations never come here: the kernel takes them to the IPv4 side first (`udpv6_sendmsg`).
#[inline(always)]
pub fn sendmsg6(ctx: &SockAddrContext) -> Outcome {
    let (address, port) = context::address6(ctx);
    settle(ctx, send::<V6>(ctx, address, port), context::set_address6)
}

#[inline(always)]
pub fn recvmsg4(ctx: &SockAddrContext) {
    let (address, port) = context::address4(ctx);
    let mut peer = Endpoint::new(bytes(mapped(address)), port);
    if rename(ctx, &mut peer) {
        show4(ctx, &peer);
    }
}

#[inline(always)]
pub fn recvmsg6(ctx: &SockAddrContext) {
    let (address, port) = context::address6(ctx);
    let mut peer = Endpoint::new(bytes(address), port);
    if rename(ctx, &mut peer) {
        context::set_address6(ctx, words(peer.address), peer.port);
    }
}

#[inline(always)]
pub fn getpeername4(ctx: &SockAddrContext) {
    let (address, port) = context::address4(ctx);
    if let Some(frontend) = dialled(ctx, &Endpoint::new(bytes(mapped(address)), port)) {
        show4(ctx, &frontend);
    }
}

#[inline(always)]
pub fn getpeername6(ctx: &SockAddrContext) {
    let (address, port) = context::address6(ctx);
    if let Some(frontend) = dialled(ctx, &Endpoint::new(bytes(address), port)) {
        context::set_address6(ctx, words(frontend.address), frontend.port);
    }
}

/// Decides for a connect, and remembers what was decided.
#[inline(always)]
fn connect<F: Family>(ctx: &SockAddrContext, address: F::Address, port: [u8; 2]) -> Verdict<F::Address> {
    let verdict = match transport(ctx) {
        Some(protocol) if is_covered(ctx) => decide::<F>(address, port, protocol, &Connecting(ctx)),
        Some(_) | None => Verdict::NotOurs,
    };
    match &verdict {
        Verdict::Backend(choice) => remember(
            ctx,
            SocketPair {
                frontend: Endpoint::new(bytes(F::mapped(F::effective(address))), port),
                backend: choice.end::<F>(),
                reference: choice.reference,
            },
        ),
        Verdict::NotOurs | Verdict::Refuse(..) => forget(ctx),
    }
    verdict
}

/// Decides for a datagram of an unconnected socket. The backend stays the same until it goes.
#[inline(always)]
fn send<F: Family>(ctx: &SockAddrContext, address: F::Address, port: [u8; 2]) -> Verdict<F::Address> {
    if transport(ctx) != Some(UDP) || !is_covered(ctx) {
        return Verdict::NotOurs;
    }
    let frontend = Endpoint::new(bytes(F::mapped(F::effective(address))), port);
    let partner = connected(ctx, &frontend);
    let reference = if partner.generation != 0 { partner } else { unconnected::partner(ctx, &frontend) };
    let is_known = reference.generation != 0;
    if is_known
        && let Some(backend) = F::backend(reference)
        && still_leads::<F>(ctx, address, port, backend.service)
    {
        return Verdict::Backend(Choice { backend, reference });
    }
    let verdict = decide::<F>(address, port, UDP, &Sending { ctx, frontend: &frontend });
    match &verdict {
        Verdict::Backend(choice) => {
            unconnected::remember(ctx, &frontend, &choice.end::<F>(), choice.reference)
        }
        Verdict::NotOurs | Verdict::Refuse(..) if is_known => unconnected::forget(ctx, &frontend),
        Verdict::NotOurs | Verdict::Refuse(..) => {}
    }
    verdict
}

/// Whether what is dialled still belongs to the service port of a remembered backend, and may be decided without a
/// source address: an address can pass from one Service to another while both live on.
#[inline(always)]
fn still_leads<F: Family>(ctx: &SockAddrContext, address: F::Address, port: [u8; 2], service: u32) -> bool {
    match frontend::current::<F>(address, port, UDP, &Connecting(ctx)) {
        Found::Descriptor(descriptor) => {
            descriptor.service == service && !descriptor.flags.contains(DescriptorFlags::SOURCE_RANGES)
        }
        Found::Nothing | Found::Unsettled => false,
    }
}

/// Acts on a verdict and counts it.
#[inline(always)]
fn settle<A: Copy>(
    ctx: &SockAddrContext,
    verdict: Verdict<A>,
    set_address: impl Fn(&SockAddrContext, A, [u8; 2]),
) -> Outcome {
    match verdict {
        Verdict::NotOurs => Outcome::Untouched,
        Verdict::Backend(Choice { backend, .. }) => {
            set_address(ctx, backend.address, backend.port);
            metrics::translated(backend.service);
            Outcome::Translated
        }
        Verdict::Refuse(reason, service) => {
            metrics::refused(reason, service);
            log_refusal(ctx, reason as u32, service.unwrap_or_default());
            context::set_refused(ctx);
            Outcome::Refused
        }
    }
}

/// Not inlined: what the macro builds would be on the stack of every connect.
#[inline(never)]
fn log_refusal(ctx: &SockAddrContext, reason: u32, service: u32) {
    debug!(ctx, "refused: reason {}, service {}", reason, service);
}

/// Whether this plane takes care of the socket at all.
#[inline(always)]
fn is_covered(ctx: &SockAddrContext) -> bool {
    !config().flags.contains(ConfigFlags::HOST_ONLY) || is_host(&Connecting(ctx))
}

/// The protocol Services know for this socket; none where the socket plane leaves it alone.
#[inline(always)]
fn transport(ctx: &SockAddrContext) -> Option<u8> {
    const TCP_SOCKET: u32 = TCP as u32;
    const UDP_SOCKET: u32 = UDP as u32;
    match context::protocol(ctx) {
        TCP_SOCKET | MPTCP => Some(TCP),
        UDP_SOCKET => Some(UDP),
        _ => None,
    }
}

#[inline(always)]
fn set_mapped(ctx: &SockAddrContext, address: u32, port: [u8; 2]) {
    context::set_address6(ctx, mapped(address), port);
}

#[inline(always)]
fn show4(ctx: &SockAddrContext, frontend: &Endpoint) {
    if let Some(v4) = unmapped(words(frontend.address)) {
        context::set_address4(ctx, v4, frontend.port);
    }
}

/// Replaces the sender of a datagram by the frontend it stands for; `false` when it stands for itself.
#[inline(always)]
fn rename(ctx: &SockAddrContext, peer: &mut Endpoint) -> bool {
    match dialled(ctx, peer) {
        Some(frontend) => {
            *peer = frontend;
            true
        }
        None => unconnected::rename(ctx, peer),
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

/// Without this a socket that dials a frontend and then a pod would show the frontend for the pod. No peer has port 0.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: as in `remember`.
    let stored = unsafe { SOCKETS.get_ptr_mut(ctx) };
    if !stored.is_null() {
        // SAFETY: not null, and the socket lock keeps other writers away.
        unsafe { (*stored).backend.port = [0; 2] };
    }
}

/// The backend a socket is connected to under the name of a frontend: what it sends there by name goes there too, for it
/// hears nobody else. Generation 0 is none.
#[inline(always)]
fn connected(ctx: &SockAddrContext, frontend: &Endpoint) -> BackendRef {
    // SAFETY: the hook always has a socket; the storage lives as long as it does.
    match unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() } {
        Some(pair) if pair.backend.port != [0; 2] && pair.frontend == *frontend => pair.reference,
        Some(_) | None => BackendRef::default(),
    }
}

/// The frontend to show instead of a peer, when that peer is the backend this socket is connected to.
#[inline(always)]
fn dialled(ctx: &SockAddrContext, peer: &Endpoint) -> Option<Endpoint> {
    // SAFETY: the hook always has a socket; the storage lives as long as it does.
    let pair = unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() }?;
    (pair.backend == *peer).then_some(pair.frontend)
}
