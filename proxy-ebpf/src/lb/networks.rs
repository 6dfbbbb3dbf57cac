//! Sets of addresses: the node's, the pods', source ranges of frontends, addresses of Services; and the devices.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use proxy_ebpf::abi::{Device, DeviceFlags, NodeAddressFlags, PodRange, SourceRange, Unclaimed, map};

use crate::family::{Family, LOOPBACK_V4, V4, V6, Words, bytes, words};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static NODE_ADDRESSES_V4: HashMap<
    [u8; 4],
    NodeAddressFlags,
    { map::MAX_NODE_ADDRESSES as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map]
static NODE_ADDRESSES_V6: HashMap<
    [u8; 16],
    NodeAddressFlags,
    { map::MAX_NODE_ADDRESSES as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map]
static DEVICES: HashMap<u32, Device, { map::MAX_DEVICES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static POD_RANGES: Array<PodRange, 2, MMAPABLE> = Array::new();
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

pub trait Networks: Family {
    /// The flags of an address of this node. Returns `None` for other addresses.
    fn node_address(address: Self::Address) -> Option<NodeAddressFlags>;

    /// Whether a set of source ranges contains an address.
    fn is_in_source_ranges(set: u32, address: Self::Address) -> bool;

    /// The treatment of packets to an address and port without a frontend. Returns `None` unless the address is a Service's.
    fn unclaimed(address: Self::Address) -> Option<Unclaimed>;

    /// The SNAT source address of a device.
    fn masquerade_address(device: u32) -> Option<Self::Address>;
}

impl Networks for V4 {
    #[inline(always)]
    fn node_address(address: u32) -> Option<NodeAddressFlags> {
        // All of 127.0.0.0/8 is the node's, as 127.0.0.1 is (rule J6).
        let address = if address.to_ne_bytes()[0] == 127 { LOOPBACK_V4 } else { address };
        // SAFETY: the value is one aligned word, read at once. If the element is recycled for another address meanwhile, one
        // connect is decided by that address's flags, as if it had come an instant earlier or later.
        unsafe { NODE_ADDRESSES_V4.get(address.to_ne_bytes()).copied() }
    }

    #[inline(always)]
    fn is_in_source_ranges(set: u32, address: u32) -> bool {
        let range = SourceRange { set: set.to_ne_bytes(), address: address.to_ne_bytes() };
        SOURCE_RANGES_V4.get(&Key::new(64, range)).is_some()
    }

    #[inline(always)]
    fn unclaimed(address: u32) -> Option<Unclaimed> {
        decoded(SERVICE_NETWORKS_V4.get(&Key::new(32, address.to_ne_bytes())))
    }

    #[inline(always)]
    fn masquerade_address(index: u32) -> Option<u32> {
        let address = u32::from_ne_bytes(device(index)?.masquerade_v4);
        (address != 0).then_some(address)
    }
}

impl Networks for V6 {
    #[inline(always)]
    fn node_address(address: Words) -> Option<NodeAddressFlags> {
        // SAFETY: as for `V4`.
        unsafe { NODE_ADDRESSES_V6.get(bytes(address)).copied() }
    }

    #[inline(always)]
    fn is_in_source_ranges(set: u32, address: Words) -> bool {
        is_in_source_ranges_v6(set, &address)
    }

    #[inline(always)]
    fn unclaimed(address: Words) -> Option<Unclaimed> {
        unclaimed_v6(&address)
    }

    #[inline(always)]
    fn masquerade_address(index: u32) -> Option<Words> {
        let address = words(device(index)?.masquerade_v6);
        (address != [0; 4]).then_some(address)
    }
}

#[inline(never)]
fn is_in_source_ranges_v6(set: u32, address: &Words) -> bool {
    let range = SourceRange { set: set.to_ne_bytes(), address: bytes(*address) };
    SOURCE_RANGES_V6.get(&Key::new(160, range)).is_some()
}

#[inline(never)]
fn unclaimed_v6(address: &Words) -> Option<Unclaimed> {
    decoded(SERVICE_NETWORKS_V6.get(&Key::new(128, bytes(*address))))
}

#[inline(always)]
fn decoded(value: Option<&u32>) -> Option<Unclaimed> {
    const UNALLOCATED: u32 = Unclaimed::Unallocated as u32;
    const UNDEFINED_PORT: u32 = Unclaimed::UndefinedPort as u32;
    match value {
        Some(&UNALLOCATED) => Some(Unclaimed::Unallocated),
        Some(&UNDEFINED_PORT) => Some(Unclaimed::UndefinedPort),
        Some(_) | None => None,
    }
}

/// The entry of a device. Returns `None` for devices without tc programs.
#[inline(always)]
pub fn device(index: u32) -> Option<Device> {
    // SAFETY: copied at once. If the element is recycled for another device meanwhile, one packet gets that device's address,
    // as if a route had pointed there.
    unsafe { DEVICES.get(index).copied() }
}

/// Whether packets that enter through a device come from a pod.
#[inline(always)]
pub fn is_pod_device(index: u32) -> bool {
    device(index).is_some_and(|device| device.flags.contains(DeviceFlags::PODS))
}

/// Whether packets that enter through a device are as their sender sent them.
#[inline(always)]
pub fn is_first_hop(index: u32) -> bool {
    device(index).is_some_and(|device| device.flags.contains(DeviceFlags::FIRST_HOP))
}

/// Whether packets at a device begin with the IP header.
#[inline(always)]
pub fn has_no_link_layer(index: u32) -> bool {
    device(index).is_some_and(|device| device.flags.contains(DeviceFlags::NO_LINK_LAYER))
}

/// Whether an address is a pod's.
#[inline(always)]
pub fn is_pod<F: Family>(address: F::Address) -> bool {
    let Some(range) = POD_RANGES.get(F::IS_V6 as u32) else { return false };
    let ([a, b, c, d], [e, f, g, h]) = (words(range.network), words(range.mask));
    let [w, x, y, z] = F::mapped(address);
    let differs = (w & e ^ a) | (x & f ^ b) | (y & g ^ c) | (z & h ^ d);
    differs == 0 && (e | f | g | h) != 0
}
