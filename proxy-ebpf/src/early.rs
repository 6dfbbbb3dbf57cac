//! The early plane: what goes on to another machine leaves before the kernel has made anything of it.
//!
//! Parse → find the flow, or decide and begin one → the way to the other end → translate both ends at once → send. Flows
//! and decisions are the packet plane's: what is not sent here is left to it untouched and uncounted, so a flow may go one
//! way or the other with any of its packets.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_redirect, programs::XdpContext};
use proxy_ebpf::abi::{DeviceFlags, Direction, FlowDirection, FlowFlags, TupleKind, XdpOutcome};

use crate::{
    begin, clock,
    conntrack::{Found, Tracked, find},
    family::{V4, V6},
    follow::{begins_anew, may_begin, may_move},
    frame::{Header, Link, rewrite},
    masquerade, metrics,
    nat::Ends,
    network,
    next_hop::{self, NextHop},
    packet::{self, ETHERNET, Packet, at},
    stage::{Parsed, Step, work_v4, work_v6},
};

#[inline(always)]
pub fn handle(ctx: &XdpContext) -> XdpOutcome {
    let outcome = match Parsed::of(parse_frame(ctx.ctx)) {
        Parsed::V4 => handle_of::<V4>(ctx),
        Parsed::V6 => handle_of::<V6>(ctx),
        Parsed::Other => XdpOutcome::NotOurs,
    };
    metrics::early(outcome);
    outcome
}

#[inline(always)]
fn handle_of<F: Early>(ctx: &XdpContext) -> XdpOutcome {
    let step = F::send_on(ctx.ctx);
    if step.is_early() {
        return XdpOutcome::of(step.value() as u8);
    }
    let known = step.value();
    F::ask_early(device(ctx));
    let mut step = F::choose();
    if step == Step::CHOSEN {
        step = F::begin(known);
    }
    if step.is_refuse() {
        return XdpOutcome::Refused;
    } else if !step.is_flow() {
        return XdpOutcome::NotOurs;
    }
    // Now it is one of a flow.
    let step = F::send_on(ctx.ctx);
    if step.is_early() { XdpOutcome::of(step.value() as u8) } else { XdpOutcome::FlowChanging }
}

/// The index of the device that the frame came in by.
#[inline(always)]
fn device(ctx: &XdpContext) -> u32 {
    // SAFETY: the kernel's own context.
    unsafe { (*ctx.ctx).ingress_ifindex }
}

/// Sends on a packet of a known flow; `Step::decide` if there is none, or one that may need another backend.
#[inline(always)]
fn send_on<F: Early>(ctx: &XdpContext, packet: &Packet<F::Address>) -> Step {
    match find::<F>(&packet.tuple::<F>(Direction::Ingress)) {
        Found::Flow(flow) if flow.kind == TupleKind::Original && begins_anew(&flow, packet) => {
            if flow.end() {
                Step::decide(Step::NOBODY)
            } else {
                Step::early(XdpOutcome::FlowChanging)
            }
        }
        Found::Flow(flow) if flow.kind == TupleKind::Original && may_move(&flow, packet) => {
            Step::decide(flow.slot)
        }
        Found::Flow(flow) => Step::early(send::<F>(ctx, packet, &flow).unwrap_or_else(|passed| passed)),
        Found::Ending => Step::early(XdpOutcome::FlowChanging),
        Found::Nothing if may_begin(packet) => Step::decide(Step::NOBODY),
        Found::Nothing => Step::early(XdpOutcome::NotOurs),
    }
}

/// Nothing is changed before all is known; `Err` says why the packet is left to the packet plane.
#[inline(always)]
fn send<F: Early>(
    ctx: &XdpContext,
    packet: &Packet<F::Address>,
    flow: &Tracked<F>,
) -> Result<XdpOutcome, XdpOutcome> {
    const THROUGH_STACK: [FlowFlags; 4] =
        [FlowFlags::ON_NODE, FlowFlags::HOST_CLIENT, FlowFlags::RESTEERED, FlowFlags::UNTRANSLATED];
    let record = flow.record();
    if THROUGH_STACK.into_iter().any(|flag| record.flags.contains(flag)) {
        return Err(XdpOutcome::OnNode);
    }
    let (way, to) = match flow.kind {
        TupleKind::Original => (FlowDirection::Original, F::address(record.backend)),
        TupleKind::Reply => (FlowDirection::Reply, F::address(record.client)),
        // Nothing like that comes in.
        TupleKind::OriginalAfterDnat | TupleKind::ReplyAfterReverseSnat => return Err(XdpOutcome::NotOurs),
    };
    let tick = clock::ticks();
    // As it is sent between the two translations.
    let hop = next_hop::find::<F>(ctx, packet, to, device(ctx), tick)?;
    let is_redirected = leaves_elsewhere(ctx, &hop)?;
    let ends = ends(ctx, packet, flow, hop.device)?;
    if !flow.is_still_there() || !flow.refresh(way, packet.flags, tick) {
        return Err(XdpOutcome::FlowChanging);
    }
    rewrite::<F>(ctx, packet, &ends, hop.link).ok_or(XdpOutcome::NeedsStack)?;
    if is_redirected {
        // SAFETY: plain numbers. Without flags it does not fail here.
        unsafe { bpf_redirect(hop.device, 0) };
    }
    Ok(match (way, is_redirected) {
        (FlowDirection::Original, false) => XdpOutcome::SentToBackend,
        (FlowDirection::Reply, false) => XdpOutcome::SentToClient,
        (FlowDirection::Original, true) => XdpOutcome::RedirectedToBackend,
        (FlowDirection::Reply, true) => XdpOutcome::RedirectedToClient,
    })
}

