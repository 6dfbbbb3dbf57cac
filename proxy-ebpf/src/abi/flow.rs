//! The flows that the packet plane translates, and the index that leads from a packet to its flow.
//!
//! The truth about a flow is one record in `FLOWS_V4` or `FLOWS_V6`; up to four entries of `CONNTRACK_*`, one per tuple
//! under which its packets are seen, lead there. An entry whose tag is not the record's leads nowhere, so all four die
//! with the record at once, and none can outlive the others.
//!
//! ```text
//!  client > dialled        Dialled     as the client sends it
//!  forwarded > backend     Forwarded   translated, before the masquerade; only where there is one
//!  backend > masquerade    Answered    the answer to that
//!  backend > forwarded     Returned    the answer as it goes back to the client
//! ```

use super::{BackendRef, flags, life::Life, map_type};

/// Key of `CONNTRACK_V4` (`A` is 4 bytes) and `CONNTRACK_V6` (16 bytes): a packet's ends, and where it is seen.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    pub source: A,
    pub destination: A,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// A `Direction`: the same ends mean something else on the way in and on the way out.
    pub direction: u8,
    pub zero: [u8; 2],
}
pub type TupleV4 = Tuple<[u8; 4]>;
pub type TupleV6 = Tuple<[u8; 16]>;
map_type!(TupleV4, 2 * 4 + 2 + 2 + 1 + 1 + 2);
map_type!(TupleV6, 2 * 16 + 2 + 2 + 1 + 1 + 2);

/// Value of `CONNTRACK_V4` and `CONNTRACK_V6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRef {
    /// Index into `FLOWS_V4` or `FLOWS_V6`.
    pub slot: u32,
    /// The lower 24 bits are the tag of the record's life, the upper 8 a `Leg`.
    pub tag_and_leg: u32,
}
map_type!(FlowRef, 4 + 4);

impl FlowRef {
    #[inline(always)]
    pub const fn new(slot: u32, tag: u32, leg: Leg) -> Self {
        Self { slot, tag_and_leg: tag & Life::TAG_MASK | (leg as u32) << 24 }
    }

    #[inline(always)]
    pub const fn tag(self) -> u32 {
        self.tag_and_leg & Life::TAG_MASK
    }

    #[inline(always)]
    pub const fn leg(self) -> Leg {
        match self.tag_and_leg >> 24 {
            0 => Leg::Dialled,
            1 => Leg::Forwarded,
            2 => Leg::Answered,
            _ => Leg::Returned,
        }
    }
}

/// The stretch of a flow's way on which a packet was met.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// From the client to what it dialled.
    Dialled = 0,
    /// From the client to the backend, to be masqueraded.
    Forwarded = 1,
    /// From the backend to the masquerade address.
    Answered = 2,
    /// From the backend to the client.
    Returned = 3,
}

/// Value of `FLOWS_V4` (`A` is 4 bytes) and `FLOWS_V6` (16 bytes).
///
/// All but `life` and the masquerade is written before anything leads here, and not changed until the life is over.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A> {
    pub life: Life,
    /// `NOT_MASQUERADED`, `CHOOSING` or `MASQUERADED`.
    pub masquerading: u64,
    pub client: A,
    /// What the client dialled: the frontend, or the former backend of a connected UDP socket.
    pub dialled: A,
    pub backend: A,
    /// The node's address that stands for the client, once `masquerading` is `MASQUERADED`.
    pub masquerade: A,
    pub client_port: [u8; 2],
    pub dialled_port: [u8; 2],
    pub backend_port: [u8; 2],
    pub masquerade_port: [u8; 2],
    /// The client's port behind the translation: another one where the client also has a flow of its own, or one
    /// through another frontend, between the same ends.
    pub forwarded_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    pub flags: FlowFlags,
    /// Index of the frontend that was decided on.
    pub frontend: u32,
    /// Index into `SERVICES` and `SERVICE_STATS`.
    pub service: u32,
    pub reference: BackendRef,
    /// When the flow began, in ticks.
    pub begun: u32,
}
pub type FlowV4 = Flow<[u8; 4]>;
pub type FlowV6 = Flow<[u8; 16]>;
map_type!(FlowV4, 8 + 8 + 4 * 4 + 5 * 2 + 1 + 1 + 2 * 4 + 8 + 4);
map_type!(FlowV6, 8 + 8 + 4 * 16 + 5 * 2 + 1 + 1 + 2 * 4 + 8 + 4);
/// One cache line.
const _: () = assert!(size_of::<FlowV4>() == 64);

/// No address stands for the client yet.
pub const NOT_MASQUERADED: u64 = 0;
/// Somebody is choosing one.
pub const CHOOSING: u64 = 1;
/// The masquerade fields hold.
pub const MASQUERADED: u64 = 2;

flags! {
    /// What is fixed for the life of a flow.
    FlowFlags(u8) {
        /// The backend sees the node's address instead of the client's.
        MASQUERADE = 0;
        /// The client is on the node itself, so its packets are met on the way out and the answers on the way in.
        HOST_CLIENT = 1;
        /// A connected UDP socket whose backend went: the socket still dials that one.
        RESTEERED = 2;
        /// Nothing is translated: the node's own datagrams from a port that is a NodePort, whose answers are not for it.
        PASSING = 3;
        /// One of its ends is on this node, or claims to be: its packets go through the node's stack.
        ON_NODE = 4;
    }
}

#[cfg(test)]
mod tests {
    use super::{FlowRef, Leg};

    #[test]
    fn references_keep_their_parts_apart() {
        for (leg, tag) in
            [(Leg::Dialled, 0), (Leg::Forwarded, 0xff_ffff), (Leg::Answered, 1), (Leg::Returned, 0xff_ffff)]
        {
            let reference = FlowRef::new(7, tag, leg);
            assert_eq!((reference.slot, reference.tag(), reference.leg()), (7, tag, leg));
        }
        assert_eq!(FlowRef::new(0, u32::MAX, Leg::Dialled).leg(), Leg::Dialled, "a tag never spills");
    }
}
