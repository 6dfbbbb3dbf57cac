//! tc: the order of stages for a packet at a device.
//!
//! Dissect, look up the flow, else decide and create one, translate, verdict. A flow is translated, and its replies translated back,
//! on the client's side of the node, so that netfilter and NetworkPolicy engines see client and pod in both directions; SNAT is done
//! at the egress device towards the backend.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::abi::{DropReason, Event, EventKind};

use super::{
    report,
    stage::{self, Parsed},
};
use crate::{
    ct::Next,
    events::What,
    family::{Family, V4, V6},
    metrics,
    packet::{ClientLocation, Hook, dissect::Dissected},
};

/// The verdict on a packet.
#[must_use]
pub enum Action {
    /// Continue, translated or not.
    Pass,
    /// Drop. Counted already.
    Drop,
    /// The kernel's verdict of a redirect.
    Redirect(i32),
}

#[inline(always)]
pub fn handle(ctx: &TcContext, hook: Hook) -> Action {
    let code = stage::parse_packet(ctx.skb.skb, hook.0);
    let dissected = Dissected::of(code >> Parsed::BITS);
    match Parsed::of(code) {
        Parsed::V4 => handle_dissected::<V4>(ctx, hook, dissected),
        Parsed::V6 => handle_dissected::<V6>(ctx, hook, dissected),
        Parsed::Other => Action::Pass,
    }
}

#[inline(always)]
fn handle_dissected<F: Family>(ctx: &TcContext, hook: Hook, dissected: Dissected) -> Action {
    match dissected {
        Dissected::EarlyFragment => queue::<F>(ctx, hook),
        Dissected::FirstFragment if !hook.is_egress() && stage::release_fragments(ctx.skb.skb) == 0 => {
            count::<F>(ctx, hook, DropReason::RewriteFailed, None);
            Action::Drop
        }
        Dissected::FirstFragment | Dissected::Known | Dissected::Other => handle_packet::<F>(ctx, hook),
    }
}

/// A fragment whose ports are not known yet. At egress fragments are in order already.
#[inline(always)]
fn queue<F: Family>(ctx: &TcContext, hook: Hook) -> Action {
    if hook.is_egress() {
        return Action::Pass;
    }
    if stage::queue_fragment(ctx.skb.skb) != 0 {
        return Action::Drop;
    }
    // It may be no Service's, so it passes; if it is one, its datagram is lost.
    metrics::refused(DropReason::FragmentNotHeld, None);
    Action::Pass
}

#[inline(always)]
fn handle_packet<F: Family>(ctx: &TcContext, hook: Hook) -> Action {
    let skb = ctx.skb.skb;
    let mut next = Next(stage::look_up::<F>(skb, hook.0));
    if next.is_decide() {
        next = decide::<F>(ctx, hook, next.value());
    } else if next.is_snat() {
        next = Next(stage::masquerade::<F>(skb, next.value()));
    }
    if next.is_translate() {
        translate::<F>(ctx, hook, next)
    } else if next.is_refuse() {
        refuse::<F>(ctx, hook, next)
    } else {
        Action::Pass
    }
}

/// A packet that may create a flow, or of a flow that may need another backend. `slot` is that flow's, or `NO_FLOW`.
#[inline(always)]
fn decide<F: Family>(ctx: &TcContext, hook: Hook, slot: u32) -> Next {
    stage::identify_client::<F>(ctx.skb.skb, hook.0);
    let next = Next(stage::choose::<F>());
    if next == Next::CREATE {
        // The previous flow ends in any case.
        let created = Next(stage::create::<F>(slot));
        if !created.is_flow() {
            return created;
        }
        stage::report_flow::<F>(report::at_tc(hook) as u32, slot, report::device(ctx.skb.skb));
        Next(stage::original::<F>(created.value(), hook.0))
    } else if next.is_flow() {
        Next(stage::original::<F>(next.value(), hook.0))
    } else if slot != Next::NO_FLOW {
        // No other backend either: the flow ends, as since kube-proxy 1.37 (rule L5). Its address may be another pod's by now.
        let ended = Next(stage::end_flow::<F>(slot));
        if ended.is_refuse() { ended } else { next }
    } else {
        next
    }
}

#[inline(always)]
fn translate<F: Family>(ctx: &TcContext, hook: Hook, next: Next) -> Action {
    let skb = ctx.skb.skb;
    let mut translated = Next(stage::translate::<F>(skb));
    if next == Next::TRANSLATE_TO_ROUTER && translated == Next::PASS {
        translated = stage::address_to_router(skb);
    }
    if translated.is_refuse() {
        refuse::<F>(ctx, hook, translated)
    } else if next == Next::TRANSLATE_AND_REDIRECT {
        // The kernel's route is to the frontend's address; the backend is elsewhere.
        verdict(stage::redirect_to_backend::<F>(skb)).map_or(Action::Drop, Action::Redirect)
    } else if next == Next::TRANSLATE_AND_FORWARD {
        verdict(stage::forward::<F>(skb)).map_or(Action::Pass, Action::Redirect)
    } else {
        Action::Pass
    }
}

/// Counts a refusal, and sends a reject if the reason requires one.
#[inline(always)]
fn refuse<F: Family>(ctx: &TcContext, hook: Hook, next: Next) -> Action {
    let (reason, service) = next.refusal();
    count::<F>(ctx, hook, reason, service);
    if !reason.sends_reject() {
        return Action::Drop;
    }
    let is_on_node = hook.client() == ClientLocation::OnNode;
    verdict(stage::send_reject::<F>(ctx.skb.skb, is_on_node.into())).map_or(Action::Drop, Action::Redirect)
}

/// Counts a refusal, and reports it.
#[inline(always)]
fn count<F: Family>(ctx: &TcContext, hook: Hook, reason: DropReason, service: Option<u32>) {
    metrics::refused(reason, service);
    let what = What::new(EventKind::Refused, report::at_tc(hook), reason as u8);
    stage::report_refusal::<F>(what.0, service.unwrap_or(Event::NO_SERVICE), report::device(ctx.skb.skb));
}

/// The kernel's verdict, unless it is negative.
#[inline(always)]
fn verdict(code: i32) -> Option<i32> {
    Some(code).filter(|code| *code >= 0)
}
