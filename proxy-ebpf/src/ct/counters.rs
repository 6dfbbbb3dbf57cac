//! Packets and bytes of flows, see `abi::FlowCounters`.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, btf_maps::Array, macros::btf_map};
use proxy_ebpf::abi::{FlowCounters, FlowDirection, FlowRef, Traffic, TupleKind, map};

use crate::{
    atomic::compare_exchange,
    config::max_flows,
    family::{Family, V4, V6},
    metrics,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static FLOW_COUNTERS_V4: Array<FlowCounters, { map::MAX_FLOW_COUNTERS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FLOW_COUNTERS_V6: Array<FlowCounters, { map::MAX_FLOW_COUNTERS as usize }, MMAPABLE> = Array::new();

#[inline(always)]
fn counters<F: Family>(slot: u32, direction: FlowDirection) -> Option<*mut FlowCounters> {
    let index = FlowCounters::index(direction, slot, max_flows());
    if F::IS_V6 { FLOW_COUNTERS_V6.get_ptr_mut(index) } else { FLOW_COUNTERS_V4.get_ptr_mut(index) }
}

/// Clears the counters of a flow that begins. The caller owns its record.
#[inline(always)]
pub fn begin<F: Family>(slot: u32, service: u32) {
    if F::IS_V6 {
        begin_counters_v6(slot, service)
    } else {
        begin_counters_v4(slot, service)
    };
}

/// With external linkage: its frame has ended before the references are inserted.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin_counters_v4(slot: u32, service: u32) -> u32 {
    clear::<V4>(slot, service)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin_counters_v6(slot: u32, service: u32) -> u32 {
    clear::<V6>(slot, service)
}

#[inline(always)]
fn clear<F: Family>(slot: u32, service: u32) -> u32 {
    let generation = metrics::Counters::generation(service).unwrap_or_default() as u32;
    let added_packets = FlowCounters::added(generation, 0);
    let cleared = FlowCounters { packets: 0, bytes: 0, added_bytes: 0, added_packets };
    for direction in [FlowDirection::Original, FlowDirection::Reply] {
        if let Some(counters) = counters::<F>(slot, direction) {
            // SAFETY: in an array map; of the record that the caller owns. Another CPU that still adds what the previous flow had
            // finds less than was added, and adds nothing.
            unsafe { counters.write_volatile(cleared) };
        }
    }
    0
}

/// Reads the counters that the packet will need if the reference is that of its flow. Nothing waits for the result, so their cache line
/// and the record's, which would follow one after the other, arrive together: with many flows both are misses.
#[inline(always)]
pub fn prefetch<F: Family>(reference: FlowRef) {
    let direction = match reference.kind() {
        TupleKind::Original | TupleKind::OriginalAfterDnat => FlowDirection::Original,
        TupleKind::Reply | TupleKind::ReplyAfterReverseSnat => FlowDirection::Reply,
    };
    if let Some(counters) = counters::<F>(reference.slot(), direction) {
        // SAFETY: in an array map; volatile, as the value is not used.
        unsafe { (&raw const (*counters).packets).read_volatile() };
    }
}

/// Counts a packet with so many bytes.
#[inline(always)]
pub fn count<F: Family>(slot: u32, direction: FlowDirection, bytes: u32) {
    let Some(counters) = counters::<F>(slot, direction) else { return };
    // SAFETY: in an array map; aligned words, volatile because the sweep reads them.
    unsafe {
        let (packets, sum) = (&raw mut (*counters).packets, &raw mut (*counters).bytes);
        packets.write_volatile(packets.read_volatile().wrapping_add(1));
        sum.write_volatile(sum.read_volatile().wrapping_add(bytes.into()));
    }
}

/// Adds what is new of a flow to the counters of its service port.
#[inline(always)]
pub fn add_to_service<F: Family>(slot: u32, service: u32) {
    if F::IS_V6 {
        add_counters_v6(slot, service)
    } else {
        add_counters_v4(slot, service)
    };
}

/// With external linkage: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_counters_v4(slot: u32, service: u32) -> u32 {
    add::<V4>(slot, service)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_counters_v6(slot: u32, service: u32) -> u32 {
    add::<V6>(slot, service)
}

#[inline(always)]
fn add<F: Family>(slot: u32, service: u32) -> u32 {
    add_direction::<F>(slot, service, FlowDirection::Original);
    add_direction::<F>(slot, service, FlowDirection::Reply);
    0
}

/// A number is added by the CPU that stores it as added.
#[inline(always)]
fn add_direction<F: Family>(slot: u32, service: u32, direction: FlowDirection) {
    let Some(counters) = counters::<F>(slot, direction) else { return };
    // SAFETY: in an array map; volatile because other CPUs write it.
    let (found, added_packets, added_bytes) = unsafe {
        (counters.read_volatile(), &raw mut (*counters).added_packets, &raw mut (*counters).added_bytes)
    };
    let (mut packets, mut bytes) = (found.new_packets(), found.new_bytes());
    if packets == 0 && bytes == 0 {
        return;
    }
    let generation = found.generation();
    let all_added = FlowCounters::added(generation, found.packets);
    if compare_exchange(added_packets, found.added_packets, all_added) != found.added_packets {
        packets = 0;
    }
    if compare_exchange(added_bytes, found.added_bytes, found.bytes) != found.added_bytes {
        bytes = 0;
    }
    metrics::forwarded(service, generation, direction, &Traffic { packets: packets.into(), bytes });
}
