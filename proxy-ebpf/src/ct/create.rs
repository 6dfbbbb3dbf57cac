//! Creation of a flow by the first packet: its client, the decision, the record.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::abi::{
    BackendFlags, BackendRef, DescriptorFlags, Direction, DropReason, Endpoint, FlowFlags, FlowState,
    HealthChange, MASQUERADE_NONE, Positions, TupleKind, Unclaimed,
};

use super::{
    Flows, Next, Scratch, counters,
    insert::{UnconfirmedFlow, other_port},
    table::{Lookup, flow_in, lookup},
};
use crate::{
    family::bytes,
    lb::{Backend, Choice, ClientInfo, Decision, decide, frontend, health},
    metrics,
    packet::{
        ClientLocation, Hook, Packet,
        header::{SCTP, TCP, UDP},
    },
    socket::connected,
};

/// Identifies the client of a packet at tc, and the destination to decide about.
#[inline(always)]
pub fn identify_client<F: Flows>(ctx: &TcContext, scratch: &mut Scratch<F>, hook: Hook) {
    // SAFETY: the kernel's own context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    scratch.client = ClientInfo::new(scratch.packet.source, hook.client(), device);
    let socket = socket_of::<F>(ctx, &scratch.packet, hook);
    scratch.client.is_translated_at_socket = matches!(socket, SendingSocket::Translated).into();
    let resteered =
        if let SendingSocket::Stale(address, port) = socket { Some((address, port)) } else { None };
    let resteered = resteered.or_else(|| unanswered_socket::<F>(ctx, scratch, hook));
    scratch.client.is_resteered = resteered.is_some().into();
    scratch.client.is_in_pod = hook.is_pod().into();
    (scratch.destination, scratch.destination_port) =
        resteered.unwrap_or((scratch.packet.destination, scratch.packet.destination_port));
}

/// Identifies the client of a frame at XDP.
#[inline(always)]
pub fn identify_client_at_xdp<F: Flows>(scratch: &mut Scratch<F>, device: u32) {
    scratch.client = ClientInfo::new(scratch.packet.source, ClientLocation::BehindDevice, device);
    (scratch.destination, scratch.destination_port) =
        (scratch.packet.destination, scratch.packet.destination_port);
}

/// Decides about a packet whose client is known.
#[inline(always)]
pub fn choose<F: Flows>(scratch: &mut Scratch<F>) -> Next {
    match decide::<F, _>(
        scratch.destination,
        scratch.destination_port,
        scratch.packet.protocol,
        &scratch.client,
    ) {
        Decision::Backend(choice) if choice.reference == scratch.unanswered => keep(scratch),
        Decision::Backend(choice) => {
            scratch.choice = choice;
            Next::CREATE
        }
        // The socket's own backend may answer yet.
        Decision::Refuse(..) | Decision::NotOurs if is_unanswered_socket(scratch) => keep(scratch),
        Decision::Refuse(reason, service) => Next::refuse(reason, service),
        // Passed on, the packet would go to the removed backend's address, which may be another pod's by now.
        Decision::NotOurs if scratch.client.is_resteered != 0 => {
            Next::refuse(DropReason::FrontendRemoved, None)
        }
        Decision::NotOurs => match unclaimed::<F>(&scratch.client, scratch.packet.destination) {
            Some(reason) => Next::refuse(reason, None),
            None => not_service_traffic(scratch),
        },
    }
}

/// Leaves a SYN that was not answered at its backend: no other one is sound.
#[inline(always)]
fn keep<F: Flows>(scratch: &Scratch<F>) -> Next {
    match scratch.unanswered_slot {
        Next::NO_FLOW => Next::PASS,
        slot => Next::flow(slot),
    }
}

#[inline(always)]
fn is_unanswered_socket<F: Flows>(scratch: &Scratch<F>) -> bool {
    scratch.client.is_resteered != 0 && scratch.packet.protocol == TCP
}

