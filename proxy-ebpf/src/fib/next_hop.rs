//! The next hop of a frame at XDP: from the kernel's FIB, cached on each CPU for the rest of the tick.
//!
//! The FIB lookup costs more than the rest of the program. A changed route takes effect within a tick, 0.27 s. The kernel makes no
//! rp_filter check and applies no FORWARD rule to frames that XDP sends.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map, programs::XdpContext};
use proxy_ebpf::abi::XdpOutcome;

use super::lookup::{FRAGMENTATION_NEEDED, NO_NEIGHBOUR, Routes, SUCCESS, lookup};
use crate::{
    family::{Words, same},
    packet::{
        Packet,
        frame::{ForwardFields, FrameHeader, MacAddresses},
    },
};

/// A direct-mapped cache: each lookup has one slot.
#[btf_map]
static NEXT_HOPS: PerCpuArray<CacheEntry, { 1 << BITS }> = PerCpuArray::new();

const BITS: usize = 9;

/// Egress device and MAC addresses.
#[derive(Clone, Copy)]
pub struct NextHop {
    /// Interface index.
    pub device: u32,
    pub mac: MacAddresses,
}

/// The inputs of a lookup. IPv4 addresses as IPv4-mapped.
#[repr(C)]
#[derive(Clone, Copy)]
struct CacheKey {
    source: Words,
    destination: Words,
    /// Index of the ingress interface.
    device: u32,
    tos: u32,
    protocol: u32,
}

#[repr(C)]
struct CacheEntry {
    key: CacheKey,
    /// The tick of the lookup.
    tick: u32,
    /// MTU of the route.
    mtu: u32,
    hop: NextHop,
}

/// The next hop towards an address. `device` is the ingress interface, `tick` the current tick.
#[inline(always)]
pub fn next_hop<F: FrameHeader + Routes>(
    ctx: &XdpContext,
    packet: &Packet<F::Address>,
    to: F::Address,
    device: u32,
    tick: u32,
) -> Result<NextHop, XdpOutcome> {
    let fields = F::forward_fields(ctx).ok_or(XdpOutcome::NeedsStack)?;
    let key = CacheKey {
        source: F::mapped(packet.source),
        destination: F::mapped(to),
        device,
        tos: fields.tos,
        protocol: packet.protocol.into(),
    };
    let Some(entry) = NEXT_HOPS.get_ptr_mut(key.slot()) else { return Err(XdpOutcome::NoRoute) };
    // SAFETY: this CPU's own; every pattern of its plain values is valid, and it lives as long as the program.
    let entry = unsafe { &mut *entry };
    if entry.tick == tick && entry.key.is(&key) && u32::from(fields.total) <= entry.mtu {
        return Ok(entry.hop);
    }
    let (hop, mtu) = resolve::<F>(ctx, packet.source, to, &key, &fields)?;
    *entry = CacheEntry { key, tick, mtu, hop };
    Ok(entry.hop)
}

/// The kernel's next hop and MTU.
#[inline(always)]
fn resolve<F: Routes>(
    ctx: &XdpContext,
    source: F::Address,
    destination: F::Address,
    key: &CacheKey,
    fields: &ForwardFields,
) -> Result<(NextHop, u32), XdpOutcome> {
    let mut route = F::fib_params(source, destination);
    route.ifindex = key.device;
    route.l4_protocol = key.protocol as u8;
    route.__bindgen_anon_1.tot_len = fields.total;
    route.__bindgen_anon_2.flowinfo = key.tos;
    match lookup(ctx.ctx.cast(), &mut route) {
        SUCCESS => {}
        NO_NEIGHBOUR => return Err(XdpOutcome::NoNeighbour),
        FRAGMENTATION_NEEDED => return Err(XdpOutcome::TooLarge),
        _ => return Err(XdpOutcome::NoRoute),
    }
    // SAFETY: both fields of the union are numbers. The kernel returns the MTU if a length was given; the loopback's IPv6 MTU of
    // 65,536 is 0 in its 16 bits. A packet of the given length fits in any case.
    let mtu = unsafe { route.__bindgen_anon_1.mtu_result }.max(fields.total);
    let mac = MacAddresses { destination: route.dmac, source: route.smac };
    Ok((NextHop { device: route.ifindex, mac }, mtu.into()))
}

impl CacheKey {
    /// Index into `NEXT_HOPS`. The last byte of an address, which differs most among neighbours, is the highest of a word.
    #[inline(always)]
    fn slot(&self) -> u32 {
        let folded = |[a, b, c, d]: Words| a ^ b ^ c ^ d;
        let [source, destination] = [folded(self.source), folded(self.destination)];
        source.wrapping_mul(0x9e37_79b1).wrapping_add(destination.wrapping_mul(0x85eb_ca6b)) >> (32 - BITS)
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        let differs =
            (self.device ^ other.device) | (self.tos ^ other.tos) | (self.protocol ^ other.protocol);
        differs == 0 && same(self.source, other.source) && same(self.destination, other.destination)
    }
}
