//! VLAN tags, which the kernel keeps beside the packet.
//!
//! The tag of VLAN 0 holds a priority only (a priority-tagged frame, IEEE 802.1Q): the frame is of no VLAN, and the kernel hands it to
//! the stack at this device, without the tag.

use aya_ebpf::{helpers::generated::bpf_skb_vlan_pop, programs::TcContext};
use proxy_ebpf::abi::DropReason;

/// The VLAN's number in a tag.
const VLAN_ID: u32 = 0xfff;

/// Whether a packet is of a VLAN.
#[inline(always)]
pub fn is_in_vlan(ctx: &TcContext) -> bool {
    // SAFETY: the kernel's own context.
    unsafe { (*ctx.skb.skb).vlan_present != 0 && (*ctx.skb.skb).vlan_tci & VLAN_ID != 0 }
}

/// Removes the tag of a priority-tagged frame that is sent past the stack: the stack would not send it on.
#[inline(always)]
pub fn remove_priority_tag(ctx: &TcContext) -> Result<(), DropReason> {
    // SAFETY: the kernel's own context; nothing read from the packet before is used after this.
    let is_done = unsafe { (*ctx.skb.skb).vlan_present == 0 || bpf_skb_vlan_pop(ctx.skb.skb) == 0 };
    if is_done { Ok(()) } else { Err(DropReason::RewriteFailed) }
}
