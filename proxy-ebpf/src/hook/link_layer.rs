//! The link layer of a packet at tc: its VLAN tag, its receiver, and the length of its header.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use proxy_ebpf::abi::DeviceFlags;

use crate::{
    lb::networks,
    packet::{
        Headers, Hook,
        header::{ETHERNET, read},
        vlan,
    },
};

/// From linux/if_packet.h: in a frame to another machine, received as the device is promiscuous.
const PACKET_OTHERHOST: u32 = 3;

/// Whether a packet is processed at this hook. Packets of a VLAN are seen again, untagged, at the VLAN's device.
#[inline(always)]
pub fn is_processed(ctx: &TcContext, hook: Hook) -> bool {
    !vlan::is_in_vlan(ctx) && (hook.is_egress() || hook.is_pod() || !is_for_other_machine(ctx))
}

/// Whether a packet is in a frame to another machine, which the node's stack drops. Not asked at pod devices: ports of a bridge see
/// the frames between pods. A bridge port that was named as an external device passes on frames to its bridge.
#[inline(always)]
fn is_for_other_machine(ctx: &TcContext) -> bool {
    let skb = skb(ctx);
    if skb.pkt_type != PACKET_OTHERHOST {
        return false;
    }
    let (Some(receiver), Some(device)) = (read::<[u8; 6]>(ctx, 0), networks::device(skb.ifindex)) else {
        return true;
    };
    !device.flags.contains(DeviceFlags::NO_LINK_LAYER) && device.router != receiver
}

/// Offset of the IP header: on devices without link layer, as WireGuard's, packets begin with it.
///
/// On other devices the EtherType that the kernel knows is in the Ethernet header. A packet whose first bytes fit both is rare, and
/// only for that one the device's entry is looked up.
#[inline(always)]
pub fn network_header<F: Headers>(ctx: &TcContext) -> Option<usize> {
    let [first] = read::<[u8; 1]>(ctx, 0)?;
    let in_header = read::<[u8; 2]>(ctx, ETHERNET - 2)?;
    let is_ethernet = u16::from_be_bytes(in_header) == F::ETHERTYPE
        && !(first >> 4 == F::VERSION && networks::has_no_link_layer(skb(ctx).ifindex));
    Some(if is_ethernet { ETHERNET } else { 0 })
}

#[inline(always)]
fn skb(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: the kernel's own context.
    unsafe { &*ctx.skb.skb }
}
