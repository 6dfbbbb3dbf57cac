//! Forwarding of a frame of a known flow at XDP: next hop, both translations at once, send.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::XdpContext};
use proxy_ebpf::abi::{
    ConfigFlags, Device, DeviceFlags, Direction, FlowDirection, FlowFlags, FlowState, TupleKind, XdpOutcome,
    flow_state::tcp,
};

use crate::{
    clock, config,
    ct::{
        Flows, Lookup, Next, Scratch, TrackedFlow,
        established::{is_unanswered, may_create, needs_backend, reopens, replaced, undecided},
        lookup, snat,
    },
    fib::{
        Routes,
        next_hop::{NextHop, next_hop},
    },
    lb::{health, networks},
    packet::{
        Packet, Translation,
        frame::{FrameHeader, MacAddresses, rewrite},
        header::TCP,
    },
};

/// Index of the ingress interface.
#[inline(always)]
pub fn ingress_device(ctx: &XdpContext) -> u32 {
    // SAFETY: the kernel's own context.
    unsafe { (*ctx.ctx).ingress_ifindex }
}

/// Forwards a frame of a known flow. Returns `Next::decide` if there is none, or if the flow may need another backend.
#[inline(always)]
pub fn forward<F: Flows + FrameHeader + Routes>(ctx: &XdpContext, scratch: &mut Scratch<F>) -> Next {
    match lookup::<F>(&scratch.packet.tuple::<F>(Direction::Ingress)) {
        Lookup::Found(flow) => forward_in(ctx, scratch, &flow),
        Lookup::Dying => Next::xdp(XdpOutcome::FlowChanging),
        Lookup::NotFound if may_create(&scratch.packet) => for_node(ctx, undecided(scratch)),
        Lookup::NotFound => Next::xdp(XdpOutcome::NotOurs),
    }
}

#[inline(always)]
fn forward_in<F: Flows + FrameHeader + Routes>(
    ctx: &XdpContext,
    scratch: &mut Scratch<F>,
    flow: &TrackedFlow<F>,
) -> Next {
    let is_original = flow.kind == TupleKind::Original;
    if is_original && reopens(flow, &scratch.packet) && !is_for_node(ctx) {
        return Next::xdp(XdpOutcome::NotForNode);
    }
    if is_original && is_unanswered(flow, &scratch.packet) {
        // tc decides anew.
        return Next::xdp(XdpOutcome::FlowChanging);
    }
    let next = if is_original { replaced(scratch, flow) } else { None };
    match next {
        Some(next) if next.is_decide() => for_node(ctx, next),
        Some(_) => Next::xdp(XdpOutcome::FlowChanging),
        None => Next::xdp(send::<F>(ctx, &scratch.packet, flow).unwrap_or_else(|passed| passed)),
    }
}

/// The next step, unless the frame is for another machine.
#[inline(always)]
fn for_node(ctx: &XdpContext, next: Next) -> Next {
    if is_for_node(ctx) { next } else { Next::xdp(XdpOutcome::NotForNode) }
}

/// Whether a frame is addressed to this node. A promiscuous device receives others, too.
#[inline(always)]
fn is_for_node(ctx: &XdpContext) -> bool {
    MacAddresses::of(ctx).is_ok_and(|frame| {
        networks::device(ingress_device(ctx)).is_some_and(|device| device.router == frame.destination)
    })
}

