//! cgroup socket hooks: translation once per connect, before the first packet; for unconnected UDP once per datagram, always to the
//! same backend.
//!
//! The application sees the frontend's address, packets carry the backend's. The kernel runs these hooks with the socket locked.

use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use proxy_ebpf::abi::{
    AffinityKey, BackendRef, ConfigFlags, Descriptor, DescriptorFlags, DropReason, Endpoint, Event,
    EventHook, EventKind, SocketPair, Unclaimed,
};

use super::report_socket::{Context4, Context6, Reporting};
use crate::{
    config,
    events::What,
    family::{Family, V4, V6, Words, bytes, mapped, same, unmapped, words},
    lb::{
        Access, Choice, Client, Decision, Live, Networks, Scope, Tables, decide,
        frontend::{self, FrontendLookup},
    },
    metrics,
    packet::header::{TCP, UDP},
    socket::{connected, context, unconnected},
};

/// IPPROTO_MPTCP, of sockets whose subflows are TCP on the wire.
const MPTCP: u32 = 262;

/// The outcome of a system call.
#[must_use]
pub enum SyscallOutcome {
    /// Not Service traffic.
    Unchanged,
    /// To a backend.
    Translated,
    /// Refused with ECONNREFUSED.
    Refused,
}

/// What is a family's own at these hooks.
pub trait SocketFamily: Family {
    /// Without a pod range, pods get the external view (rule E6).
    const PODS_ARE_EXTERNAL: ConfigFlags;

    /// The address to which a socket is bound, unspecified if it is not.
    fn bound(ctx: &SockAddrContext) -> Self::Address;

    /// The source of a datagram in sendmsg, unspecified if the routes decide.
    fn datagram_source(ctx: &SockAddrContext) -> Self::Address;
}

impl SocketFamily for V4 {
    const PODS_ARE_EXTERNAL: ConfigFlags = ConfigFlags::PODS_ARE_EXTERNAL_V4;

    #[inline(always)]
    fn bound(ctx: &SockAddrContext) -> u32 {
        context::bound4(ctx)
    }

    #[inline(always)]
    fn datagram_source(ctx: &SockAddrContext) -> u32 {
        context::datagram_source4(ctx)
    }
}

impl SocketFamily for V6 {
    const PODS_ARE_EXTERNAL: ConfigFlags = ConfigFlags::PODS_ARE_EXTERNAL_V6;

    #[inline(always)]
    fn bound(ctx: &SockAddrContext) -> Words {
        context::bound6(ctx)
    }

    #[inline(always)]
    fn datagram_source(ctx: &SockAddrContext) -> Words {
        context::datagram_source6(ctx)
    }
}

/// A socket in connect.
struct Connecting<'a>(&'a SockAddrContext);

/// An unconnected socket in sendmsg, to a frontend without a stored backend.
struct Sending<'a> {
    ctx: &'a SockAddrContext,
    frontend: &'a Endpoint,
}

/// A socket in a system call, or one that a question is about.
pub trait Socket {
    type Access: Access;

    /// The cookie of its netns.
    fn netns(&self) -> u64;

    /// The source that the application chose, unspecified if it chose none.
    fn source<F: SocketFamily>(&self) -> F::Address;

    #[inline(always)]
    fn avoids(&self, _backend: &Endpoint) -> bool {
        false
    }

    /// As `Client::considers`.
    #[inline(always)]
    fn considers(&self, _: &Descriptor, _: Scope, _first: u32, _count: u32) {}

    /// As `Client::remembers`.
    #[inline(always)]
    fn remembers(&self, _: BackendRef) {}
}

impl Socket for Connecting<'_> {
    type Access = Live;

    #[inline(always)]
    fn netns(&self) -> u64 {
        context::netns_cookie(self.0)
    }

    #[inline(always)]
    fn source<F: SocketFamily>(&self) -> F::Address {
        F::bound(self.0)
    }
}

impl Socket for Sending<'_> {
    type Access = Live;

    #[inline(always)]
    fn netns(&self) -> u64 {
        context::netns_cookie(self.ctx)
    }

    #[inline(always)]
    fn source<F: SocketFamily>(&self) -> F::Address {
        F::datagram_source(self.ctx)
    }

    /// Replies of a backend that serves two frontends on one socket could not be attributed.
    #[inline(always)]
    fn avoids(&self, backend: &Endpoint) -> bool {
        unconnected::is_taken(self.ctx, backend, self.frontend)
    }
}

/// The client before a packet exists. The netns cookie is fetched only where it is used.
impl<F: Networks + SocketFamily, S: Socket> Client<F> for S {
    type Access = S::Access;

