//! A frontend is what a client dials. Its key leads to an index, the index to the current descriptor, and the
//! descriptor to the blocks of backends; a change writes new ones and flips the one word in between.

use core::mem::offset_of;

use super::{flags, map_type};

/// Key of `FRONTENDS_V4`. A NodePort is one frontend with the unspecified address.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKeyV4 {
    pub address: [u8; 4],
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub zero: u8,
}
map_type!(FrontendKeyV4, 4 + 2 + 1 + 1);

/// Key of `FRONTENDS_V6`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKeyV6 {
    pub address: [u8; 16],
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub zero: u8,
}
map_type!(FrontendKeyV6, 16 + 2 + 1 + 1);

impl FrontendKeyV4 {
    pub const fn new(address: [u8; 4], port: [u8; 2], protocol: u8) -> Self {
        Self { address, port, protocol, zero: 0 }
    }
}

impl FrontendKeyV6 {
    pub const fn new(address: [u8; 16], port: [u8; 2], protocol: u8) -> Self {
        Self { address, port, protocol, zero: 0 }
    }
}

/// A run of slots that is never edited while a descriptor points to it. Local backends come first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Index of the first slot.
    pub offset: u32,
    /// Backends in the block.
    pub count: u32,
    /// How many of them, from the start, are on this node.
    pub local: u32,
}
map_type!(Block, 3 * 4);

/// The state of one frontend; immutable while `FRONTEND_STATE` leads to it and until a grace period after.
///
/// It carries its own key: the element of a hash map is recycled under its readers, so a reader that came here
/// through one compares the key and looks up again when it differs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// IPv4 as IPv4-mapped.
    pub address: [u8; 16],
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub zero: u8,
    /// The index under which this frontend is published.
    pub frontend: u32,
    pub flags: DescriptorFlags,
    /// Index into `SERVICES` and `SERVICE_STATS`.
    pub service: u32,
    /// Timeout of `ClientIP` affinity; 0 is none.
    pub affinity_seconds: u32,
    /// For clients in pods and on the node.
    pub internal: Block,
    /// For all other clients.
    pub external: Block,
    /// The set of `SOURCE_RANGES_*` that may come in; 0: everybody may.
    pub source_ranges: u32,
}
map_type!(Descriptor, 16 + 2 + 1 + 1 + 4 + 4 + 4 + 4 + 12 + 12 + 4);
/// One cache line, so that a connection reads its frontend with one miss.
const _: () = assert!(size_of::<Descriptor>() == 64 && offset_of!(Descriptor, internal) == 36);

flags! {
    /// What a descriptor says besides its numbers.
    DescriptorFlags(u32) {
        /// The internal block is the local set (internalTrafficPolicy: Local on a ClusterIP).
        INTERNAL_LOCAL = 0;
        /// The external block is the local set (externalTrafficPolicy: Local).
        EXTERNAL_LOCAL = 1;
        /// An empty internal block means DROP; without this flag it means REJECT.
        INTERNAL_DROPS = 2;
        /// An empty external block means DROP; without this flag it means REJECT.
        EXTERNAL_DROPS = 3;
        /// loadBalancerSourceRanges apply: only something that knows the client's address may decide.
        SOURCE_RANGES = 4;
        /// Every flow is masqueraded.
        MASQUERADE_ALWAYS = 5;
        /// Flows that do not come from pods are.
        MASQUERADE_UNLESS_POD = 6;
        /// Flows that come from the node itself are.
        MASQUERADE_FROM_NODE = 7;
        /// The first backend of each block is this node's own name server. It is asked while it lives, the others when
        /// it does not.
        LOCAL_NAME_SERVER = 8;
    }
}
