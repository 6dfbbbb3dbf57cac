//! From the address a client dials to the current descriptor, and from a block to the reference in a slot.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_F_RDONLY_PROG},
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use proxy_ebpf::abi::{BackendRef, Descriptor, FrontendKeyV4, FrontendKeyV6, NodeAddressFlags, map};

use crate::{
    decide::Client,
    family::{Family, Words, bytes, same, words},
};

const LAZY: usize = (BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG) as usize;
// No BPF_F_RDONLY_PROG: the kernel then refuses to map the array writable.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static FRONTENDS_V4: HashMap<FrontendKeyV4, u32, { map::MAX_FRONTENDS as usize }, LAZY> = HashMap::new();
#[btf_map]
static FRONTENDS_V6: HashMap<FrontendKeyV6, u32, { map::MAX_FRONTENDS as usize }, LAZY> = HashMap::new();
#[btf_map]
static FRONTEND_STATE: Array<u64, { map::MAX_FRONTENDS as usize }, MAPPED> = Array::new();
#[btf_map]
static DESCRIPTORS: Array<Descriptor, { map::MAX_DESCRIPTORS as usize }, MAPPED> = Array::new();
#[btf_map]
static SLOTS: Array<BackendRef, { map::MAX_SLOTS as usize }, MAPPED> = Array::new();

/// What a look-up found.
pub enum Found {
    Descriptor(&'static Descriptor),
    /// No such frontend.
    Nothing,
    /// It was replaced between two reads: look again.
    Unsettled,
}

/// The current descriptor of what a client dials: the frontend with that very address, or the NodePort where the
/// address is one of the node's that serves them (kube-proxy's rule E1).
#[inline(always)]
pub fn current<F: Family>(
    address: F::Address,
    port: [u8; 2],
    protocol: u8,
    client: &impl Client<F>,
) -> Found {
    let address = F::effective(address);
    match exact::<F>(address, port, protocol) {
        Found::Nothing if serves_node_ports::<F>(address, client) => {
            exact::<F>(F::UNSPECIFIED, port, protocol)
        }
        found @ (Found::Descriptor(_) | Found::Nothing | Found::Unsettled) => found,
    }
}

/// Whether an address and a port of the node are a NodePort's.
#[inline(always)]
pub fn is_node_port<F: Family>(address: F::Address, port: [u8; 2], protocol: u8) -> bool {
    F::node_address(address).is_some_and(|flags| flags.contains(NodeAddressFlags::NODE_PORTS))
        && F::frontend(F::UNSPECIFIED, port, protocol).is_some()
}

#[inline(always)]
fn serves_node_ports<F: Family>(address: F::Address, client: &impl Client<F>) -> bool {
    let Some(flags) = F::node_address(address) else { return false };
    flags.contains(NodeAddressFlags::NODE_PORTS)
        && (!flags.contains(NodeAddressFlags::HOST_NETNS_ONLY) || client.is_host())
}

#[inline(always)]
fn exact<F: Family>(address: F::Address, port: [u8; 2], protocol: u8) -> Found {
    let Some(index) = F::frontend(address, port, protocol) else { return Found::Nothing };
    match published(index) {
        Some(descriptor)
            if descriptor.port == port
                && descriptor.protocol == protocol
                && same(words(descriptor.address), F::mapped(address)) =>
        {
            Found::Descriptor(descriptor)
        }
        Some(_) | None => Found::Unsettled,
    }
}

/// The reference in a slot.
#[inline(always)]
pub fn slot(at: u32) -> Option<BackendRef> {
    SLOTS.get(at).copied()
}

#[inline(always)]
pub fn v4(address: u32, port: [u8; 2], protocol: u8) -> Option<u32> {
    // SAFETY: the value is one aligned word, read at once. Its element may be recycled for another key under us;
    // then the index is another frontend's, which the key in the descriptor shows.
    unsafe { FRONTENDS_V4.get(FrontendKeyV4::new(address.to_ne_bytes(), port, protocol)).copied() }
}

#[inline(always)]
pub fn v6(address: Words, port: [u8; 2], protocol: u8) -> Option<u32> {
    // SAFETY: as in `v4`.
    unsafe { FRONTENDS_V6.get(FrontendKeyV6::new(bytes(address), port, protocol)).copied() }
}

/// The descriptor published for an index; none while the frontend is being taken away.
#[inline(always)]
fn published(index: u32) -> Option<&'static Descriptor> {
    let state = FRONTEND_STATE.get_ptr(index)?;
    // SAFETY: `state` points into an array map, whose memory lives as long as the program; volatile because user
    // space stores to it through its own mapping.
    let state = unsafe { state.read_volatile() };
    match state {
        0 => None,
        at => DESCRIPTORS.get(at as u32),
    }
}
