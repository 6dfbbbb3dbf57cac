//! Entry points. Sockets: a return value of 1 lets the system call go on, 0 refuses it with the errno set before.
//! Packets: `TC_ACT_UNSPEC` hands the packet to whoever is next at the hook.

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};

use crate::sock::{self, Outcome};

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
pub fn tc_external_ingress(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[classifier]
pub fn tc_external_egress(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[classifier]
pub fn tc_pod_ingress(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[classifier]
pub fn tc_pod_egress(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
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
