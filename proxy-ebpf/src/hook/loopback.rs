//! tc at the egress of the node's loopback device: the silent drops of its connections to its own addresses.
//!
//! They pass no other device. What the rules permit was translated at its socket, so nothing is translated here.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::abi::{DropReason, Endpoint, EventHook, EventKind, flow_state::tcp};

use super::{report, stage, tc::Action};
use crate::{
    ct::ScratchSpace,
    events::What,
    family::{Family, V4, V6, bytes},
    lb::{ClientInfo, silent_refusal},
    metrics,
    packet::{
        ClientLocation, Headers as _,
        dissect::{Dissect, Dissected, dissect},
        header::{ETHERNET, TCP},
    },
    socket::connected,
};

#[inline(always)]
pub fn handle(ctx: &TcContext) -> Action {
    // SAFETY: the kernel's own context.
    let ethertype = unsafe { u16::from_be((*ctx.skb.skb).protocol as u16) };
    match ethertype {
        V4::ETHERTYPE => action::<V4>(ctx),
        V6::ETHERTYPE => action::<V6>(ctx),
        _ => Action::Pass,
    }
}

#[inline(always)]
fn action<F: ScratchSpace + Dissect + Family + 'static>(ctx: &TcContext) -> Action {
    let Some((reason, service)) = refusal::<F>(ctx) else { return Action::Pass };
    metrics::refused(reason, Some(service));
    let what = What::new(EventKind::Refused, EventHook::TcEgress, reason as u8);
    stage::report_refusal::<F>(what.0, service, report::device(ctx.skb.skb));
    Action::Drop
}

/// The reason for which a packet is dropped, and its service port.
#[inline(always)]
fn refusal<F: ScratchSpace + Dissect + 'static>(ctx: &TcContext) -> Option<(DropReason, u32)> {
    let packet = &mut F::scratch()?.packet;
    let has_ports =
        matches!(dissect::<F>(ctx, ETHERNET, packet), Dissected::Known | Dissected::FirstFragment);
    // Only new flows are decided (rule H7).
    let is_later = packet.protocol == TCP && packet.flags & (tcp::SYN | tcp::ACK) != tcp::SYN;
    if !has_ports || is_later || packet.is_icmp_error() {
        return None;
    }
    // SAFETY: the kernel's own context.
    let (device, socket) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).__bindgen_anon_2.sk) };
    let client = ClientInfo::<F>::new(packet.source, ClientLocation::OnNode, device);
    let refusal = silent_refusal::<F>(packet.destination, packet.destination_port, packet.protocol, &client)?;
    let destination = Endpoint::new(bytes(F::mapped(packet.destination)), packet.destination_port);
    // A backend may have the address and port of a frontend that excludes the client.
    let is_translated =
        connected::of_sender(socket, packet.protocol).is_some_and(|pair| pair.backend == destination);
    (!is_translated).then_some(refusal)
}
