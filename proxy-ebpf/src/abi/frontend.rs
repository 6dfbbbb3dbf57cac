//! Frontends. The key maps to an index, the index to the current descriptor, and the descriptor to blocks of backends. A change writes
//! a new block and descriptor, and flips the index to the new descriptor.

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
    /// The number of backends on this node. They come first.
    pub local: u32,
}
map_type!(Block, 3 * 4);

/// The state of one frontend. Immutable while `FRONTEND_STATE` refers to it, and for a grace period after that.
///
/// It contains its own key: an element of a hash map may be recycled while it is read, so readers compare the key and look up again if
/// it differs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// IPv4 as IPv4-mapped.
    pub address: [u8; 16],
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub zero: u8,
    /// Index of the frontend in `FRONTEND_STATE`.
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
    /// The set in `SOURCE_RANGES_*` that permits clients; 0 permits all.
    pub source_ranges: u32,
}
map_type!(Descriptor, 16 + 2 + 1 + 1 + 4 + 4 + 4 + 4 + 12 + 12 + 4);
/// One cache line, so that a lookup costs one miss.
const _: () = assert!(size_of::<Descriptor>() == 64 && offset_of!(Descriptor, internal) == 36);

flags! {
    /// Flags of a frontend.
    DescriptorFlags(u32) {
        /// The internal block is the local set (internalTrafficPolicy: Local on a ClusterIP).
        INTERNAL_LOCAL = 0;
        /// The external block is the local set (externalTrafficPolicy: Local).
        EXTERNAL_LOCAL = 1;
        /// An empty internal block means DROP; without this flag it means REJECT.
        INTERNAL_DROPS = 2;
        /// An empty external block means DROP; without this flag it means REJECT.
        EXTERNAL_DROPS = 3;
        /// loadBalancerSourceRanges apply: the decision needs the client's address.
        SOURCE_RANGES = 4;
        /// Every flow is masqueraded.
        MASQUERADE_ALWAYS = 5;
        /// Flows from clients other than pods are masqueraded.
        MASQUERADE_UNLESS_POD = 6;
        /// Flows from the node itself are masqueraded.
        MASQUERADE_FROM_NODE = 7;
        /// The first backend of each block is this node's name server. It gets all queries while it is up, the others otherwise.
        LOCAL_NAME_SERVER = 8;
    }
}
