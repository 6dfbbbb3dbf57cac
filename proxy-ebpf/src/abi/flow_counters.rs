//! Packets and bytes of flows, each direction by itself.
//!
//! A packet adds to the counters of its own flow, which no other CPU uses at the time, as a rule; so it needs no atomic operation.
//! The sweep and the end of the flow add what is new to the counters of the service port.

use super::{FlowDirection, map_type};

/// Value of `FLOW_COUNTERS_V4` and `FLOW_COUNTERS_V6`: of one direction of a flow, cleared when the flow begins. Two CPUs that have
/// packets of one direction at the same moment may lose one of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// As the kernel hands them over: segments that it merged are one packet, as nf_conntrack counts.
    pub packets: u64,
    /// From the IP header on, with the padding of short frames.
    pub bytes: u64,
    /// Of `bytes`, those that the counters of the service port have.
    pub added_bytes: u64,
    /// Likewise of `packets`, the lower half; above it the lower half of `ServiceConnections::generation` when the flow began. One
    /// word, as programs have no compare-and-swap for half of one.
    pub added_packets: u64,
}
map_type!(FlowCounters, 4 * 8);

impl FlowCounters {
    /// Elements of the array for each flow.
    pub const DIRECTIONS: u32 = 2;

    /// The index of a direction of the flow in a slot. The original directions of all `flows` come first: the directions of one
    /// flow are often on two CPUs, and do not share a cache line.
    #[inline(always)]
    pub const fn index(direction: FlowDirection, slot: u32, flows: u32) -> u32 {
        match direction {
            FlowDirection::Original => slot,
            FlowDirection::Reply => slot.wrapping_add(flows),
        }
    }

    /// `added_packets` for a generation and a number of packets.
    #[inline(always)]
    pub const fn added(generation: u32, packets: u64) -> u64 {
        (generation as u64) << 32 | packets & u32::MAX as u64
    }

    /// The lower half of `ServiceConnections::generation` when the flow began.
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        (self.added_packets >> 32) as u32
    }

    /// Bytes that are not yet added to the counters of the service port. None, if another flow has begun in the record since
    /// they were read.
    #[inline(always)]
    pub const fn new_bytes(&self) -> u64 {
        let more = self.bytes.wrapping_sub(self.added_bytes);
        if more > i64::MAX as u64 { 0 } else { more }
    }

    /// Likewise packets.
    #[inline(always)]
    pub const fn new_packets(&self) -> u32 {
        let more = (self.packets as u32).wrapping_sub(self.added_packets as u32);
        if more > i32::MAX as u32 { 0 } else { more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_never_negative() {
        let counters = |packets, bytes, added_packets, added_bytes| FlowCounters {
            packets,
            bytes,
            added_packets: FlowCounters::added(u32::MAX, added_packets),
            added_bytes,
        };
        for (counters, packets, bytes) in [
            (counters(0, 0, 0, 0), 0, 0),
            (counters(5, 900, 2, 300), 3, 600),
            (counters((1 << 32) + 1, 1 << 40, u32::MAX.into(), 1 << 39), 2, 1 << 39),
            // The record is another flow's by now.
            (counters(1, 60, 70, 9_000), 0, 0),
        ] {
            assert_eq!(counters.generation(), u32::MAX);
            assert_eq!((counters.new_packets(), counters.new_bytes()), (packets, bytes), "{counters:?}");
        }
    }

    #[test]
    fn directions_have_elements_of_their_own() {
        assert_eq!(FlowCounters::index(FlowDirection::Original, 7, 100), 7);
        assert_eq!(FlowCounters::index(FlowDirection::Reply, 7, 100), 107);
    }
}
