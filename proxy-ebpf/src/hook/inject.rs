//! Lets a device receive a frame that the agent has made, as if it came from outside.
//!
//! A raw socket would need CAP_NET_RAW, and sends only; the node routes what a device receives, to a pod as to a socket of its own.

use aya_ebpf::{bindings::BPF_F_INGRESS, helpers::generated::bpf_clone_redirect, programs::TcContext};

#[inline(always)]
pub fn handle(ctx: &TcContext) -> i32 {
    let packet = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context; the device is that of the test run.
    unsafe { bpf_clone_redirect(packet, (*packet).ifindex, BPF_F_INGRESS.into()) as i32 }
}
