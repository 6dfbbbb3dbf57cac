//! Where a packet goes once its destination is another one.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_fib_lookup as Route,
    helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh},
    programs::TcContext,
};
use proxy_ebpf::abi::DropReason;

use crate::{
    family::Family,
    metrics,
    nat::Ends,
    network,
    packet::{Packet, at},
    stage::Step,
};

/// What a look-up of a route says. From linux/bpf.h; the rest are other reasons why there is none.
pub const FOUND: i64 = 0;
/// The route is known, the neighbour is not yet.
pub const NO_NEIGHBOUR: i64 = 7;
pub const FRAGMENTATION_NEEDED: i64 = 8;

/// Parameters of a look-up that ask for nothing yet.
#[inline(always)]
pub fn route(family: u8) -> Route {
    // SAFETY: plain numbers and unions of such, of which every pattern is valid.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.family = family;
    route
}

/// Looks a route up. `ctx` is the program's own context.
#[inline(always)]
pub fn find(ctx: *mut c_void, route: &mut Route) -> i64 {
    // SAFETY: the parameters are whole, and what the kernel writes into them are numbers.
    unsafe { bpf_fib_lookup(ctx, &raw mut *route, size_of::<Route>() as i32, 0) }
}

/// Sends a packet by a route that was found; the kernel's code.
#[inline(always)]
fn leave_by(route: &Route) -> i32 {
    // SAFETY: plain numbers; no neighbour is given, so the kernel asks for it.
    unsafe { bpf_redirect_neigh(route.ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// The way to where a packet goes now.
#[inline(always)]
fn onward<F: Family>(ctx: &TcContext, ends: &Ends<F::Address>) -> Option<Route> {
    let mut route = F::route(ends);
    // SAFETY: the kernel's own context.
    route.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    matches!(find(ctx.skb.skb.cast(), &mut route), FOUND | NO_NEIGHBOUR).then_some(route)
}

/// A bridge hands a frame to the port its address is known at; what is to be routed goes to the bridge itself.
#[inline(always)]
pub fn turn_to_router(ctx: &TcContext) -> Step {
    // SAFETY: the kernel's own context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    match network::device(device) {
        Some(device) if device.router != [0; 6] => match ctx.store(0, &device.router, 0) {
            Ok(()) => Step::PASS,
            Err(_) => Step::refuse(DropReason::RewriteFailed, None),
        },
        Some(_) | None => Step::PASS,
    }
}

/// Sends a packet on without the node's stack. `None`: only that can, for it answers where the packet is at its last hop or
/// too big, and knows what else is to be done.
#[inline(always)]
pub fn send_on<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    ends: &Ends<F::Address>,
) -> Option<i32> {
    let at_hops = packet.network() + F::HOPS;
    let [hops, next] = at::<[u8; 2]>(ctx, at_hops).filter(|[hops, _]| *hops > 1)?;
    let route = onward::<F>(ctx, ends)?;
    let fewer = [hops.wrapping_sub(1), next];
    if let Some(checksum) = F::NETWORK_CHECKSUM {
        let half = |bytes| u64::from(u16::from_ne_bytes(bytes));
        ctx.l3_csum_replace(packet.network() + checksum, half([hops, next]), half(fewer), 2).ok()?;
    }
    ctx.store(at_hops, &fewer, 0).ok()?;
    Some(leave_by(&route))
}

/// Sends a packet of the node's own to where its destination is now; the kernel's code.
#[inline(always)]
pub fn redirect<F: Family>(ctx: &TcContext, ends: &Ends<F::Address>) -> Option<i32> {
    let route = onward::<F>(ctx, ends);
    if route.is_none() {
        metrics::refused(DropReason::NoRouteToBackend, None);
    }
    route.as_ref().map(leave_by)
}
