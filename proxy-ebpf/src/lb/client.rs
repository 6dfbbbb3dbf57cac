//! The client of a new flow, as the decision sees it.

use proxy_ebpf::abi::{
    AffinityKey, BackendRef, ConfigFlags, Descriptor, DescriptorFlags, DropReason, Endpoint,
};
use proxy_ebpf::explain::Origin;

use super::{
    Access, Live,
    networks::{self, Networks},
};
use crate::{
    config,
    family::{Family, bytes},
    packet::ClientLocation,
};

/// A client, at a socket hook or by its packet.
pub trait Client<F: Family> {
    /// What the decision does to the affinity tables.
    type Access: Access;

    /// Limit of attempts if the frontend or backend is replaced meanwhile: a frontend, if its element changes in the few nanoseconds
    /// between two reads; a backend, if its slot becomes stale between the flip of the frontend and the read of the slot. Loops are
    /// expensive to verify, so there is one for all cases.
    const ATTEMPTS: u32;

    /// Whether the client is in the host netns.
    fn is_host(&self) -> bool;

    fn scope(&self) -> Scope;

    /// The key of the client's affinity to a service port.
    fn affinity_key(&self, service: u32) -> AffinityKey;

    /// Whether the client cannot be another than its affinity key says.
    fn is_proven(&self) -> bool;

    /// The reason for which the frontend's loadBalancerSourceRanges exclude the client, if they do.
    fn excluded_by_source_ranges(&self, descriptor: &Descriptor) -> Option<DropReason>;

    /// Whether another backend is preferable. Ignored at the last attempt.
    fn avoids(&self, backend: &Endpoint) -> bool;

    /// Called with the frontend and the slots of each attempt, for explanations.
    #[inline(always)]
    fn considers(&self, _: &Descriptor, _: Scope, _first: u32, _count: u32) {}

    /// Called with the backend of the client's affinity, for explanations.
    #[inline(always)]
    fn remembers(&self, _: BackendRef) {}
}

/// The view of a frontend that a client gets, which selects the traffic policy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Pods and the node itself.
    Internal,
    /// All other clients.
    External,
}

/// The sender of a packet. Numbers, not enums: it is stored in a map between stages.
#[derive(Clone, Copy)]
pub struct ClientInfo<F: Family> {
    pub address: F::Address,
    /// The interface index of the device at which the packet is seen.
    device: u32,
    /// `POD`, `NODE` or `OUTSIDE`.
    origin: u32,
    pub is_on_node: u32,
    /// The packet entered through a pod device of this node.
    pub is_in_pod: u32,
    /// The packet is of a connected UDP socket whose backend was removed, or the SYN of a TCP socket whose backend did not answer.
    pub is_resteered: u32,
    /// The packet is of a connected UDP socket that was translated at connect, and whose backend is alive.
    pub is_translated_at_socket: u32,
    /// The flow is to be tracked without translation.
    pub is_untranslated: u32,
}

/// An address that is both a pod's and the node's counts as a pod's.
const POD: u32 = Origin::Pod as u32;
const NODE: u32 = Origin::Node as u32;
const OUTSIDE: u32 = Origin::Outside as u32;

impl<F: Networks> ClientInfo<F> {
    #[inline(always)]
    pub fn new(address: F::Address, location: ClientLocation, device: u32) -> Self {
        let is_on_node = location == ClientLocation::OnNode;
        let is_pod = if config::flags().contains(ConfigFlags::PODS_BY_DEVICE) {
            // The node's own packets enter through no device.
            !is_on_node && networks::is_pod_device(device)
        } else {
            networks::is_pod::<F>(address)
        };
        let origin = if is_pod {
            POD
        } else if is_on_node || F::node_address(address).is_some() {
            NODE
        } else {
            OUTSIDE
        };
        Self {
            address,
            device,
            origin,
            is_on_node: is_on_node.into(),
            is_in_pod: 0,
            is_resteered: 0,
            is_translated_at_socket: 0,
            is_untranslated: 0,
        }
    }

    /// `POD`, `NODE` or `OUTSIDE`, as `proxy_ebpf::explain::Origin` numbers them.
    #[inline(always)]
    pub fn origin(&self) -> u32 {
        self.origin
    }

    /// Whether the client has an address of this node, or is in the host netns.
    #[inline(always)]
    pub fn is_node(&self) -> bool {
        self.origin == NODE
    }

    /// Whether the client is a pod of this node, and the packet was at no other device of the node before.
    #[inline(always)]
    pub fn is_at_first_hop(&self) -> bool {
        self.is_in_pod != 0 && self.is_on_node == 0 && networks::is_first_hop(self.device)
    }

    /// Whether the frontend's policy masquerades flows of this client.
    #[inline(always)]
    pub fn is_masqueraded(&self, flags: DescriptorFlags) -> bool {
        flags.contains(DescriptorFlags::MASQUERADE_ALWAYS)
            || (flags.contains(DescriptorFlags::MASQUERADE_UNLESS_POD) && self.origin != POD)
            || (flags.contains(DescriptorFlags::MASQUERADE_FROM_NODE) && self.origin == NODE)
    }
}

impl<F: Networks> Client<F> for ClientInfo<F> {
    type Access = Live;

    // This node's name server, and two for the others: nothing is avoided.
    const ATTEMPTS: u32 = 3;

    #[inline(always)]
    fn is_host(&self) -> bool {
        self.is_on_node != 0
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        if self.origin == OUTSIDE { Scope::External } else { Scope::Internal }
    }

    #[inline(always)]
    fn affinity_key(&self, service: u32) -> AffinityKey {
        AffinityKey::new(bytes(F::mapped(self.address)), service)
    }

    /// A first packet may have a forged source address.
    #[inline(always)]
    fn is_proven(&self) -> bool {
        false
    }

    #[inline(always)]
    fn excluded_by_source_ranges(&self, descriptor: &Descriptor) -> Option<DropReason> {
        (!F::is_in_source_ranges(descriptor.source_ranges, self.address))
            .then_some(DropReason::SourceNotInRanges)
    }

    #[inline(always)]
    fn avoids(&self, _: &Endpoint) -> bool {
        false
    }
}
