//! Entry points. cgroup hooks return 1 to let the system call proceed, 0 to refuse it with the errno set before. tc programs return
//! `TC_ACT_UNSPEC` to pass the packet to the next program at the hook.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{cgroup_sock_addr, classifier, sock_ops, xdp},
    programs::{SockAddrContext, SockOpsContext, TcContext, XdpContext},
};

use proxy_ebpf::abi::{DeviceRole, Direction, XdpOutcome};

use super::{
    cgroup::{self, SyscallOutcome},
    explain, inject, loopback, sock_ops as connections,
    socket_iterator::{self, Selection, SocketIteration},
    tc::{self, Action},
    xdp,
};
use crate::{
    ct::{adopt, sweep},
    packet::Hook,
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
    verdict(cgroup::connect4(&ctx))
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    verdict(cgroup::connect6(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    verdict(cgroup::sendmsg4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    verdict(cgroup::sendmsg6(&ctx))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    cgroup::recvmsg4(&ctx);
    PROCEED
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    cgroup::recvmsg6(&ctx);
    PROCEED
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    cgroup::getpeername4(&ctx);
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    cgroup::getpeername6(&ctx);
    PROCEED
}

/// Returning 0 lets the iteration go on.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn read_sockets(ctx: *mut SocketIteration) -> i32 {
    socket_iterator::handle(ctx);
    0
}

/// Returning 0 lets the iteration go on, also after what finds no room, which the kernel repeats.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn list_sockets(ctx: *mut SocketIteration) -> i32 {
    socket_iterator::list(ctx, Selection::All);
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn list_stale_sockets(ctx: *mut SocketIteration) -> i32 {
    socket_iterator::list(ctx, Selection::Stale);
    0
}

/// 1 lets the kernel use its own values where it asks for one.
#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    connections::handle(&ctx);
    1
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

#[classifier]
pub fn tc_loopback_egress(ctx: TcContext) -> i32 {
    tc_verdict(loopback::handle(&ctx))
}

#[inline(always)]
fn at_device(ctx: &TcContext, role: DeviceRole, direction: Direction) -> i32 {
    tc_verdict(tc::handle(ctx, Hook::new(role, direction)))
}

#[inline(always)]
fn tc_verdict(action: Action) -> i32 {
    match action {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        Action::Redirect(code) => code,
    }
}

/// With multi-buffer support; only the first buffer is parsed.
#[xdp(frags)]
pub fn xdp_external(ctx: XdpContext) -> u32 {
    match xdp::handle(&ctx) {
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

/// Run once by the agent; the timer restarts itself.
#[classifier]
pub fn start_sweeper(_: TcContext) -> i32 {
    sweep::start()
}

/// Run by the agent, with the first record's number in the first four bytes of the packet.
#[classifier]
pub fn adopt_flows(ctx: TcContext) -> i32 {
    match ctx.load::<u32>(0) {
        Ok(first) => {
            adopt::adopt(first);
            0
        }
        Err(_) => -1,
    }
}

/// Run by the agent on a frame, for the device of the packet. Returns 0, or the error of the device.
#[classifier]
pub fn inject_segment(ctx: TcContext) -> i32 {
    inject::handle(&ctx)
}

/// Run by `portreeve explain`, with a question in the packet, which the answer replaces.
#[classifier]
pub fn explain_packet(ctx: TcContext) -> i32 {
    explain::packet(&ctx)
}

/// As `explain_packet`, about a socket in connect.
#[classifier]
pub fn explain_socket(ctx: TcContext) -> i32 {
    explain::socket(&ctx)
}

const REFUSE: i32 = 0;
const PROCEED: i32 = 1;

#[inline(always)]
fn verdict(outcome: SyscallOutcome) -> i32 {
    match outcome {
        SyscallOutcome::Unchanged | SyscallOutcome::Translated => PROCEED,
        SyscallOutcome::Refused => REFUSE,
    }
}