    // One more, as backends may be avoided.
    const ATTEMPTS: u32 = 4;

    #[inline(always)]
    fn is_host(&self) -> bool {
        is_host(self)
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        if config::flags().contains(F::PODS_ARE_EXTERNAL) && !is_host(self) {
            Scope::External
        } else {
            Scope::Internal
        }
    }

    #[inline(always)]
    fn affinity_key(&self, service: u32) -> AffinityKey {
        AffinityKey::from_netns(self.netns(), service)
    }

    #[inline(always)]
    fn is_proven(&self) -> bool {
        true
    }

    #[inline(always)]
    fn excluded_by_source_ranges(&self, descriptor: &Descriptor) -> Option<DropReason> {
        const SOURCE_NOT_IN_RANGES: u32 = DropReason::SourceNotInRanges as u32;
        match exclusion::<F, S>(self, descriptor) {
            ADMITTED => None,
            SOURCE_NOT_IN_RANGES => Some(DropReason::SourceNotInRanges),
            _ => Some(DropReason::NeedsSourceAddress),
        }
    }

    #[inline(always)]
    fn avoids(&self, backend: &Endpoint) -> bool {
        Socket::avoids(self, backend)
    }

    #[inline(always)]
    fn considers(&self, descriptor: &Descriptor, scope: Scope, first: u32, count: u32) {
        Socket::considers(self, descriptor, scope, first, count);
    }

    #[inline(always)]
    fn remembers(&self, backend: BackendRef) {
        Socket::remembers(self, backend);
    }
}

const ADMITTED: u32 = u32::MAX;

/// The reason for which source ranges exclude a socket, else `ADMITTED`. Not inlined: its words would be on the stack of each send.
#[inline(never)]
fn exclusion<F: Networks + SocketFamily, S: Socket>(socket: &S, descriptor: &Descriptor) -> u32 {
    let Some(source) = source_of::<F>(socket, F::from_mapped(descriptor.address)) else {
        return DropReason::NeedsSourceAddress as u32;
    };
    if F::is_in_source_ranges(descriptor.source_ranges, source) {
        ADMITTED
    } else {
        DropReason::SourceNotInRanges as u32
    }
}

/// The source address of a socket's packets to a frontend. Returns `None` if only they will tell.
///
/// Packets of the node to its own address pass no device whose programs translate. Their source is the destination itself, unless the
/// application chose another.
#[inline(always)]
fn source_of<F: Networks + SocketFamily>(
    socket: &impl Socket,
    destination: F::Address,
) -> Option<F::Address> {
    if !is_host(socket) {
        return None;
    }
    let is_own = F::node_address(destination).is_some();
    let chosen = socket.source::<F>();
    if !same(F::mapped(chosen), F::mapped(F::UNSPECIFIED)) {
        return (is_own || !config::flags().contains(ConfigFlags::PACKET_PLANE)).then_some(chosen);
    }
    is_own.then_some(destination)
}

#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> SyscallOutcome {
    let (address, port) = context::address4(ctx);
    apply::<Context4, _>(ctx, CONNECT, connect::<Context4, V4>(ctx, address, port), context::set_address4)
}

#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> SyscallOutcome {
    let (address, port) = context::address6(ctx);
    match unmapped(address) {
        Some(v4) => apply::<Context6, _>(ctx, CONNECT, connect::<Context6, V4>(ctx, v4, port), set_mapped),
        None => {
            let verdict = connect::<Context6, V6>(ctx, address, port);
            apply::<Context6, _>(ctx, CONNECT, verdict, context::set_address6)
        }
    }
}

#[inline(always)]
pub fn sendmsg4(ctx: &SockAddrContext) -> SyscallOutcome {
    let (address, port) = context::address4(ctx);
    apply::<Context4, _>(ctx, SENDMSG, send::<Context4, V4>(ctx, address, port), context::set_address4)
}

/// IPv4-mapped destinations do not reach this hook: the kernel passes them to IPv4 first (`udpv6_sendmsg`).
#[inline(always)]
pub fn sendmsg6(ctx: &SockAddrContext) -> SyscallOutcome {
    let (address, port) = context::address6(ctx);
    apply::<Context6, _>(ctx, SENDMSG, send::<Context6, V6>(ctx, address, port), context::set_address6)
}

#[inline(always)]
pub fn recvmsg4(ctx: &SockAddrContext) {
    let (address, port) = context::address4(ctx);
    let mut peer = Endpoint::new(bytes(mapped(address)), port);
    if reverse_translate(ctx, &mut peer) {
        show4(ctx, &peer);
    }
}