/// Sends a frame. Everything is resolved before the first change; `Err` is the reason for passing the frame to tc.
#[inline(always)]
fn send<F: Flows + FrameHeader + Routes>(
    ctx: &XdpContext,
    packet: &Packet<F::Address>,
    flow: &TrackedFlow<F>,
) -> Result<XdpOutcome, XdpOutcome> {
    const THROUGH_STACK: [FlowFlags; 4] =
        [FlowFlags::ON_NODE, FlowFlags::HOST_CLIENT, FlowFlags::RESTEERED, FlowFlags::UNTRANSLATED];
    let record = flow.record();
    if THROUGH_STACK.into_iter().any(|flag| record.flags.contains(flag)) {
        return Err(XdpOutcome::OnNode);
    }
    let (direction, to) = match flow.kind {
        TupleKind::Original => (FlowDirection::Original, F::address(record.backend)),
        TupleKind::Reply => (FlowDirection::Reply, F::address(record.client)),
        // Tuples of egress.
        TupleKind::OriginalAfterDnat | TupleKind::ReplyAfterReverseSnat => return Err(XdpOutcome::NotOurs),
    };
    let tick = clock::ticks();
    // Routed as between the two translations.
    let hop = next_hop::<F>(ctx, packet, to, ingress_device(ctx), tick)?;
    let is_redirected = leaves_by_other_device(ctx, &hop)?;
    let translation = translation(ctx, packet, flow, hop.device)?;
    if needs_backend(flow, packet) {
        // A reply of a removed backend: see `established::refreshed`.
        return Err(XdpOutcome::FlowChanging);
    }
    if tells_health(direction, flow, packet) {
        return Err(XdpOutcome::FlowChanging);
    }
    if !flow.is_current() || !flow.use_silently(direction, &packet.segment(), packet.length) {
        return Err(XdpOutcome::FlowChanging);
    }
    rewrite::<F>(ctx, packet, &translation, hop.mac).ok_or(XdpOutcome::NeedsStack)?;
    if is_redirected {
        // SAFETY: plain numbers. Without flags it does not fail here.
        unsafe { bpf_redirect(hop.device, 0) };
    }
    Ok(match (direction, is_redirected) {
        (FlowDirection::Original, false) => XdpOutcome::SentToBackend,
        (FlowDirection::Reply, false) => XdpOutcome::SentToClient,
        (FlowDirection::Original, true) => XdpOutcome::RedirectedToBackend,
        (FlowDirection::Reply, true) => XdpOutcome::RedirectedToClient,
    })
}

/// Whether a packet is the first answer to a SYN, and tells about the health of its backend. tc notes that: an acceptance while
/// some backend is suspected, a refusal always.
#[inline(always)]
fn tells_health<F: Flows>(
    direction: FlowDirection,
    flow: &TrackedFlow<F>,
    packet: &Packet<F::Address>,
) -> bool {
    direction == FlowDirection::Reply
        && config::flags().contains(ConfigFlags::RECORDS_HEALTH)
        && packet.protocol == TCP
        && !flow.state.has(FlowState::SEEN_REPLY)
        && (packet.flags & tcp::RST != 0 || health::is_current())
}

/// Whether a frame leaves by another device than its ingress device. Errors: it is not addressed to this node, or the egress device
/// accepts no redirected frames.
#[inline(always)]
fn leaves_by_other_device(ctx: &XdpContext, hop: &NextHop) -> Result<bool, XdpOutcome> {
    let frame = MacAddresses::of(ctx)?;
    let ingress = ingress_device(ctx);
    if hop.device == ingress {
        // The source MAC address of the next hop is this device's.
        return if frame.destination == hop.mac.source { Ok(false) } else { Err(XdpOutcome::NotForNode) };
    }
    let takes_frames = |device: &Device| device.flags.contains(DeviceFlags::TAKES_FRAMES);
    if !networks::device(hop.device).is_some_and(|device| takes_frames(&device)) {
        return Err(XdpOutcome::OtherDevice);
    }
    if is_for_node(ctx) { Ok(true) } else { Err(XdpOutcome::NotForNode) }
}

/// The combined translation: DNAT and SNAT, or the reverse of both.
#[inline(always)]
fn translation<F: Flows>(
    ctx: &XdpContext,
    packet: &Packet<F::Address>,
    flow: &TrackedFlow<F>,
    device: u32,
) -> Result<Translation<F::Address>, XdpOutcome> {
    let record = flow.record();
    if flow.kind == TupleKind::Reply {
        return Ok(Translation {
            source: F::address(record.destination),
            source_port: record.destination_port,
            destination: F::address(record.client),
            destination_port: record.client_port,
        });
    }
    let mut translation = Translation {
        source: packet.source,
        source_port: record.translated_port,
        destination: F::address(record.backend),
        destination_port: record.backend_port,
    };
    if record.flags.contains(FlowFlags::MASQUERADE) {
        snat::ensure_source(ctx.ctx.cast(), device, flow).map_err(|_| XdpOutcome::NoMasqueradeSource)?;
        translation.source = F::address(record.masquerade);
        translation.source_port = record.masquerade_port;
    }
    Ok(translation)
}
