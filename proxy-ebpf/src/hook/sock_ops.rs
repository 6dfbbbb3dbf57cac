//! Counts the TCP connections of translated sockets: opened, open, failed by kind, time to connect, bytes, retransmissions, round
//! trips. Runs per connection, never per packet: for sockets that were translated at connect when they connect, open and close.
//!
//! The sockets of other connections make it run a few times, as the kernel asks each of these programs for parameters of a new
//! socket; it then compares the operation and ends.
//!
//! A subflow of an MPTCP socket is another socket than the one that was translated, and is not counted.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
        BPF_TCP_ESTABLISHED,
    },
    programs::SockOpsContext,
};
use proxy_ebpf::abi::{
    ConfigFlags, ConnectFailure, EventHook, HealthFault, SocketPair, SocketStage, Steering, TcpSocket,
};

use super::report_socket;
use crate::{
    clock, config,
    family::{V4, V6, unmapped, words},
    lb::{Backends, health},
    metrics::Counters,
    socket::{
        operation,
        operation::{LockedSocket, Totals},
        tcp,
    },
};

const ECONNRESET: u32 = 104;

#[inline(always)]
pub fn handle(ctx: &SockOpsContext) {
    match operation::operation(ctx) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            if let Some(socket) = operation::socket(ctx) {
                connects(ctx, socket);
            }
        }
        BPF_SOCK_OPS_RTO_CB => {
            if let Some(socket) = operation::socket(ctx) {
                times_out(socket);
            }
        }
        BPF_SOCK_OPS_STATE_CB => {
            let (_, state) = operation::states(ctx);
            if matches!(state, BPF_TCP_ESTABLISHED | BPF_TCP_CLOSE)
                && let Some(socket) = operation::socket(ctx)
            {
                changes(ctx, socket, state);
            }
        }
        _ => {}
    }
}

/// The first SYN is about to be sent.
#[inline(always)]
fn connects(ctx: &SockOpsContext, socket: LockedSocket) {
    let Some(known) = tcp::get(socket) else { return };
    known.stage = SocketStage::NONE;
    known.steering = Steering::NONE;
    if !tcp::is_translated(known) {
        return;
    }
    let Some((service, is_v6)) = service_of(&known.pair) else { return };
    let Some(generation) = Counters::generation(service) else { return };
    known.started = clock::now();
    known.generation = generation;
    known.service = service;
    known.is_v6 = is_v6.into();
    (known.sent, known.received, known.retransmissions) = (0, 0, 0);
    known.stage = SocketStage::CONNECTING;
    report_socket::connects(ctx, known);
    operation::watch(ctx, config::flags().contains(ConfigFlags::RECORDS_HEALTH));
}

/// The SYN is about to be sent again. At the second time the packet plane may have sent it elsewhere, so only the first one tells of the
/// socket's own backend.
#[inline(always)]
fn times_out(socket: LockedSocket) {
    let Some(known) = tcp::get(socket) else { return };
    if known.stage == SocketStage::CONNECTING && known.steering == Steering::NONE {
        known.steering = Steering::UNANSWERED;
        find(known, HealthFault::Silent);
    }
}

/// The connection has found a fault of its socket's backend.
#[inline(always)]
fn find(known: &TcpSocket, fault: HealthFault) {
    health::failed(known.is_v6 != 0, known.pair.reference, fault, EventHook::SockOps);
}

/// The service port of the backend, and whether that has an IPv6 address. `None` if the backend was removed.
#[inline(always)]
pub(super) fn service_of(pair: &SocketPair) -> Option<(u32, bool)> {
    if unmapped(words(pair.backend.address)).is_some() {
        Some((V4::service(pair.reference)?, false))
    } else {
        Some((V6::service(pair.reference)?, true))
    }
}

#[inline(always)]
fn changes(ctx: &SockOpsContext, socket: LockedSocket, state: u32) {
    let Some(known) = tcp::get(socket) else { return };
    let stage = known.stage;
    if state == BPF_TCP_ESTABLISHED && stage == SocketStage::CONNECTING {
        known.stage = SocketStage::OPEN;
    }
    let counters = Counters::of(known);
    if state == BPF_TCP_ESTABLISHED {
        if stage == SocketStage::CONNECTING {
            counters.opened(clock::now().wrapping_sub(known.started));
            if config::flags().contains(ConfigFlags::RECORDS_HEALTH) {
                operation::watch(ctx, false);
            }
            if known.steering == Steering::NONE {
                health::answered(known.is_v6 != 0, known.pair.reference, EventHook::SockOps);
            }
        }
        return;
    }
    known.stage = SocketStage::NONE;
    match stage {
        SocketStage::CONNECTING => {
            let retransmissions = operation::retransmissions(ctx);
            let was_told = socket.has_queued_error();
            let failure = ConnectFailure::of_connect(socket.error(), was_told, retransmissions);
            counters.failed(failure);
            // Silence was told before.
            if known.steering == Steering::NONE
                && let Some(fault) = failure.fault()
            {
                find(known, fault);
            }
            report_socket::failed(ctx, known, failure, clock::now().wrapping_sub(known.started));
        }
        SocketStage::OPEN => {
            let totals = Totals::of(ctx);
            counters.carried(&tcp::take_new(known, &totals));
            counters.closed(operation::round_trip(ctx));
            if totals.received == 0 && socket.error() == ECONNRESET {
                counters.failed(ConnectFailure::Reset);
                if known.steering == Steering::NONE {
                    find(known, HealthFault::Reset);
                }
                report_socket::failed(
                    ctx,
                    known,
                    ConnectFailure::Reset,
                    clock::now().wrapping_sub(known.started),
                );
            }
        }
        _ => {}
    }
}
