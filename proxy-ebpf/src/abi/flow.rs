//! Flows tracked at tc and XDP, and the tuples under which they are found.
//!
//! A flow is one record in `FLOWS_V4` or `FLOWS_V6`. Up to four references in `CONNTRACK_*` lead to it, one per tuple under which
//! its packets are seen. A reference is valid only while its tag equals the record's, so all four become invalid at the moment the
//! record is deleted, and none can outlive the others. It does not hold the tuple: that is compared with the record.
//!
//! ```text
//!  direction  tuple                     TupleKind               seen at
//!  original   client > frontend         Original                ingress of the client's device
//!  original   client > backend          OriginalAfterDnat       egress towards the backend, masqueraded flows only
//!  reply      backend > masquerade      Reply                   ingress from the backend, masqueraded flows only
//!  reply      backend > client          ReplyAfterReverseSnat   egress towards the client
//! ```

use super::{BackendRef, Positions, flags, flow_state::FlowState, map_type};

/// A packet's 5-tuple and the direction in which the node sees it. `A` is 4 or 16 bytes.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    pub source: A,
    pub destination: A,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// A `Direction`: the same 5-tuple is a different packet at ingress and at egress.
    pub direction: u8,
    pub zero: [u8; 2],
}
pub type TupleV4 = Tuple<[u8; 4]>;
pub type TupleV6 = Tuple<[u8; 16]>;
map_type!(TupleV4, 2 * 4 + 2 + 2 + 1 + 1 + 2);
map_type!(TupleV6, 2 * 16 + 2 + 2 + 1 + 1 + 2);

/// Which of a flow's four tuples a packet has: direction, and stage of translation.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TupleKind {
    /// Original direction, before translation: client to frontend.
    Original = 0,
    /// Original direction, after DNAT and before SNAT: client to backend.
    OriginalAfterDnat = 1,
    /// Reply direction, before translation: backend to masquerade address.
    Reply = 2,
    /// Reply direction, after the reverse of SNAT and before the reverse of DNAT: backend to client.
    ReplyAfterReverseSnat = 3,
}

impl TupleKind {
    /// The kind of a number, by its lower two bits.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number & 3 {
            0 => Self::Original,
            1 => Self::OriginalAfterDnat,
            2 => Self::Reply,
            _ => Self::ReplyAfterReverseSnat,
        }
    }
}

/// Value of `FLOWS_V4` (`A` is 4 bytes) and `FLOWS_V6` (16 bytes).
///
/// All fields but `state`, the masquerade and the positions are written before a reference leads to the record, and not changed until it is deleted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A> {
    pub state: FlowState,
    /// `MASQUERADE_NONE`, `MASQUERADE_PENDING` or `MASQUERADE_DONE`.
    pub masquerade_state: u64,
    pub client: A,
    /// Destination of the original direction: the frontend, or the removed backend that a connected UDP socket still uses.
    pub destination: A,
    pub backend: A,
    /// SNAT source address, valid once `masquerade_state` is `MASQUERADE_DONE`.
    pub masquerade: A,
    pub client_port: [u8; 2],
    pub destination_port: [u8; 2],
    pub backend_port: [u8; 2],
    pub masquerade_port: [u8; 2],
    /// The client's source port after DNAT. Differs from `client_port` where the client already has a flow to the same backend
    /// from that port, directly or through another frontend.
    pub translated_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub flags: FlowFlags,
    /// Index of the chosen frontend.
    pub frontend: u32,
    /// Index into `SERVICES` and `SERVICE_STATS`.
    pub service: u32,
    pub reference: BackendRef,
    /// Where the streams of a TCP connection are; valid with `FlowFlags::FOLLOWED`.
    pub positions: Positions,
}
pub type FlowV4 = Flow<[u8; 4]>;
pub type FlowV6 = Flow<[u8; 16]>;
map_type!(FlowV4, 8 + 8 + 4 * 4 + 5 * 2 + 1 + 1 + 2 * 4 + 8 + 4);
map_type!(FlowV6, 8 + 8 + 4 * 16 + 5 * 2 + 1 + 1 + 2 * 4 + 8 + 4);
/// One cache line.
const _: () = assert!(size_of::<FlowV4>() == 64);

/// No masquerade address and port chosen yet.
pub const MASQUERADE_NONE: u64 = 0;
/// A CPU is choosing them.
pub const MASQUERADE_PENDING: u64 = 1;
/// `masquerade` and `masquerade_port` are valid.
pub const MASQUERADE_DONE: u64 = 2;

flags! {
    /// Properties that are fixed while a flow exists.
    FlowFlags(u8) {
        /// The backend sees the node's address instead of the client's.
        MASQUERADE = 0;
        /// The client is in the host netns: packets of the original direction are seen at egress, replies at ingress.
        HOST_CLIENT = 1;
        /// From a connected UDP socket whose backend was removed; the socket still sends to that address.
        RESTEERED = 2;
        /// Tracked without translation of addresses: the node's own datagrams from a source port that is also a NodePort, so that replies are not
        /// taken for clients of the NodePort; and a direct connection to a backend from a port from which the client also reaches that
        /// backend through a frontend, which differs in its source port.
        UNTRANSLATED = 3;
        /// Client or backend is on this node, or claims to be: its packets go through the node's stack.
        ON_NODE = 4;
        /// TCP, created by a release that follows sequence numbers: `positions` is valid.
        FOLLOWED = 5;
        /// The choice is the client's affinity, kept in `AFFINITY_*` once the flow is assured.
        AFFINITY = 6;
    }
}