/// Traffic that is not a Service's is tracked without translation of addresses where its replies would be taken for a Service's: UDP
/// that the node itself sends from a port that is also a NodePort (replies of TCP are no SYN), and connections of a client directly to
/// a backend from a port from which it also reaches that backend through a frontend.
#[inline(always)]
fn not_service_traffic<F: Flows>(scratch: &mut Scratch<F>) -> Next {
    let has_conflict = has_conflicting_flow(scratch);
    let Packet { source, source_port, destination, destination_port, protocol, .. } = scratch.packet;
    let is_ambiguous = has_conflict
        || (scratch.client.is_on_node != 0
            && protocol == UDP
            && frontend::is_node_port::<F>(source, source_port, protocol));
    if !is_ambiguous {
        return Next::PASS;
    }
    let backend =
        Backend { address: destination, port: destination_port, flags: BackendFlags::default(), service: 0 };
    scratch.choice = Choice {
        backend,
        reference: BackendRef::default(),
        frontend: 0,
        flags: DescriptorFlags::default(),
        has_affinity: 0,
    };
    scratch.client.is_untranslated = 1;
    Next::CREATE
}

/// Whether replies to a SYN or a datagram would be taken for those of a Service's flow from the same port. UDP has no numbers by
/// which a direct datagram could be told from a translated one that is seen at another device again (a bridge), but at a pod's own
/// device no translated one enters. SCTP cannot get another port.
///
/// The flow of a closed, re-steered socket that had the port of this socket, and now the same backend, is deleted instead.
#[inline(always)]
fn has_conflicting_flow<F: Flows>(scratch: &Scratch<F>) -> bool {
    if scratch.packet.protocol == SCTP {
        return false;
    }
    let direction = if scratch.client.is_on_node != 0 { Direction::Ingress } else { Direction::Egress };
    let Lookup::Found(flow) = lookup::<F>(&scratch.packet.reply_tuple::<F>(direction)) else { return false };
    let flags = flow.record().flags;
    if flow.kind != TupleKind::ReplyAfterReverseSnat || flags.contains(FlowFlags::UNTRANSLATED) {
        return false;
    }
    if scratch.client.is_translated_at_socket != 0 {
        if flags.contains(FlowFlags::RESTEERED) {
            let _ = flow.delete();
        }
        return false;
    }
    if scratch.packet.protocol == UDP {
        return scratch.client.is_at_first_hop();
    }
    // The flow's own SYN, translated already, has its number, or has put the flow in doubt.
    let is_own = flow.state.has(FlowState::IN_DOUBT)
        || (!flow.state.is_assured() && scratch.packet.segment().begins_at(flow.positions().client));
    flow.is_followed() && !is_own
}

/// Creates the flow that was decided on. `replaced` is the slot of a flow that it replaces, or `NO_FLOW`.
#[inline(always)]
pub fn create<F: Flows>(scratch: &mut Scratch<F>, replaced: u32) -> Next {
    let service = scratch.choice.backend.service;
    if replaced != Next::NO_FLOW && !delete_judged(scratch, replaced) {
        return Next::refuse(DropReason::FlowEnding, Some(service));
    }
    match insert(scratch) {
        Ok(slot) => {
            // A connection that goes on at another backend is counted already.
            let is_unanswered = scratch.unanswered.generation != 0;
            if is_unanswered {
                health::count(HealthChange::RESTEERED);
            } else if scratch.client.is_untranslated == 0 {
                metrics::translated(service);
            }
            Next::flow(slot)
        }
        Err(reason) => Next::refuse(reason, Some(service)),
    }
}

/// Deletes the flow that was judged to need another backend. Its slot may hold another by now, which is not touched.
#[inline(always)]
fn delete_judged<F: Flows>(scratch: &Scratch<F>, slot: u32) -> bool {
    flow_in::<F>(slot).is_some_and(|flow| flow.state.tag() == scratch.judged && flow.delete())
}

#[inline(always)]
fn insert<F: Flows>(scratch: &Scratch<F>) -> Result<u32, DropReason> {
    let Scratch { packet, choice, client, is_port_taken, .. } = scratch;
    if packet.protocol == SCTP && choice.backend.port != packet.destination_port {
        return Err(DropReason::SctpPortDiffers);
    }
    let mut unconfirmed = UnconfirmedFlow::<F>::new()?;
    let record = unconfirmed.record();
    record.masquerade_state = MASQUERADE_NONE;
    record.client = F::bytes(packet.source);
    record.destination = F::bytes(packet.destination);
    record.backend = F::bytes(choice.backend.address);
    record.client_port = packet.source_port;
    record.destination_port = packet.destination_port;
    record.backend_port = choice.backend.port;
    record.translated_port = match *is_port_taken {
        0 => packet.source_port,
        _ => other_port(packet.source_port),
    };
    record.protocol = packet.protocol;
    record.flags = flags::<F>(choice, client).with(FlowFlags::FOLLOWED, packet.protocol == TCP);
    record.frontend = choice.frontend;
    record.service = choice.backend.service;
    record.reference = choice.reference;
    // Of other protocols it has no meaning.
    record.positions = Positions { client: Positions::of(packet.sequence), backend: 0 };
    counters::begin::<F>(unconfirmed.slot(), choice.backend.service);
    unconfirmed.confirm()
}

