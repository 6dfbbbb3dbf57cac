//! Which addresses are this node's, and which of them serve NodePorts.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, macros::btf_map};
use proxy_ebpf::abi::{NodeAddressFlags, map};

use crate::family::{LOOPBACK_V4, Words, bytes};

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static NODE_ADDRESSES_V4: HashMap<[u8; 4], NodeAddressFlags, { map::MAX_NODE_ADDRESSES as usize }, LAZY> =
    HashMap::new();
#[btf_map]
static NODE_ADDRESSES_V6: HashMap<[u8; 16], NodeAddressFlags, { map::MAX_NODE_ADDRESSES as usize }, LAZY> =
    HashMap::new();

#[inline(always)]
pub fn v4(address: u32) -> Option<NodeAddressFlags> {
    // All of 127.0.0.0/8 is the node's as 127.0.0.1 is (kube-proxy's rule J6).
    let address = if address.to_ne_bytes()[0] == 127 { LOOPBACK_V4 } else { address };
    // SAFETY: the value is one aligned word, read at once. Should its element be recycled for another address under
    // us, one connect is decided by that address's flags: as if it had come an instant earlier or later.
    unsafe { NODE_ADDRESSES_V4.get(address.to_ne_bytes()).copied() }
}

#[inline(always)]
pub fn v6(address: Words) -> Option<NodeAddressFlags> {
    // SAFETY: as in `v4`.
    unsafe { NODE_ADDRESSES_V6.get(bytes(address)).copied() }
}
