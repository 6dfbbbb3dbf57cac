//! A packet of a flow that is known: what its ends are to be.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::abi::{
    ConfigFlags, DropReason, FlowDirection, FlowFlags, FlowState, TupleKind, flow_state::tcp,
};

use crate::{
    clock, config,
    conntrack::{self, Found, Tracked, find},
    family::Family,
    nat::Ends,
    packet::{Packet, TCP, UDP},
    stage::{Step, Work},
    tc::Place,
};

/// Finds the flow of a packet, and what is to be done with it.
#[inline(always)]
pub fn look_up<F: Family>(ctx: &TcContext, work: &mut Work<F>, place: Place) -> Step {
    match find::<F>(&work.packet.tuple::<F>(place.direction())) {
        Found::Flow(flow) => follow(work, &flow, place),
        Found::Ending => lost(),
        Found::Nothing if begins_elsewhere(ctx, place) || !may_begin(&work.packet) => Step::PASS,
        Found::Nothing => Step::decide(Step::NOBODY),
    }
}

/// Met in the instant in which its flow ended.
#[inline(always)]
fn lost() -> Step {
    Step::refuse(DropReason::FlowEnding, None)
}

#[inline(always)]
fn follow<F: Family>(work: &mut Work<F>, flow: &Tracked<F>, place: Place) -> Step {
    match flow.kind {
        TupleKind::Original if begins_anew(flow, &work.packet) => end_and_decide(flow),
        TupleKind::Original if may_move(flow, &work.packet) => Step::decide(flow.slot),
        TupleKind::Original => carry_on(work, flow, place),
        TupleKind::OriginalAfterDnat => Step::masquerade(flow.slot),
        TupleKind::Reply | TupleKind::ReplyAfterReverseSnat if is_turned_away(flow, &work.packet) => {
            end_and_drop(flow)
        }
        TupleKind::Reply => answered(work, flow, place),
        TupleKind::ReplyAfterReverseSnat => returned(work, flow),
    }
}

/// What leaves by a device begins a flow only if the node itself sends it, and to a pod not even then.
#[inline(always)]
fn begins_elsewhere(ctx: &TcContext, place: Place) -> bool {
    // SAFETY: the kernel's own context. What came in by no device is the node's own.
    let is_of_node = unsafe { (*ctx.skb.skb).ingress_ifindex == 0 };
    place.is_egress() && (place.is_pod() || !is_of_node)
}

/// Packets from the middle of a TCP connection belong to one that we do not know; so do errors.
#[inline(always)]
pub fn may_begin<A: Copy>(packet: &Packet<A>) -> bool {
    !packet.is_error() && (packet.protocol != TCP || is_syn(packet.flags))
}

