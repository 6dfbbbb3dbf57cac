//! Entry points. Sockets: a return value of 1 lets the system call go on, 0 refuses it with the errno set before.
//! Packets: `TC_ACT_UNSPEC` hands the packet to whoever is next at the hook.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};

use proxy_ebpf::abi::{DeviceRole, Direction, XdpOutcome};

use crate::{
    early,
    sock::{self, Outcome},
    sweep,
    tc::{self, Action, Place},
};

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    verdict(sock::connect4(&ctx))
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    verdict(sock::connect6(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    verdict(sock::sendmsg4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    verdict(sock::sendmsg6(&ctx))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::recvmsg4(&ctx);
    GO_ON
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::recvmsg6(&ctx);
    GO_ON
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    sock::getpeername4(&ctx);
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    sock::getpeername6(&ctx);
    GO_ON
}

#[classifier]
pub fn tc_external_ingress(ctx: TcContext) -> i32 {
    at_device(&ctx, DeviceRole::External, Direction::Ingress)
}

#[classifier]
pub fn tc_external_egress(ctx: TcContext) -> i32 {
    at_device(&ctx, DeviceRole::External, Direction::Egress)
}

#[classifier]
pub fn tc_pod_ingress(ctx: TcContext) -> i32 {
    at_device(&ctx, DeviceRole::Pod, Direction::Ingress)
}

#[classifier]
pub fn tc_pod_egress(ctx: TcContext) -> i32 {
    at_device(&ctx, DeviceRole::Pod, Direction::Egress)
}

#[inline(always)]
fn at_device(ctx: &TcContext, role: DeviceRole, direction: Direction) -> i32 {
    match tc::handle(ctx, Place::new(role, direction)) {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        Action::Redirect(code) => code,
    }
}

/// In pieces where a frame does not fit into one: only the first is looked at.
#[xdp(frags)]
pub fn xdp_external(ctx: XdpContext) -> u32 {
    match early::handle(&ctx) {
        XdpOutcome::SentToBackend | XdpOutcome::SentToClient => xdp_action::XDP_TX,
        XdpOutcome::RedirectedToBackend | XdpOutcome::RedirectedToClient => xdp_action::XDP_REDIRECT,
        XdpOutcome::NotOurs
        | XdpOutcome::OnNode
        | XdpOutcome::Refused
        | XdpOutcome::FlowChanging
        | XdpOutcome::NeedsStack
        | XdpOutcome::NotForNode
        | XdpOutcome::NoRoute
        | XdpOutcome::NoNeighbour
        | XdpOutcome::TooLarge
        | XdpOutcome::OtherDevice
        | XdpOutcome::NoMasqueradeSource => xdp_action::XDP_PASS,
    }
}

/// Run once by the agent; the timer goes on by itself.
#[classifier]
pub fn start_sweeper(_: TcContext) -> i32 {
    sweep::start()
}

const REFUSE: i32 = 0;
const GO_ON: i32 = 1;

#[inline(always)]
fn verdict(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Untouched | Outcome::Translated => GO_ON,
        Outcome::Refused => REFUSE,
    }
}
