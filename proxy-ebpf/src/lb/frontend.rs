//! From a destination address and port to the frontend's current descriptor, and from a slot to its backend reference.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_F_RDONLY_PROG},
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use proxy_ebpf::abi::{BackendRef, Descriptor, FrontendKeyV4, FrontendKeyV6, NodeAddressFlags, map};

use super::{Client, Networks};
use crate::{
    family::{Family, V4, V6, Words, bytes, same, words},
    packet::header::TCP,
};

const NO_PREALLOC: usize = (BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG) as usize;
// No BPF_F_RDONLY_PROG: the kernel then refuses to map the array writable.
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static FRONTENDS_V4: HashMap<FrontendKeyV4, u32, { map::MAX_FRONTENDS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static FRONTENDS_V6: HashMap<FrontendKeyV6, u32, { map::MAX_FRONTENDS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static FRONTEND_STATE: Array<u64, { map::MAX_FRONTENDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static DESCRIPTORS: Array<Descriptor, { map::MAX_DESCRIPTORS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static SLOTS: Array<BackendRef, { map::MAX_SLOTS as usize }, MMAPABLE> = Array::new();

/// The result of a frontend lookup.
pub enum FrontendLookup {
    Descriptor(&'static Descriptor),
    NotFound,
    /// The frontend was replaced between two reads: look up again.
    Changed,
}

pub trait Frontends: Family {
    /// The index of a frontend.
    fn frontend(address: Self::Address, port: [u8; 2], protocol: u8) -> Option<u32>;
}

/// The current descriptor of a destination: of the frontend with that address, else of the NodePort if the address is one of the
/// node's that serve NodePorts (rule E1).
#[inline(always)]
pub fn current<F: Frontends + Networks>(
    address: F::Address,
    port: [u8; 2],
    protocol: u8,
    client: &impl Client<F>,
) -> FrontendLookup {
    let address = F::effective(address);
    match exact::<F>(address, port, protocol) {
        FrontendLookup::NotFound if serves_node_ports::<F>(address, protocol, client) => {
            exact::<F>(F::UNSPECIFIED, port, protocol)
        }
        found @ (FrontendLookup::Descriptor(_) | FrontendLookup::NotFound | FrontendLookup::Changed) => found,
    }
}

/// Whether an address and port of the node belong to a NodePort.
#[inline(always)]
pub fn is_node_port<F: Frontends + Networks>(address: F::Address, port: [u8; 2], protocol: u8) -> bool {
    F::node_address(address).is_some_and(|flags| flags.contains(NodeAddressFlags::NODE_PORTS))
        && F::frontend(F::UNSPECIFIED, port, protocol).is_some()
}

/// Loopback serves the host netns alone, and ::1 only over TCP.
#[inline(always)]
fn serves_node_ports<F: Networks>(address: F::Address, protocol: u8, client: &impl Client<F>) -> bool {
    let Some(flags) = F::node_address(address) else { return false };
    // A product instead of a comparison: the verifier would follow all that comes once for TCP and once for the rest.
    let other_than_tcp = if F::IS_V6 { u32::from(protocol ^ TCP) } else { 0 };
    let is_loopback = flags.0 & NodeAddressFlags::HOST_NETNS_ONLY.0;
    flags.contains(NodeAddressFlags::NODE_PORTS)
        && is_loopback.wrapping_mul(other_than_tcp) == 0
        && (is_loopback == 0 || client.is_host())
}

#[inline(always)]
fn exact<F: Frontends>(address: F::Address, port: [u8; 2], protocol: u8) -> FrontendLookup {
    let Some(index) = F::frontend(address, port, protocol) else { return FrontendLookup::NotFound };
    match published(index) {
        Some(descriptor)
            if descriptor.port == port
                && descriptor.protocol == protocol
                && same(words(descriptor.address), F::mapped(address)) =>
        {
            FrontendLookup::Descriptor(descriptor)
        }
        Some(_) | None => FrontendLookup::Changed,
    }
}

/// The reference in a slot.
#[inline(always)]
pub fn slot(at: u32) -> Option<BackendRef> {
    SLOTS.get(at).copied()
}

impl Frontends for V4 {
    #[inline(always)]
    fn frontend(address: u32, port: [u8; 2], protocol: u8) -> Option<u32> {
        // SAFETY: the value is one aligned word, read at once. If the element is recycled for another key meanwhile, the
        // index is another frontend's, which the key in the descriptor reveals.
        unsafe { FRONTENDS_V4.get(FrontendKeyV4::new(address.to_ne_bytes(), port, protocol)).copied() }
    }
}

impl Frontends for V6 {
    #[inline(always)]
    fn frontend(address: Words, port: [u8; 2], protocol: u8) -> Option<u32> {
        // SAFETY: as for `V4`.
        unsafe { FRONTENDS_V6.get(FrontendKeyV6::new(bytes(address), port, protocol)).copied() }
    }
}

/// The descriptor published for an index. Returns `None` while the frontend is being removed.
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