#[inline(always)]
fn is_syn(flags: u8) -> bool {
    flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// Whether a SYN begins another TCP connection between the same ends: the one that is known is over, or never came about and
/// its backend has gone.
#[inline(always)]
pub fn begins_anew<F: Family>(flow: &Tracked<F>, packet: &Packet<F::Address>) -> bool {
    packet.protocol == TCP
        && is_syn(packet.flags)
        && (flow.state.is_closed() || (!flow.state.has(FlowState::SEEN_REPLY) && has_lost_backend(flow)))
}

#[inline(always)]
fn end_and_decide<F: Family>(flow: &Tracked<F>) -> Step {
    if flow.end() { Step::decide(Step::NOBODY) } else { lost() }
}

/// Whether a UDP flow may need another backend, its own having gone. Asked once a tick.
#[inline(always)]
pub fn may_move<F: Family>(flow: &Tracked<F>, packet: &Packet<F::Address>) -> bool {
    packet.protocol == UDP
        && !packet.is_error()
        && flow.state.last_seen() != clock::ticks()
        && !is_passing(flow)
        && has_lost_backend(flow)
}

/// Whether nobody takes datagrams any more where a backend was that has gone: the client's next one finds another backend,
/// and the client need not hear of it.
#[inline(always)]
fn is_turned_away<F: Family>(flow: &Tracked<F>, packet: &Packet<F::Address>) -> bool {
    packet.is_error() && packet.protocol == UDP && !is_passing(flow) && has_lost_backend(flow)
}

#[inline(always)]
fn end_and_drop<F: Family>(flow: &Tracked<F>) -> Step {
    // Should it not end now, a packet revived it, and the next error comes.
    let _ = flow.end();
    lost()
}

#[inline(always)]
fn is_passing<F: Family>(flow: &Tracked<F>) -> bool {
    flow.record().flags.contains(FlowFlags::UNTRANSLATED)
}

#[inline(always)]
fn has_lost_backend<F: Family>(flow: &Tracked<F>) -> bool {
    F::backend(flow.record().reference).is_none()
}

/// From a client, in the flow of a slot, if it is this packet's: since it was found it may have ended, and the slot have
/// become another's.
#[inline(always)]
pub fn carry_on_in<F: Family>(work: &mut Work<F>, slot: u32, place: Place) -> Step {
    match conntrack::at::<F>(slot) {
        Some(flow) if is_dialling(&flow, &work.packet) => carry_on(work, &flow, place),
        Some(_) | None => lost(),
    }
}

#[inline(always)]
fn is_dialling<F: Family>(flow: &Tracked<F>, packet: &Packet<F::Address>) -> bool {
    let record = flow.record();
    F::is_same(record.client, F::bytes(packet.source))
        && F::is_same(record.destination, F::bytes(packet.destination))
        && record.client_port == packet.source_port
        && record.destination_port == packet.destination_port
        && record.protocol == packet.protocol
}

/// From a client to the backend.
#[inline(always)]
fn carry_on<F: Family>(work: &mut Work<F>, flow: &Tracked<F>, place: Place) -> Step {
    let record = flow.record();
    work.ends = Ends {
        source: work.packet.source,
        source_port: record.translated_port,
        destination: F::address(record.backend),
        destination_port: record.backend_port,
    };
    let step = if record.flags.contains(FlowFlags::UNTRANSLATED) {
        Step::PASS
    } else if place.is_egress() {
        // A client on the node: the kernel chose the way to what it dialled.
        Step::TRANSLATE_AND_ROUTE
    } else if record.flags.contains(FlowFlags::RESTEERED) {
        // The client's neighbour may be what it dialled, and not a router.
        Step::TRANSLATE_AND_TURN
    } else {
        onward(work, flow, place)
    };
    seen(work, flow, FlowDirection::Original, step)
}

/// What goes through the node from one machine to another may go past its stack, both ways.
#[inline(always)]
fn onward<F: Family>(work: &Work<F>, flow: &Tracked<F>, place: Place) -> Step {
    let is_allowed = config::flags().contains(ConfigFlags::BYPASS_STACK);
    let is_through = !place.is_pod() && !flow.record().flags.contains(FlowFlags::ON_NODE);
    if is_allowed && is_through && !work.packet.is_error() {
        Step::TRANSLATE_AND_SEND_ON
    } else {
        Step::TRANSLATE
    }
}

/// From a backend to the address that stands for the client.
#[inline(always)]
fn answered<F: Family>(work: &mut Work<F>, flow: &Tracked<F>, place: Place) -> Step {
    let record = flow.record();
    work.ends = Ends {
        destination: F::address(record.client),
        destination_port: record.translated_port,
        ..Ends::of(&work.packet)
    };
    // A client behind another device gets its answer's proper name there, and the flow is seen to live there.
    if !record.flags.contains(FlowFlags::HOST_CLIENT) {
        return if flow.is_still_there() { onward(work, flow, place) } else { lost() };
    }
    work.ends.source = F::address(record.destination);
    work.ends.source_port = record.destination_port;
    work.ends.destination_port = record.client_port;
    seen(work, flow, FlowDirection::Reply, Step::TRANSLATE)
}

/// From a backend to the client: in the name of what it dialled.
#[inline(always)]
fn returned<F: Family>(work: &mut Work<F>, flow: &Tracked<F>) -> Step {
    let record = flow.record();
    work.ends = Ends {
        source: F::address(record.destination),
        source_port: record.destination_port,
        destination: work.packet.destination,
        destination_port: record.client_port,
    };
    let step = if is_passing(flow) { Step::PASS } else { Step::TRANSLATE };
    seen(work, flow, FlowDirection::Reply, step)
}

/// The ends hold if the record was this flow's all the while. An error is no sign of state.
#[inline(always)]
fn seen<F: Family>(work: &Work<F>, flow: &Tracked<F>, direction: FlowDirection, step: Step) -> Step {
    let is_there = if work.packet.is_error() {
        flow.is_still_there()
    } else {
        flow.refresh(direction, work.packet.flags, clock::ticks())
    };
    if is_there { step } else { lost() }
}