/// The socket that sent a packet, as far as it matters.
enum SendingSocket<A> {
    /// No connected UDP socket that was translated at connect.
    Other,
    /// Translated at connect; its backend is alive.
    Translated,
    /// Translated at connect to a backend that was removed. The frontend it connected to.
    Stale(A, [u8; 2]),
}

#[inline(always)]
fn socket_of<F: Flows>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    hook: Hook,
) -> SendingSocket<F::Address> {
    if packet.protocol != UDP || !(hook.is_pod() || hook.is_egress()) {
        return SendingSocket::Other;
    }
    // SAFETY: the kernel's own context; a packet from a pod still has its socket at the pod device.
    let Some(pair) = connected::of_sender(unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk }, UDP) else {
        return SendingSocket::Other;
    };
    let destination = Endpoint::new(bytes(F::mapped(packet.destination)), packet.destination_port);
    if pair.backend != destination {
        SendingSocket::Other
    } else if F::backend(pair.reference).is_some() {
        SendingSocket::Translated
    } else {
        SendingSocket::Stale(F::from_mapped(pair.frontend.address), pair.frontend.port)
    }
}

/// The frontend of the TCP socket that sent a SYN, if the socket was translated at connect and its backend did not answer the SYN. Read
/// only while some backend is suspected, as that one is.
#[inline(always)]
fn unanswered_socket<F: Flows>(
    ctx: &TcContext,
    scratch: &mut Scratch<F>,
    hook: Hook,
) -> Option<(F::Address, [u8; 2])> {
    let packet = &scratch.packet;
    if packet.protocol != TCP || !(hook.is_pod() || hook.is_egress()) || !health::is_decisive() {
        return None;
    }
    // SAFETY: the kernel's own context; a packet from a pod still has its socket at the pod device.
    let stored = connected::unanswered(unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk })?;
    // SAFETY: not null, and valid as long as the socket. The pair is written at connect, before the SYN.
    let pair = unsafe { &(*stored).pair };
    let destination = Endpoint::new(bytes(F::mapped(packet.destination)), packet.destination_port);
    if pair.backend != destination {
        return None;
    }
    if scratch.unanswered.generation == 0 {
        scratch.unanswered = pair.reference;
    }
    Some((F::from_mapped(pair.frontend.address), pair.frontend.port))
}

/// The flags of a new flow. Hairpin is decided here: a backend that reaches itself through a frontend is masqueraded, as it would
/// otherwise reply to its own address directly, not as the frontend.
#[inline(always)]
pub fn flags<F: Flows>(choice: &Choice<F::Address>, client: &ClientInfo<F>) -> FlowFlags {
    let is_resteered = client.is_resteered != 0;
    let by_policy = !is_resteered && client.is_masqueraded(choice.flags);
    let is_local = choice.backend.flags.contains(BackendFlags::LOCAL);
    let is_hairpin = is_local && F::is_same(F::bytes(choice.backend.address), F::bytes(client.address));
    FlowFlags::default()
        .with(FlowFlags::MASQUERADE, by_policy || is_hairpin)
        .with(FlowFlags::HOST_CLIENT, client.is_on_node != 0)
        .with(FlowFlags::RESTEERED, is_resteered)
        .with(FlowFlags::UNTRANSLATED, client.is_untranslated != 0)
        .with(FlowFlags::AFFINITY, choice.has_affinity != 0)
        .with(FlowFlags::ON_NODE, is_local || client.is_node() || client.is_in_pod != 0)
}

/// The refusal of packets to a Service address and port without a frontend, which must not leave the node either. For clients
/// other than the node, an address of the node is the node's.
#[inline(always)]
pub fn unclaimed<F: Flows>(client: &ClientInfo<F>, destination: F::Address) -> Option<DropReason> {
    let unclaimed = F::unclaimed(destination)?;
    if !client.is_node() && F::node_address(destination).is_some() {
        return None;
    }
    Some(match unclaimed {
        Unclaimed::UndefinedPort => DropReason::UndefinedPort,
        Unclaimed::Unallocated => DropReason::UnallocatedAddress,
    })
}
