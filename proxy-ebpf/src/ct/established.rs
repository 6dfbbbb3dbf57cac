//! Packets of tracked flows: the lookup, and the translation by direction.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::abi::{
    BackendRef, ConfigFlags, Direction, EventHook, FlowDirection, FlowFlags, FlowState, HealthFault,
    TupleKind, flow_state::tcp,
};

use super::{
    Flows, Next, Scratch, ScratchSpace as _, standby,
    table::{Lookup, TrackedFlow, flow_in, lookup},
};
use crate::{
    clock, config,
    family::{V4, V6},
    lb::health,
    packet::{
        Hook, Packet, Translation,
        header::{TCP, UDP},
    },
};

/// Looks up the flow of a packet at tc, and translates by it.
#[inline(always)]
pub fn look_up<F: Flows>(ctx: &TcContext, scratch: &mut Scratch<F>, hook: Hook) -> Next {
    match lookup::<F>(&scratch.packet.tuple::<F>(hook.direction())) {
        Lookup::Found(flow) => established(scratch, &flow, hook),
        Lookup::Dying => Next::flow_ending(),
        Lookup::NotFound if is_late_answer::<F>(&scratch.packet, hook) => Next::flow_ending(),
        Lookup::NotFound if is_forwarded(ctx, &scratch.packet, hook) || !may_create(&scratch.packet) => {
            Next::PASS
        }
        Lookup::NotFound => undecided(scratch),
    }
}

#[inline(always)]
fn established<F: Flows>(scratch: &mut Scratch<F>, flow: &TrackedFlow<F>, hook: Hook) -> Next {
    match flow.kind {
        TupleKind::Original => match replaced(scratch, flow).or_else(|| unanswered(&scratch.packet, flow)) {
            Some(next) => next,
            None => original(scratch, flow, hook),
        },
        TupleKind::OriginalAfterDnat if is_foreign(flow, FlowDirection::Original, &scratch.packet) => {
            Next::PASS
        }
        TupleKind::OriginalAfterDnat => Next::snat(flow.slot),
        TupleKind::ReplyAfterReverseSnat if is_foreign(flow, FlowDirection::Reply, &scratch.packet) => {
            if !flow.state.has(FlowState::SEEN_REPLY) {
                flow.doubt();
            }
            Next::PASS
        }
        TupleKind::Reply | TupleKind::ReplyAfterReverseSnat
            if is_error_of_removed_backend(flow, &scratch.packet) =>
        {
            delete_and_drop(flow)
        }
        TupleKind::Reply => masqueraded_reply(scratch, flow, hook),
        TupleKind::ReplyAfterReverseSnat => reply(scratch, flow),
    }
}

/// Whether a packet at egress creates no flow: it was forwarded, or the node itself sends it to a pod. Only datagrams to a pod may
/// be of a socket whose backend was removed, on this node.
#[inline(always)]
fn is_forwarded<A>(ctx: &TcContext, packet: &Packet<A>, hook: Hook) -> bool {
    // SAFETY: the kernel's own context. A packet without ingress interface is the node's own.
    let is_from_node = unsafe { (*ctx.skb.skb).ingress_ifindex == 0 };
    hook.is_egress() && (!is_from_node || (hook.is_pod() && packet.protocol != UDP))
}

/// Whether a packet may create a flow. Packets from the middle of a TCP connection are of an untracked one, and ICMP errors of
/// untracked packets are not translated.
#[inline(always)]
pub fn may_create<A: Copy>(packet: &Packet<A>) -> bool {
    !packet.is_icmp_error() && (packet.protocol != TCP || is_syn(packet.flags)) && !standby::is_on()
}

