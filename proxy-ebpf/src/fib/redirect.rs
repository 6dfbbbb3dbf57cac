//! Redirects at tc by the route to a packet's destination after translation.

use aya_ebpf::{
    bindings::bpf_fib_lookup as FibParams, helpers::generated::bpf_redirect_neigh, programs::TcContext,
};
use proxy_ebpf::abi::DropReason;

use super::lookup::{NO_NEIGHBOUR, Routes, SUCCESS, lookup};
use crate::{
    lb::networks,
    metrics,
    packet::{
        Headers, Packet, Translation,
        header::{TCP, UDP, read},
        vlan,
    },
};

/// Offset of the length of TCP's header, in words, in the upper half of a byte.
const TCP_DATA_OFFSET: usize = 12;
/// The kernel compares the packet's own length with the MTU.
const UNKNOWN_LENGTH: u16 = 0;

/// Redirects a packet of the node itself to its backend. Returns the kernel's verdict, or `None` without a route, which is counted.
#[inline(always)]
pub fn to_backend<F: Routes>(ctx: &TcContext, to: &Translation<F::Address>) -> Option<i32> {
    let route = route::<F>(ctx, to, UNKNOWN_LENGTH);
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
    let length = length(ctx, packet)?;
    let route = route::<F>(ctx, to, length)?;
    let decremented = [ttl.wrapping_sub(1), next];
    if let Some(checksum) = F::CHECKSUM {
        let half = |bytes| u64::from(u16::from_ne_bytes(bytes));
        ctx.l3_csum_replace(packet.network() + checksum, half([ttl, next]), half(decremented), 2).ok()?;
    }
    ctx.store(at_ttl, &decremented, 0).ok()?;
    vlan::remove_priority_tag(ctx).ok()?;
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

/// The length of a packet without link-layer header. For a packet that stands for several segments (GSO), that of each: the kernel
/// only compares packets of one segment with the MTU. Returns `None` if it is not known.
#[inline(always)]
fn length<A: Copy>(ctx: &TcContext, packet: &Packet<A>) -> Option<u16> {
    /// Length of UDP's header.
    const UDP_HEADER: usize = 8;
    // SAFETY: the kernel's own context.
    let (length, segment) = unsafe { ((*ctx.skb.skb).len as usize, (*ctx.skb.skb).gso_size as usize) };
    if segment == 0 {
        return length.checked_sub(packet.network())?.try_into().ok();
    }
    let header = match packet.protocol {
        TCP => usize::from(read::<[u8; 1]>(ctx, packet.transport() + TCP_DATA_OFFSET)?[0] >> 4) * 4,
        UDP => UDP_HEADER,
        _ => return None,
    };
    (packet.transport().checked_sub(packet.network())? + header + segment).try_into().ok()
}

/// The route of a packet after translation. Returns `None` for a packet above the MTU.
#[inline(always)]
fn route<F: Routes>(ctx: &TcContext, to: &Translation<F::Address>, length: u16) -> Option<FibParams> {
    let mut params = F::fib_params(to.source, to.destination);
    params.__bindgen_anon_1.tot_len = length;
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
