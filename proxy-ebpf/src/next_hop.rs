//! The next machine on the way to another one: found by the kernel, and remembered on each CPU for the rest of the tick.
//!
//! To ask the kernel costs more than everything else about a packet. So a route that changes is seen within a tick, 0.27 s.

use aya_ebpf::{
    bindings::bpf_fib_lookup as Route, btf_maps::PerCpuArray, macros::btf_map, programs::XdpContext,
};
use proxy_ebpf::abi::XdpOutcome;

use crate::{
    family::{Words, same},
    frame::{Header, Link},
    nat::Ends,
    packet::{Packet, Transit},
    route,
};

/// Ways that were found, each where its question leads to; the next one with the same place takes it.
#[btf_map]
static NEXT_HOPS: PerCpuArray<Known, { 1 << BITS }> = PerCpuArray::new();

const BITS: usize = 9;

/// Where a frame leaves, and between whom.
#[derive(Clone, Copy)]
pub struct NextHop {
    /// The index of the device.
    pub device: u32,
    pub link: Link,
}

/// All that a way depends on; addresses of IPv4 as IPv4-mapped ones.
#[repr(C)]
#[derive(Clone, Copy)]
struct Question {
    source: Words,
    destination: Words,
    /// The index of the device that the packet came in by.
    device: u32,
    service: u32,
    protocol: u32,
}

#[repr(C)]
struct Known {
    question: Question,
    /// When it was found.
    tick: u32,
    /// The largest packet that fits, link-layer header not included.
    mtu: u32,
    hop: NextHop,
}

/// The way the kernel would send a packet to a machine. `device` is the one it came in by, `tick` the present one.
#[inline(always)]
pub fn find<F: Header>(
    ctx: &XdpContext,
    packet: &Packet<F::Address>,
    to: F::Address,
    device: u32,
    tick: u32,
) -> Result<NextHop, XdpOutcome> {
    let transit = F::transit(ctx).ok_or(XdpOutcome::NeedsStack)?;
    let question = Question {
        source: F::mapped(packet.source),
        destination: F::mapped(to),
        device,
        service: transit.service,
        protocol: packet.protocol.into(),
    };
    let Some(known) = NEXT_HOPS.get_ptr_mut(question.place()) else { return Err(XdpOutcome::NoRoute) };
    // SAFETY: this CPU's own; every pattern of its plain values is valid, and it lives as long as the program.
    let known = unsafe { &mut *known };
    if known.tick == tick && known.question.is(&question) && u32::from(transit.total) <= known.mtu {
        return Ok(known.hop);
    }
    let found = ask::<F>(ctx, &Ends { destination: to, ..Ends::of(packet) }, &question, &transit)?;
    *known = Known { question, tick, ..found };
    Ok(known.hop)
}

/// Asks the kernel.
#[inline(always)]
fn ask<F: Header>(
    ctx: &XdpContext,
    ends: &Ends<F::Address>,
    question: &Question,
    transit: &Transit,
) -> Result<Known, XdpOutcome> {
    let mut route: Route = F::route(ends);
    route.ifindex = question.device;
    route.l4_protocol = question.protocol as u8;
    route.__bindgen_anon_1.tot_len = transit.total;
    route.__bindgen_anon_2.flowinfo = question.service;
    match route::find(ctx.ctx.cast(), &mut route) {
        route::FOUND => {}
        route::NO_NEIGHBOUR => return Err(XdpOutcome::NoNeighbour),
        route::FRAGMENTATION_NEEDED => return Err(XdpOutcome::TooLarge),
        _ => return Err(XdpOutcome::NoRoute),
    }
    // SAFETY: a number either way. The kernel says the largest size where it was asked about one; of 65,536, which IPv6 has
    // on the loopback, its 16 bits leave nothing. What was asked about fits in any case.
    let mtu = unsafe { route.__bindgen_anon_1.mtu_result }.max(transit.total);
    let link = Link { destination: route.dmac, source: route.smac };
    Ok(Known { question: *question, tick: 0, mtu: mtu.into(), hop: NextHop { device: route.ifindex, link } })
}

impl Question {
    /// Its place among `NEXT_HOPS`. The last byte of an address, by which neighbours differ most, is the highest of a word.
    #[inline(always)]
    fn place(&self) -> u32 {
        let folded = |[a, b, c, d]: Words| a ^ b ^ c ^ d;
        let [source, destination] = [folded(self.source), folded(self.destination)];
        source.wrapping_mul(0x9e37_79b1).wrapping_add(destination.wrapping_mul(0x85eb_ca6b)) >> (32 - BITS)
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        let differs =
            (self.device ^ other.device) | (self.service ^ other.service) | (self.protocol ^ other.protocol);
        differs == 0 && same(self.source, other.source) && same(self.destination, other.destination)
    }
}
