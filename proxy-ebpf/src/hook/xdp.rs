//! XDP: packets between other machines are translated and sent before the kernel allocates an skb.
//!
//! Parse, look up the flow, else decide and create one, resolve the next hop, apply DNAT and SNAT (or their reverse) at once, send.
//! Flows and decisions are those of tc: a frame that is not sent here passes to tc, unchanged and uncounted, so each packet of a flow
//! may take either path.

use aya_ebpf::programs::XdpContext;
use proxy_ebpf::abi::{EventHook, XdpOutcome};

use super::{
    forward::ingress_device,
    stage::{self, Parsed},
};
use crate::{
    ct::Next,
    family::{Family, V4, V6},
    metrics,
};

#[inline(always)]
pub fn handle(ctx: &XdpContext) -> XdpOutcome {
    let outcome = match Parsed::of(stage::parse_frame(ctx.ctx)) {
        Parsed::V4 => handle_frame::<V4>(ctx),
        Parsed::V6 => handle_frame::<V6>(ctx),
        Parsed::Other => XdpOutcome::NotOurs,
    };
    metrics::xdp(outcome);
    outcome
}

#[inline(always)]
fn handle_frame<F: Family>(ctx: &XdpContext) -> XdpOutcome {
    let next = Next(stage::forward_frame::<F>(ctx.ctx));
    if next.is_xdp() {
        return XdpOutcome::of(next.value() as u8);
    }
    let replaced = next.value();
    stage::identify_client_at_xdp::<F>(ingress_device(ctx));
    let mut next = Next(stage::choose::<F>());
    if next == Next::CREATE {
        next = Next(stage::create::<F>(replaced));
    }
    if next.is_refuse() {
        return XdpOutcome::Refused;
    } else if !next.is_flow() {
        return XdpOutcome::NotOurs;
    }
    stage::report_flow::<F>(EventHook::Xdp as u32, replaced, ingress_device(ctx));
    // Now the flow exists.
    let next = Next(stage::forward_frame::<F>(ctx.ctx));
    if next.is_xdp() { XdpOutcome::of(next.value() as u8) } else { XdpOutcome::FlowChanging }
}