#[inline(always)]
pub fn recvmsg6(ctx: &SockAddrContext) {
    let (address, port) = context::address6(ctx);
    let mut peer = Endpoint::new(bytes(address), port);
    if reverse_translate(ctx, &mut peer) {
        context::set_address6(ctx, words(peer.address), peer.port);
    }
}

#[inline(always)]
pub fn getpeername4(ctx: &SockAddrContext) {
    let (address, port) = context::address4(ctx);
    if let Some(frontend) = connected::frontend(ctx, &Endpoint::new(bytes(mapped(address)), port)) {
        show4(ctx, &frontend);
    }
}

#[inline(always)]
pub fn getpeername6(ctx: &SockAddrContext) {
    let (address, port) = context::address6(ctx);
    if let Some(frontend) = connected::frontend(ctx, &Endpoint::new(bytes(address), port)) {
        context::set_address6(ctx, words(frontend.address), frontend.port);
    }
}

/// Decides about a connect, and stores the translation with the socket.
#[inline(always)]
fn connect<C: Reporting, F: Tables + SocketFamily>(
    ctx: &SockAddrContext,
    address: F::Address,
    port: [u8; 2],
) -> Decision<F::Address> {
    let socket = Connecting(ctx);
    let verdict = match transport(ctx) {
        Some(protocol) if is_enabled::<F>(&socket, address) => {
            decide_connect::<F>(&socket, address, port, protocol)
        }
        Some(_) | None => Decision::NotOurs,
    };
    match &verdict {
        Decision::Backend(choice) => {
            connected::store(
                ctx,
                SocketPair {
                    frontend: Endpoint::new(bytes(F::mapped(F::effective(address))), port),
                    backend: choice.endpoint::<F>(),
                    reference: choice.reference,
                },
            );
            C::report(ctx, CONNECT.with_kind(EventKind::NewFlow), choice.reference, Event::NO_SERVICE);
        }
        Decision::NotOurs | Decision::Refuse(..) => connected::clear(ctx),
    }
    verdict
}

/// The decision about a connect of a socket that is translated.
#[inline(always)]
pub fn decide_connect<F: Tables + SocketFamily>(
    socket: &impl Socket,
    address: F::Address,
    port: [u8; 2],
    protocol: u8,
) -> Decision<F::Address> {
    match decide::<F, _>(address, port, protocol, socket) {
        Decision::NotOurs if is_undefined_port::<F>(address) => {
            Decision::Refuse(DropReason::UndefinedPort, None)
        }
        verdict @ (Decision::NotOurs | Decision::Backend(_) | Decision::Refuse(..)) => verdict,
    }
}

/// Decides about a datagram of an unconnected socket. The backend stays the same until it is removed.
#[inline(always)]
fn send<C: Reporting, F: Tables + SocketFamily>(
    ctx: &SockAddrContext,
    address: F::Address,
    port: [u8; 2],
) -> Decision<F::Address> {
    if transport(ctx) != Some(UDP) || !is_enabled::<F>(&Connecting(ctx), address) {
        return Decision::NotOurs;
    }
    let frontend = Endpoint::new(bytes(F::mapped(F::effective(address))), port);
    let connected = connected::backend(ctx, &frontend);
    let reference = if connected.generation != 0 { connected } else { unconnected::backend(ctx, &frontend) };
    let is_stored = reference.generation != 0;
    let sending = Sending { ctx, frontend: &frontend };
    if is_stored
        && let Some(backend) = F::backend(reference)
        && let Some(descriptor) = current_frontend_of::<F>(&sending, address, port, backend.service)
    {
        return Decision::Backend(Choice::of(backend, reference, descriptor));
    }
    let verdict = decide::<F, _>(address, port, UDP, &sending);
    match &verdict {
        Decision::Backend(choice) => {
            unconnected::store(ctx, &frontend, &choice.endpoint::<F>(), choice.reference);
            let kind = if is_stored { EventKind::Switched } else { EventKind::NewFlow };
            C::report(ctx, SENDMSG.with_kind(kind), choice.reference, Event::NO_SERVICE);
        }
        Decision::NotOurs | Decision::Refuse(..) if is_stored => unconnected::remove(ctx, &frontend),
        Decision::NotOurs | Decision::Refuse(..) => {}
    }
    verdict
}

