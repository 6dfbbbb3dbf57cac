//! The packet plane: what becomes of a packet at a device.
//!
//! Parse → find the flow, or decide and begin one → translate → verdict. A flow is translated and translated back on its
//! client's side of the node, so that the node's own firewall and NetworkPolicy engines see client and pod both ways; the
//! masquerade, where there is one, happens at the device that leads to the backend.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::abi::{DeviceRole, Direction, DropReason};

use crate::{
    dissect::Dissected,
    family::{Family, V4, V6},
    metrics,
    reject::ClientAt,
    stage::{self, Parsed, Step},
};

/// What becomes of a packet.
#[must_use]
pub enum Action {
    /// On its way, translated or not.
    Pass,
    /// Lost, and counted.
    Drop,
    /// To another device; the kernel's answer to the request.
    Redirect(i32),
}

/// Where a packet is met.
#[derive(Clone, Copy)]
pub struct Place(pub u32);

impl Place {
    const POD: u32 = 1;
    const EGRESS: u32 = 2;

    #[inline(always)]
    pub const fn new(role: DeviceRole, direction: Direction) -> Self {
        let role = if matches!(role, DeviceRole::Pod) { Self::POD } else { 0 };
        let direction = if matches!(direction, Direction::Egress) { Self::EGRESS } else { 0 };
        Self(role | direction)
    }

    #[inline(always)]
    pub fn is_pod(self) -> bool {
        self.0 & Self::POD != 0
    }

    #[inline(always)]
    pub fn is_egress(self) -> bool {
        self.0 & Self::EGRESS != 0
    }

    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.is_egress() { Direction::Egress } else { Direction::Ingress }
    }

    /// A client whose packets begin a flow here.
    #[inline(always)]
    pub fn client(self) -> ClientAt {
        if self.is_egress() { ClientAt::OnNode } else { ClientAt::BehindDevice }
    }
}

#[inline(always)]
pub fn handle(ctx: &TcContext, place: Place) -> Action {
    let code = stage::parse_packet(ctx.skb.skb);
    let dissected = Dissected::of(code >> Parsed::BITS);
    match Parsed::of(code) {
        Parsed::V4 => receive::<V4>(ctx, place, dissected),
        Parsed::V6 => receive::<V6>(ctx, place, dissected),
        Parsed::Other => Action::Pass,
    }
}

#[inline(always)]
fn receive<F: Family>(ctx: &TcContext, place: Place, dissected: Dissected) -> Action {
    match dissected {
        Dissected::Early => early(ctx, place),
        Dissected::First if !place.is_egress() && stage::release(ctx.skb.skb) == 0 => {
            metrics::refused(DropReason::RewriteFailed, None);
            Action::Drop
        }
        Dissected::First | Dissected::Known | Dissected::Other => handle_of::<F>(ctx, place),
    }
}

/// A fragment of which nobody knows yet whose it is. What leaves the node came in, or was made, in the right order.
#[inline(always)]
fn early(ctx: &TcContext, place: Place) -> Action {
    if place.is_egress() {
        return Action::Pass;
    }
    if stage::hold(ctx.skb.skb) != 0 {
        return Action::Drop;
    }
    // It may be anybody's, so it goes on; if it is one of a Service's, its datagram is lost.
    metrics::refused(DropReason::FragmentNotHeld, None);
    Action::Pass
}

#[inline(always)]
fn handle_of<F: Family>(ctx: &TcContext, place: Place) -> Action {
    let skb = ctx.skb.skb;
    let mut step = F::look_up(skb, place);
    if step.is_decide() {
        step = decide::<F>(ctx, place, step.value());
    } else if step.is_masquerade() {
        step = F::masquerade(skb, step.value());
    }
    if step.is_translate() {
        translate::<F>(ctx, place, step)
    } else if step.is_refuse() {
        refuse::<F>(ctx, place, step)
    } else {
        Action::Pass
    }
}

/// A packet that may begin a flow, or one of a flow that may need another backend.
#[inline(always)]
fn decide<F: Family>(ctx: &TcContext, place: Place, known: u32) -> Step {
    F::ask(ctx.skb.skb, place);
    let step = F::choose();
    if step == Step::CHOSEN {
        // Whatever comes of it, what was known has ended.
        let begun = F::begin(known);
        if begun.is_flow() { F::carry_on(begun.value(), place) } else { begun }
    } else if known != Step::NOBODY {
        // Nobody else can have it either (kube-proxy's rule L5).
        F::carry_on(known, place)
    } else {
        step
    }
}

#[inline(always)]
fn translate<F: Family>(ctx: &TcContext, place: Place, step: Step) -> Action {
    let mut translated = F::translate(ctx.skb.skb);
    if step == Step::TRANSLATE_AND_TURN && translated == Step::PASS {
        translated = Step(stage::turn_to_router(ctx.skb.skb));
    }
    if translated.is_refuse() {
        refuse::<F>(ctx, place, translated)
    } else if step == Step::TRANSLATE_AND_ROUTE {
        // The kernel chose the way to what was dialled; the backend is elsewhere.
        F::redirect(ctx.skb.skb).map_or(Action::Drop, Action::Redirect)
    } else if step == Step::TRANSLATE_AND_SEND_ON {
        F::pass_on(ctx.skb.skb).map_or(Action::Pass, Action::Redirect)
    } else {
        Action::Pass
    }
}

/// Counts a refusal, and tells the client where it is to be told.
#[inline(always)]
fn refuse<F: Family>(ctx: &TcContext, place: Place, step: Step) -> Action {
    let (reason, service) = step.refusal();
    metrics::refused(reason, service);
    if !reason.sends_reject() {
        return Action::Drop;
    }
    F::reject(ctx.skb.skb, place.client()).map_or(Action::Drop, Action::Redirect)
}
