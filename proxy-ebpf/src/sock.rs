//! The socket plane: translation once per connection, before the first packet exists; for unconnected UDP once per
//! datagram, always to the same backend.
//!
//! Invariant: what `SOCKETS` holds for a socket describes its latest connect, or nothing. The application sees the
//! address it dialled; the wire carries the backend's. The kernel runs these hooks with the socket locked.

use aya_ebpf::{
    bindings::bpf_sock,
    btf_maps::SkStorage,
    helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get},
    macros::btf_map,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use proxy_ebpf::abi::{
    AffinityKey, BackendRef, ConfigFlags, Descriptor, DescriptorFlags, DropReason, Endpoint, SocketPair,
    Unclaimed,
};

use crate::{
    config, context,
    decide::{Choice, Client, Scope, Verdict, decide},
    family::{Family, V4, V6, bytes, mapped, unmapped, words},
    frontend::{self, Found},
    metrics,
    packet::{TCP, UDP},
    unconnected,
};

#[btf_map]
static SOCKETS: SkStorage<SocketPair> = SkStorage::new();

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

/// An unconnected socket that sends to a frontend for the first time.
struct Sending<'a> {
    ctx: &'a SockAddrContext,
    frontend: &'a Endpoint,
}

/// A socket in a system call.
trait Socket {
    fn ctx(&self) -> &SockAddrContext;

    fn would_rather_not(&self, _backend: &Endpoint) -> bool {
        false
    }
}

impl Socket for Connecting<'_> {
    #[inline(always)]
    fn ctx(&self) -> &SockAddrContext {
        self.0
    }
}

impl Socket for Sending<'_> {
    #[inline(always)]
    fn ctx(&self) -> &SockAddrContext {
        self.ctx
    }

    /// Answers of a backend that stands for two frontends cannot be told apart.
    #[inline(always)]
    fn would_rather_not(&self, backend: &Endpoint) -> bool {
        unconnected::is_taken(self.ctx, backend, self.frontend)
    }
}

/// What is known of a client before a packet exists. The cookie of its network namespace is fetched only where it matters.
impl<F: Family, S: Socket> Client<F> for S {
    #[inline(always)]
    fn is_host(&self) -> bool {
        is_host(self.ctx())
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        if config::flags().contains(F::PODS_ARE_EXTERNAL) && !is_host(self.ctx()) {
            Scope::External
        } else {
            Scope::Internal
        }
    }

    #[inline(always)]
    fn affinity_key(&self, service: u32) -> AffinityKey {
        AffinityKey::from_netns(context::netns_cookie(self.ctx()), service)
    }

    /// There is no source address yet.
    #[inline(always)]
    fn is_kept_out(&self, _: &Descriptor) -> Option<DropReason> {
        Some(DropReason::NeedsSourceAddress)
    }

    #[inline(always)]
    fn would_rather_not(&self, backend: &Endpoint) -> bool {
        Socket::would_rather_not(self, backend)
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
        Some(protocol) if is_covered(ctx) => match decide::<F>(address, port, protocol, &Connecting(ctx)) {
            Verdict::NotOurs if is_undefined_port::<F>(address) => {
                Verdict::Refuse(DropReason::UndefinedPort, None)
            }
            verdict @ (Verdict::NotOurs | Verdict::Backend(_) | Verdict::Refuse(..)) => verdict,
        },
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
        && let Some(descriptor) = still_leads::<F>(ctx, address, port, backend.service)
    {
        return Verdict::Backend(Choice::of(backend, reference, descriptor));
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

/// What is dialled, if it still belongs to the service port of a remembered backend and may be decided without a source
/// address: an address can pass from one Service to another while both live on.
#[inline(always)]
fn still_leads<F: Family>(
    ctx: &SockAddrContext,
    address: F::Address,
    port: [u8; 2],
    service: u32,
) -> Option<&'static Descriptor> {
    match frontend::current::<F>(address, port, UDP, &Connecting(ctx)) {
        Found::Descriptor(descriptor)
            if descriptor.service == service
                && !descriptor.flags.contains(DescriptorFlags::SOURCE_RANGES) =>
        {
            Some(descriptor)
        }
        Found::Descriptor(_) | Found::Nothing | Found::Unsettled => None,
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
        Verdict::Refuse(reason, _) if is_left_to_packets(ctx, reason) => Outcome::Untouched,
        Verdict::Refuse(reason, service) => {
            metrics::refused(reason, service);
            log_refusal(ctx, reason as u32, service.unwrap_or_default());
            context::set_refused(ctx);
            Outcome::Refused
        }
    }
}

/// Only a packet has a source address, and only a packet can be lost in silence. Datagram sockets are connected by programs
/// that send nothing from them: the C library sorts the addresses of a name by whether that is possible (RFC 6724, rule 1).
#[inline(always)]
fn is_left_to_packets(ctx: &SockAddrContext, reason: DropReason) -> bool {
    let flags = config::flags();
    (flags.contains(ConfigFlags::PACKET_PLANE)
        && matches!(reason, DropReason::NeedsSourceAddress | DropReason::PolicyHasNoLocalEndpoint))
        || (flags.contains(ConfigFlags::EXTERNAL_DEVICES)
            && matches!(reason, DropReason::UndefinedPort)
            && transport(ctx) == Some(UDP))
}

/// Not inlined: what the macro builds would be on the stack of every connect.
#[inline(never)]
fn log_refusal(ctx: &SockAddrContext, reason: u32, service: u32) {
    debug!(ctx, "refused: reason {}, service {}", reason, service);
}

/// Whether the address is a Service's, and nothing of it has this port. An address of the node is the node's all the same.
#[inline(always)]
fn is_undefined_port<F: Family>(address: F::Address) -> bool {
    F::unclaimed(address) == Some(Unclaimed::UndefinedPort) && F::node_address(address).is_none()
}

/// Whether the socket is in the node's own network namespace.
#[inline(always)]
fn is_host(ctx: &SockAddrContext) -> bool {
    context::netns_cookie(ctx) == config::host_netns()
}

/// Whether this plane takes care of the socket at all.
#[inline(always)]
fn is_covered(ctx: &SockAddrContext) -> bool {
    !config::flags().contains(ConfigFlags::HOST_ONLY) || is_host(ctx)
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

/// What the socket that sends a packet remembers of its connect; `socket` is null or valid.
#[inline(always)]
pub fn remembered(socket: *mut bpf_sock) -> Option<&'static SocketPair> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null, and the kernel's own; a socket that is not whole has no storage. The storage lives as long as the
    // socket, which lives as long as the packet.
    unsafe {
        let whole = bpf_sk_fullsock(socket);
        if whole.is_null() {
            return None;
        }
        let map = (&raw const SOCKETS).cast_mut().cast();
        bpf_sk_storage_get(map, whole.cast(), core::ptr::null_mut(), 0).cast::<SocketPair>().as_ref()
    }
}

/// The frontend to show instead of a peer, when that peer is the backend this socket is connected to.
#[inline(always)]
fn dialled(ctx: &SockAddrContext, peer: &Endpoint) -> Option<Endpoint> {
    // SAFETY: the hook always has a socket; the storage lives as long as it does.
    let pair = unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() }?;
    (pair.backend == *peer).then_some(pair.frontend)
}