/// The frontend of a destination, if it still belongs to the service port of the stored backend and admits the source: an address can
/// move from one Service to another while both exist.
#[inline(always)]
fn current_frontend_of<F: Tables + SocketFamily>(
    client: &Sending<'_>,
    address: F::Address,
    port: [u8; 2],
    service: u32,
) -> Option<&'static Descriptor> {
    match frontend::current::<F>(address, port, UDP, client) {
        FrontendLookup::Descriptor(descriptor)
            if descriptor.service == service
                && (!descriptor.flags.contains(DescriptorFlags::SOURCE_RANGES)
                    || Client::<F>::excluded_by_source_ranges(client, descriptor).is_none()) =>
        {
            Some(descriptor)
        }
        FrontendLookup::Descriptor(_) | FrontendLookup::NotFound | FrontendLookup::Changed => None,
    }
}

/// Refusals of the two system calls, without their reasons.
const CONNECT: What = What::new(EventKind::Refused, EventHook::Connect, 0);
const SENDMSG: What = What::new(EventKind::Refused, EventHook::Sendmsg, 0);

/// Applies a decision, counts it, and reports a refusal of the `call`.
#[inline(always)]
fn apply<C: Reporting, A: Copy>(
    ctx: &SockAddrContext,
    call: What,
    verdict: Decision<A>,
    set_address: impl Fn(&SockAddrContext, A, [u8; 2]),
) -> SyscallOutcome {
    match verdict {
        Decision::NotOurs => SyscallOutcome::Unchanged,
        Decision::Backend(Choice { backend, .. }) => {
            set_address(ctx, backend.address, backend.port);
            metrics::translated(backend.service);
            SyscallOutcome::Translated
        }
        Decision::Refuse(reason, _) if is_deferred_to_tc(reason, || transport(ctx) == Some(UDP)) => {
            SyscallOutcome::Unchanged
        }
        Decision::Refuse(reason, service) => {
            metrics::refused(reason, service);
            log_refusal(ctx, reason as u32, service.unwrap_or_default());
            let service = service.unwrap_or(Event::NO_SERVICE);
            C::report(ctx, call.with_reason(reason as u8), BackendRef::default(), service);
            context::set_connection_refused(ctx);
            SyscallOutcome::Refused
        }
    }
}

/// Whether the decision is left to tc: most sources are known from packets only, and only packets can be dropped silently. UDP connects to
/// undefined ports succeed, as the C library sorts the addresses of a name by whether a UDP connect succeeds (RFC 6724, rule 1).
#[inline(always)]
pub fn is_deferred_to_tc(reason: DropReason, is_udp: impl Fn() -> bool) -> bool {
    let flags = config::flags();
    (flags.contains(ConfigFlags::PACKET_PLANE)
        && matches!(
            reason,
            DropReason::NeedsSourceAddress
                | DropReason::SourceNotInRanges
                | DropReason::PolicyHasNoLocalEndpoint
        ))
        || (flags.contains(ConfigFlags::EXTERNAL_DEVICES)
            && matches!(reason, DropReason::UndefinedPort)
            && is_udp())
}

/// Not inlined: the macro's buffers would be on the stack of each connect.
#[inline(never)]
fn log_refusal(ctx: &SockAddrContext, reason: u32, service: u32) {
    debug!(ctx, "refused: reason {}, service {}", reason, service);
}

/// Whether the address is a ClusterIP without this port. Addresses of the node are exempt.
#[inline(always)]
fn is_undefined_port<F: Networks>(address: F::Address) -> bool {
    F::unclaimed(address) == Some(Unclaimed::UndefinedPort) && F::node_address(address).is_none()
}

/// Whether the socket is in the host netns.
#[inline(always)]
fn is_host(socket: &impl Socket) -> bool {
    socket.netns() == config::host_netns()
}

/// Whether sockets of this netns are translated (`--socket-lb`), to this destination.
#[inline(always)]
pub fn is_enabled<F: Networks>(socket: &impl Socket, destination: F::Address) -> bool {
    let flags = config::flags();
    if flags.contains(ConfigFlags::OWN_ADDRESSES_ONLY) {
        is_host(socket) && F::node_address(F::effective(destination)).is_some()
    } else {
        !flags.contains(ConfigFlags::HOST_ONLY) || is_host(socket)
    }
}

/// The Service protocol of the socket. Returns `None` for protocols that are not translated here.
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

/// Replaces the backend's address of a received datagram by the frontend's. Returns `false` for other senders.
#[inline(always)]
fn reverse_translate(ctx: &SockAddrContext, peer: &mut Endpoint) -> bool {
    match connected::frontend(ctx, peer) {
        Some(frontend) => {
            *peer = frontend;
            true
        }
        None => unconnected::reverse_translate(ctx, peer),
    }
}