/// Whether the frame, which must be for this node, leaves by another device than it came in by.
#[inline(always)]
fn leaves_elsewhere(ctx: &XdpContext, hop: &NextHop) -> Result<bool, XdpOutcome> {
    let frame = Link::of(ctx)?;
    let came_in_by = device(ctx);
    if hop.device == came_in_by {
        // What leaves is sent as this device.
        return if frame.destination == hop.link.source { Ok(false) } else { Err(XdpOutcome::NotForNode) };
    }
    let takes_frames = |device: &proxy_ebpf::abi::Device| device.flags.contains(DeviceFlags::TAKES_FRAMES);
    if !network::device(hop.device).is_some_and(|device| takes_frames(&device)) {
        return Err(XdpOutcome::OtherDevice);
    }
    let is_for_node = network::device(came_in_by).is_some_and(|device| device.router == frame.destination);
    if is_for_node { Ok(true) } else { Err(XdpOutcome::NotForNode) }
}

/// Both ends as the other side is to see them.
#[inline(always)]
fn ends<F: Early>(
    ctx: &XdpContext,
    packet: &Packet<F::Address>,
    flow: &Tracked<F>,
    device: u32,
) -> Result<Ends<F::Address>, XdpOutcome> {
    let record = flow.record();
    if flow.kind == TupleKind::Reply {
        return Ok(Ends {
            source: F::address(record.destination),
            source_port: record.destination_port,
            destination: F::address(record.client),
            destination_port: record.client_port,
        });
    }
    let mut ends = Ends {
        source: packet.source,
        source_port: record.translated_port,
        destination: F::address(record.backend),
        destination_port: record.backend_port,
    };
    if record.flags.contains(FlowFlags::MASQUERADE) {
        masquerade::settle(ctx.ctx.cast(), device, flow).map_err(|_| XdpOutcome::NoMasqueradeSource)?;
        ends.source = F::address(record.masquerade);
        ends.source_port = record.masquerade_port;
    }
    Ok(ends)
}

/// What comes in without a tag, and with an Ethernet header, for the family it says.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn parse_frame(xdp: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(xdp);
    let ethertype = at::<[u8; 2]>(&ctx, ETHERNET - 2).map(u16::from_be_bytes);
    match ethertype {
        Some(packet::IPV4) => {
            work_v4().is_some_and(|work| packet::parse_v4(&ctx, &mut work.packet)).then_some(Parsed::V4)
        }
        Some(packet::IPV6) => {
            work_v6().is_some_and(|work| packet::parse_v6(&ctx, &mut work.packet)).then_some(Parsed::V6)
        }
        Some(_) | None => None,
    }
    .unwrap_or(Parsed::Other)
    .code()
}

/// The stages that differ from the packet plane's, see `stage`.
trait Early: Header {
    fn send_on(xdp: *mut xdp_md) -> Step;
    fn ask_early(device: u32);
}

macro_rules! stages {
    ($family:ident, $work:ident, $send_on:ident, $ask_early:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $send_on(xdp: *mut xdp_md) -> u64 {
            let unsettled = Step::early(XdpOutcome::FlowChanging);
            $work().map_or(unsettled, |work| send_on::<$family>(&XdpContext::new(xdp), &work.packet)).0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $ask_early(device: u32) -> u64 {
            if let Some(work) = $work() {
                begin::ask_early(work, device);
            }
            0
        }

        impl Early for $family {
            #[inline(always)]
            fn send_on(xdp: *mut xdp_md) -> Step {
                Step($send_on(xdp))
            }

            #[inline(always)]
            fn ask_early(device: u32) {
                $ask_early(device);
            }
        }
    };
}

stages!(V4, work_v4, send_on_v4, ask_early_v4);
stages!(V6, work_v6, send_on_v6, ask_early_v6);
