//! Who may come in, and what becomes of packets to addresses of Services that no frontend claims.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use proxy_ebpf::abi::{Device, DeviceFlags, PodRange, SourceRange, Unclaimed, map};

use crate::family::{Words, bytes, words};

const MAPPED: usize = BPF_F_MMAPABLE as usize;
const LAZY: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

#[btf_map]
static DEVICES: HashMap<u32, Device, { map::MAX_DEVICES as usize }, LAZY> = HashMap::new();
#[btf_map]
static POD_RANGES: Array<PodRange, 2, MAPPED> = Array::new();
#[btf_map]
static SOURCE_RANGES_V4: LpmTrie<SourceRange<[u8; 4]>, u32, { map::MAX_SOURCE_RANGES as usize }> =
    LpmTrie::new();
#[btf_map]
static SOURCE_RANGES_V6: LpmTrie<SourceRange<[u8; 16]>, u32, { map::MAX_SOURCE_RANGES as usize }> =
    LpmTrie::new();
#[btf_map]
static SERVICE_NETWORKS_V4: LpmTrie<[u8; 4], u32, { map::MAX_SERVICE_NETWORKS as usize }> = LpmTrie::new();
#[btf_map]
static SERVICE_NETWORKS_V6: LpmTrie<[u8; 16], u32, { map::MAX_SERVICE_NETWORKS as usize }> = LpmTrie::new();

/// What is known of a device; none for those the agent does not name.
#[inline(always)]
pub fn device(index: u32) -> Option<Device> {
    // SAFETY: copied at once. Should the element be recycled for another device under us, one packet gets that
    // device's address: as if a route had led there.
    unsafe { DEVICES.get(index).copied() }
}

/// Whether what enters through a device comes from a pod.
#[inline(always)]
pub fn is_pod_device(index: u32) -> bool {
    device(index).is_some_and(|device| device.flags.contains(DeviceFlags::PODS))
}

/// Whether an address, IPv4 as IPv4-mapped, is a pod's. `family` is 0 for IPv4 and 1 for IPv6.
#[inline(always)]
pub fn is_pod(family: u32, address: Words) -> bool {
    let Some(range) = POD_RANGES.get(family) else { return false };
    let ([a, b, c, d], [e, f, g, h]) = (words(range.network), words(range.mask));
    let [w, x, y, z] = address;
    let differs = (w & e ^ a) | (x & f ^ b) | (y & g ^ c) | (z & h ^ d);
    differs == 0 && (e | f | g | h) != 0
}

#[inline(always)]
pub fn admits_v4(set: u32, address: u32) -> bool {
    let range = SourceRange { set: set.to_ne_bytes(), address: address.to_ne_bytes() };
    SOURCE_RANGES_V4.get(&Key::new(64, range)).is_some()
}

#[inline(never)]
pub fn admits_v6(set: u32, address: &Words) -> bool {
    let range = SourceRange { set: set.to_ne_bytes(), address: bytes(*address) };
    SOURCE_RANGES_V6.get(&Key::new(160, range)).is_some()
}

#[inline(always)]
pub fn unclaimed_v4(address: u32) -> Option<Unclaimed> {
    meaning(SERVICE_NETWORKS_V4.get(&Key::new(32, address.to_ne_bytes())))
}

#[inline(never)]
pub fn unclaimed_v6(address: &Words) -> Option<Unclaimed> {
    meaning(SERVICE_NETWORKS_V6.get(&Key::new(128, bytes(*address))))
}

#[inline(always)]
fn meaning(value: Option<&u32>) -> Option<Unclaimed> {
    const UNALLOCATED: u32 = Unclaimed::Unallocated as u32;
    const UNDEFINED_PORT: u32 = Unclaimed::UndefinedPort as u32;
    match value {
        Some(&UNALLOCATED) => Some(Unclaimed::Unallocated),
        Some(&UNDEFINED_PORT) => Some(Unclaimed::UndefinedPort),
        Some(_) | None => None,
    }
}
