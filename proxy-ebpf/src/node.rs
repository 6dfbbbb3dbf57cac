//! Which addresses are this node's, and which of them serve NodePorts.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, macros::btf_map};
use proxy_ebpf::abi::{NodeAddressFlags, map};

use crate::family::{Words, bytes};

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static NODE_ADDRESSES_V4: HashMap<[u8; 4], NodeAddressFlags, { map::MAX_NODE_ADDRESSES as usize }, LAZY> =
    HashMap::new();
#[btf_map]
static NODE_ADDRESSES_V6: HashMap<[u8; 16], NodeAddressFlags, { map::MAX_NODE_ADDRESSES as usize }, LAZY> =
    HashMap::new();

#[inline(always)]
pub fn v4(address: u32) -> Option<NodeAddressFlags> {
    // SAFETY: the value is one aligned word, read at once. Should its element be recycled for another address under
    // us, one connect is decided by that address's flags: as if it had come an instant earlier or later.
    unsafe { NODE_ADDRESSES_V4.get(address.to_ne_bytes()).copied() }
}

#[inline(always)]
pub fn v6(address: Words) -> Option<NodeAddressFlags> {
    // SAFETY: as in `v4`.
    unsafe { NODE_ADDRESSES_V6.get(bytes(address)).copied() }
}
