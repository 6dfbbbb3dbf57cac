//! Applies a translation to a packet at tc.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::abi::DropReason;

use super::{
    header::Headers,
    icmp,
    parse::Packet,
    rewrite::{self, Translation},
};

/// Translates a packet, or an ICMP error and the packet it quotes.
#[inline(always)]
pub fn translate<F: Headers>(
    ctx: &TcContext,
    packet: &Packet<F::Address>,
    to: &Translation<F::Address>,
) -> Result<(), DropReason> {
    if packet.is_icmp_error() {
        icmp::rewrite::<F>(ctx, packet, to)
    } else {
        rewrite::rewrite::<F>(ctx, packet, to)
    }
}
