//! Redirects at tc by the route to a packet's destination after translation.

use aya_ebpf::{
    bindings::bpf_fib_lookup as FibParams, helpers::generated::bpf_redirect_neigh, programs::TcContext,
};
use proxy_ebpf::abi::DropReason;

use super::lookup::{NO_NEIGHBOUR, Routes, SUCCESS, lookup};
use crate::{
    lb::networks,
    metrics,
    packet::{Headers, Packet, Translation, header::read},
};

/// Redirects a packet of the node itself to its backend. Returns the kernel's verdict, or `None` without a route, which is counted.
#[inline(always)]
pub fn to_backend<F: Routes>(ctx: &TcContext, to: &Translation<F::Address>) -> Option<i32> {
    let route = route::<F>(ctx, to);
    if route.is_none() {
        metrics::refused(DropReason::NoRouteToBackend, None);
    }
    route.as_ref().map(redirect)
}

/// Forwards a packet past the node's stack (`--forwarding redirect`). Returns the kernel's verdict, or `None` if only the stack can
/// forward it: at a TTL of 1 and above the MTU it sends ICMP errors, and it knows routes that are no unicast.
#[inline(always)]
pub fn forward<F: Routes + Headers>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    to: &Translation<F::Address>,
) -> Option<i32> {
    let at_ttl = packet.network() + F::TTL;
    let [ttl, next] = read::<[u8; 2]>(ctx, at_ttl).filter(|[ttl, _]| *ttl > 1)?;
    let route = route::<F>(ctx, to)?;
    let decremented = [ttl.wrapping_sub(1), next];
    if let Some(checksum) = F::CHECKSUM {
        let half = |bytes| u64::from(u16::from_ne_bytes(bytes));
        ctx.l3_csum_replace(packet.network() + checksum, half([ttl, next]), half(decremented), 2).ok()?;
    }
    ctx.store(at_ttl, &decremented, 0).ok()?;
    Some(redirect(&route))
}

/// Addresses a frame to the router behind its ingress device. A bridge forwards a frame to the port of its destination MAC address;
/// a packet to be routed has to be addressed to the bridge itself.
#[inline(always)]
pub fn set_router_mac(ctx: &TcContext) -> Result<(), DropReason> {
    // SAFETY: the kernel's own context.
    let index = unsafe { (*ctx.skb.skb).ifindex };
    match networks::device(index) {
        Some(device) if device.router != [0; 6] => {
            ctx.store(0, &device.router, 0).map_err(|_| DropReason::RewriteFailed)
        }
        Some(_) | None => Ok(()),
    }
}

/// The route of a packet after translation.
#[inline(always)]
fn route<F: Routes>(ctx: &TcContext, to: &Translation<F::Address>) -> Option<FibParams> {
    let mut params = F::fib_params(to.source, to.destination);
    // SAFETY: the kernel's own context.
    params.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    matches!(lookup(ctx.skb.skb.cast(), &mut params), SUCCESS | NO_NEIGHBOUR).then_some(params)
}

/// Returns the kernel's verdict.
#[inline(always)]
fn redirect(route: &FibParams) -> i32 {
    // SAFETY: plain numbers; without a neighbour argument the kernel resolves it.
    unsafe { bpf_redirect_neigh(route.ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}