#[inline(always)]
fn is_syn(flags: u8) -> bool {
    flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// A packet without a flow that may create one.
#[inline(always)]
pub fn undecided<F: Flows>(scratch: &mut Scratch<F>) -> Next {
    scratch.is_port_taken = 0;
    scratch.unanswered = BackendRef::default();
    scratch.unanswered_slot = Next::NO_FLOW;
    Next::decide(Next::NO_FLOW)
}

/// The next step if another flow replaces this one, of a packet of its original direction.
#[inline(always)]
pub fn replaced<F: Flows>(scratch: &mut Scratch<F>, flow: &TrackedFlow<F>) -> Option<Next> {
    if reopens(flow, &scratch.packet) {
        let was_answered = flow.state.has(FlowState::SEEN_REPLY);
        scratch.is_port_taken = (flow.state.has(FlowState::IN_DOUBT) && !was_answered).into();
        scratch.unanswered = BackendRef::default();
        scratch.unanswered_slot = Next::NO_FLOW;
        return Some(if flow.delete() { Next::decide(Next::NO_FLOW) } else { Next::flow_ending() });
    }
    if needs_backend(flow, &scratch.packet) {
        scratch.unanswered = BackendRef::default();
        scratch.unanswered_slot = Next::NO_FLOW;
        scratch.is_port_taken = 0;
        scratch.judged = flow.state.tag();
        return Some(Next::decide(flow.slot));
    }
    None
}

/// Ticks after which a SYN that is seen again says that the first one was not answered: half a second at least. Linux sends it again
/// after a second (RFC 6298, 2.1).
const UNANSWERED: u32 = 3;

/// Whether a packet is the SYN of a flow, sent again as nothing came back.
#[inline(always)]
pub fn is_unanswered<F: Flows>(flow: &TrackedFlow<F>, packet: &Packet<F::Address>) -> bool {
    config::flags().contains(ConfigFlags::RECORDS_HEALTH)
        && packet.protocol == TCP
        && is_syn(packet.flags)
        && !flow.state.has(FlowState::SEEN_REPLY)
        && flow.state.idle(clock::ticks()) >= UNANSWERED
        && !is_untranslated(flow)
}

/// The decision anew about a SYN that was not answered.
#[inline(always)]
fn unanswered<F: Flows>(packet: &Packet<F::Address>, flow: &TrackedFlow<F>) -> Option<Next> {
    if packet.protocol != TCP || !is_syn(packet.flags) || flow.state.has(FlowState::SEEN_REPLY) {
        return None;
    }
    let next = Next(if F::IS_V6 { judge_syn_v6(flow.slot) } else { judge_syn_v4(flow.slot) });
    next.is_decide().then_some(next)
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_syn_v4(slot: u32) -> u64 {
    V4::scratch().map_or(Next::PASS, |scratch| judge_syn::<V4>(scratch, slot)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_syn_v6(slot: u32) -> u64 {
    V6::scratch().map_or(Next::PASS, |scratch| judge_syn::<V6>(scratch, slot)).0
}

/// Whether the SYN of the flow in a slot is decided anew. The record is compared with the packet before it is replaced.
#[inline(always)]
fn judge_syn<F: Flows>(scratch: &mut Scratch<F>, slot: u32) -> Next {
    let Some(flow) = flow_in::<F>(slot).filter(|flow| is_unanswered(flow, &scratch.packet)) else {
        return Next::PASS;
    };
    let reference = flow.record().reference;
    health::failed(F::IS_V6, reference, HealthFault::Silent, EventHook::Conntrack);
    if !config::flags().contains(ConfigFlags::ACTS_ON_HEALTH) {
        return Next::PASS;
    }
    scratch.is_port_taken = 0;
    scratch.judged = flow.state.tag();
    scratch.unanswered = reference;
    scratch.unanswered_slot = slot;
    Next::decide(slot)
}

/// Whether a packet without a flow is the answer of a socket's own backend to its SYN, after that was sent to another one. The socket
/// would take it for the other's.
#[inline(always)]
fn is_late_answer<F: Flows>(packet: &Packet<F::Address>, hook: Hook) -> bool {
    packet.protocol == TCP
        && packet.flags & (tcp::SYN | tcp::RST) != 0
        && !is_syn(packet.flags)
        && config::flags().contains(ConfigFlags::ACTS_ON_HEALTH)
        && (if F::IS_V6 { answers_resteered_v6(hook.0) } else { answers_resteered_v4(hook.0) }) != 0
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answers_resteered_v4(hook: u32) -> u32 {
    V4::scratch().is_some_and(|scratch| answers_resteered::<V4>(&scratch.packet, Hook(hook))).into()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answers_resteered_v6(hook: u32) -> u32 {
    V6::scratch().is_some_and(|scratch| answers_resteered::<V6>(&scratch.packet, Hook(hook))).into()
}

/// Whether the packet that a packet answers is of a re-steered flow, as its client sent it.
#[inline(always)]
fn answers_resteered<F: Flows>(packet: &Packet<F::Address>, hook: Hook) -> bool {
    if !health::is_decisive() {
        return false;
    }
    let at_client = if hook.is_egress() { Direction::Ingress } else { Direction::Egress };
    match lookup::<F>(&packet.reply_tuple::<F>(at_client)) {
        Lookup::Found(flow) => {
            // The answer of the flow's backend, seen at a second device after its translation, has that one's numbers.
            let is_own =
                flow.state.has(FlowState::SEEN_REPLY) && packet.segment().begins_at(flow.positions().backend);
            flow.kind == TupleKind::Original && flow.record().flags.contains(FlowFlags::RESTEERED) && !is_own
        }
        Lookup::Dying | Lookup::NotFound => false,
    }
}

/// Whether a SYN opens another TCP connection with the same 5-tuple.
#[inline(always)]
pub fn reopens<F: Flows>(flow: &TrackedFlow<F>, packet: &Packet<F::Address>) -> bool {
    packet.protocol == TCP
        && is_syn(packet.flags)
        && flow.state.starts_anew(!is_untranslated(flow) && has_lost_backend(flow))
}

/// Whether a segment between client and backend is not of the flow with this tuple, but of a direct connection between the same
/// ports: it answers no SYN of the client, or its numbers are elsewhere.
#[inline(always)]
fn is_foreign<F: Flows>(
    flow: &TrackedFlow<F>,
    direction: FlowDirection,
    packet: &Packet<F::Address>,
) -> bool {
    if packet.flags & tcp::FOLLOWED == 0 || !flow.is_followed() {
        return false;
    }
    let (own, peer) = flow.positions().seen_by(direction);
    let is_elsewhere = !packet.segment().is_near(own, peer);
    if flow.state.has(FlowState::SEEN_REPLY) {
        // In doubt, the next connection at the same backend has other numbers.
        return is_elsewhere && !flow.state.has(FlowState::IN_DOUBT) && packet.flags & tcp::SYN == 0;
    }
    match direction {
        FlowDirection::Original => packet.flags & tcp::SYN == 0,
        FlowDirection::Reply => is_elsewhere || packet.flags & (tcp::SYN | tcp::RST) == 0,
    }
}

/// Whether a UDP flow needs another backend, as its own was removed. Checked once per tick, by a packet of either direction.
#[inline(always)]
pub fn needs_backend<F: Flows>(flow: &TrackedFlow<F>, packet: &Packet<F::Address>) -> bool {
    packet.protocol == UDP
        && !packet.is_icmp_error()
        && flow.state.last_seen() != clock::ticks()
        && !is_untranslated(flow)
        && has_lost_backend(flow)
}

/// Whether a packet is an ICMP error from the address of a removed backend of a UDP flow. The next datagram gets another backend,
/// so the error is not forwarded to the client.
#[inline(always)]
fn is_error_of_removed_backend<F: Flows>(flow: &TrackedFlow<F>, packet: &Packet<F::Address>) -> bool {
    packet.is_icmp_error() && packet.protocol == UDP && !is_untranslated(flow) && has_lost_backend(flow)
}

#[inline(always)]
fn delete_and_drop<F: Flows>(flow: &TrackedFlow<F>) -> Next {
    // If it is not deleted now, a packet refreshed it, and the next error deletes it.
    let _ = flow.delete();
    Next::flow_ending()
}

#[inline(always)]
fn is_untranslated<F: Flows>(flow: &TrackedFlow<F>) -> bool {
    flow.record().flags.contains(FlowFlags::UNTRANSLATED)
}

#[inline(always)]
fn has_lost_backend<F: Flows>(flow: &TrackedFlow<F>) -> bool {
    F::backend(flow.record().reference).is_none()
}

/// Translates a packet of the original direction by the flow in a slot. The flow may have been deleted since its lookup and the slot
/// reused, so the record is compared with the packet.
#[inline(always)]
pub fn original_in<F: Flows>(scratch: &mut Scratch<F>, slot: u32, hook: Hook) -> Next {
    match flow_in::<F>(slot) {
        Some(flow) if is_flow_of(&flow, &scratch.packet) => original(scratch, &flow, hook),
        Some(_) | None => Next::flow_ending(),
    }
}

/// Deletes the flow of a packet in a slot, unless it was deleted already.
#[inline(always)]
pub fn end<F: Flows>(scratch: &Scratch<F>, slot: u32) -> Next {
    match flow_in::<F>(slot) {
        Some(flow) if is_flow_of(&flow, &scratch.packet) && !flow.delete() => Next::flow_ending(),
        Some(_) | None => Next::PASS,
    }
}

#[inline(always)]
fn is_flow_of<F: Flows>(flow: &TrackedFlow<F>, packet: &Packet<F::Address>) -> bool {
    let record = flow.record();
    F::is_same(record.client, F::bytes(packet.source))
        && F::is_same(record.destination, F::bytes(packet.destination))
        && record.client_port == packet.source_port
        && record.destination_port == packet.destination_port
        && record.protocol == packet.protocol
}

/// Original direction, DNAT: client to backend.
#[inline(always)]
fn original<F: Flows>(scratch: &mut Scratch<F>, flow: &TrackedFlow<F>, hook: Hook) -> Next {
    let record = flow.record();
    scratch.translation = Translation {
        source: scratch.packet.source,
        source_port: record.translated_port,
        destination: F::address(record.backend),
        destination_port: record.backend_port,
    };
    let next = if is_untranslated(flow) {
        translated_port_only(flow)
    } else if hook.is_egress() {
        // A client on the node: the kernel routed the packet to the frontend's address.
        Next::TRANSLATE_AND_REDIRECT
    } else if record.flags.contains(FlowFlags::RESTEERED) {
        // The frame may be addressed to the removed backend itself, not to a router.
        Next::TRANSLATE_TO_ROUTER
    } else {
        translate_or_forward(scratch, flow, hook)
    };
    refreshed(scratch, flow, FlowDirection::Original, next)
}

/// A flow without translation of addresses differs at most in the client's port.
#[inline(always)]
fn translated_port_only<F: Flows>(flow: &TrackedFlow<F>) -> Next {
    let record = flow.record();
    if record.translated_port == record.client_port { Next::PASS } else { Next::TRANSLATE }
}

/// With `--forwarding redirect`, both directions of a flow between other machines bypass the node's stack.
#[inline(always)]
fn translate_or_forward<F: Flows>(scratch: &Scratch<F>, flow: &TrackedFlow<F>, hook: Hook) -> Next {
    let is_enabled = config::flags().contains(ConfigFlags::BYPASS_STACK);
    let is_transit = !hook.is_pod() && !flow.record().flags.contains(FlowFlags::ON_NODE);
    if is_enabled && is_transit && !scratch.packet.is_icmp_error() {
        Next::TRANSLATE_AND_FORWARD
    } else {
        Next::TRANSLATE
    }
}

/// Reply direction, reverse SNAT: backend to masquerade address becomes backend to client. For a client on the node the reverse of
/// DNAT follows at once.
#[inline(always)]
fn masqueraded_reply<F: Flows>(scratch: &mut Scratch<F>, flow: &TrackedFlow<F>, hook: Hook) -> Next {
    let record = flow.record();
    scratch.translation = Translation {
        destination: F::address(record.client),
        destination_port: record.translated_port,
        ..Translation::of(&scratch.packet)
    };
    // A client behind another device: the reverse of DNAT and the refresh are done at that device's egress.
    if !record.flags.contains(FlowFlags::HOST_CLIENT) {
        return if flow.is_current() {
            translate_or_forward(scratch, flow, hook)
        } else {
            Next::flow_ending()
        };
    }
    scratch.translation.source = F::address(record.destination);
    scratch.translation.source_port = record.destination_port;
    scratch.translation.destination_port = record.client_port;
    refreshed(scratch, flow, FlowDirection::Reply, Next::TRANSLATE)
}

/// Reply direction, reverse DNAT: backend to client becomes frontend to client.
#[inline(always)]
fn reply<F: Flows>(scratch: &mut Scratch<F>, flow: &TrackedFlow<F>) -> Next {
    let record = flow.record();
    scratch.translation = Translation {
        source: F::address(record.destination),
        source_port: record.destination_port,
        destination: scratch.packet.destination,
        destination_port: record.client_port,
    };
    let next = if is_untranslated(flow) { translated_port_only(flow) } else { Next::TRANSLATE };
    refreshed(scratch, flow, FlowDirection::Reply, next)
}

/// `next`, if the record was this flow's during all reads. ICMP errors do not refresh a flow, nor do replies of a removed backend:
/// its client's next packet would not look for another one in the same tick.
#[inline(always)]
fn refreshed<F: Flows>(
    scratch: &Scratch<F>,
    flow: &TrackedFlow<F>,
    direction: FlowDirection,
    next: Next,
) -> Next {
    let is_of_removed_backend = direction == FlowDirection::Reply && needs_backend(flow, &scratch.packet);
    let is_alive = if scratch.packet.is_icmp_error() || is_of_removed_backend {
        flow.is_current()
    } else {
        flow.use_for(direction, &scratch.packet.segment(), scratch.packet.length)
    };
    if is_alive { next } else { Next::flow_ending() }
}
