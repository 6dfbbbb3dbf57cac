//! A slot that is given to another flow while a packet of its former flow is being decided about.

use std::{
    hint,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, MapData};
use proxy_ebpf::abi::{Bucket, Flow as Record, FlowRef, FlowState, TupleKind, flow_state::ticks, map};

use super::{
    connection::{ConnectionNode, ENDPOINTS, Place},
    fixture::{EXTERNAL_INGRESS, ProgramFixture},
    flow_states::flow_from,
    packet::Packet,
};

type Records = Array<MapData, Record<[u8; 4]>>;

const RUNS: u32 = 60_000;
const FLOWS: u32 = 64;
const TURN: Duration = Duration::from_micros(30);
/// The tag of the other flow is not one that the slot gets otherwise.
const OTHER_TAG: u32 = 0xab_cdef;
/// The client's port of the other flow, which no packet has.
const OTHER_PORT: [u8; 2] = [1, 2];

/// While datagrams of a flow that lost its backend are sent, its slot belongs to that flow and to another one by turns. The other
/// flow must not end.
pub fn slot_given_away(object: Option<&[u8]>) -> Result<()> {
    let mut node = ConnectionNode::new(object)?;
    node.endpoints(&ENDPOINTS[..1])?;
    let client = SocketAddr::new(Place::Outside.address(false), 40_001);
    let datagram = Packet::datagram(client, Place::Outside.frontend(false));
    node.fixture.run(EXTERNAL_INGRESS, &datagram)?;
    let found = flow_from::<[u8; 4]>(&node.fixture, FLOWS, client.port())?;
    let (slot, record) = found.context("no flow was created")?;
    node.endpoints(&ENDPOINTS[1..])?;
    let (at, bucket) = bucket_of(&node.fixture, slot, record.state.tag())?;
    let mut buckets = node.fixture.array::<Bucket>(map::CONNTRACK_V4)?;
    let records: Records = node.fixture.array(map::FLOWS_V4)?;
    let (is_over, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let turns = scope.spawn(|| take_turns(records, slot, record, &is_over, &ended));
        let sent = (0..RUNS).try_for_each(|_| {
            buckets.set(at, bucket, 0)?;
            node.fixture.run(EXTERNAL_INGRESS, &datagram)?;
            Ok::<_, anyhow::Error>(())
        });
        is_over.store(true, Ordering::Relaxed);
        turns.join().expect("it does not panic")?;
        sent
    })?;
    let ended = ended.into_inner();
    ensure!(ended == 0, "another flow in the slot ended {ended} times");
    Ok(())
}

/// The bucket with the reference by which the flow in a slot is found, alone in it.
fn bucket_of(fixture: &ProgramFixture, slot: u32, tag: u32) -> Result<(u32, Bucket)> {
    let buckets = fixture.array::<Bucket>(map::CONNTRACK_V4)?;
    let is_original = |reference: &FlowRef| {
        (reference.slot(), reference.tag(), reference.kind() as u8) == (slot, tag, TupleKind::Original as u8)
    };
    for at in 0..buckets.len() {
        let bucket = buckets.get(&at, 0)?;
        if bucket.iter().any(is_original) {
            return Ok((at, bucket.map(|it| if is_original(&it) { it } else { FlowRef::NONE })));
        }
    }
    bail!("the flow has no reference")
}

/// Counts in `ended` how often the other flow was found ended.
///
/// A program that has deleted the first flow may allocate this very slot for the next one. The other flow is then written into a
/// record that the program owns, against the rules; the program ends it with its own flow. Such a record has the program's fields.
fn take_turns(
    mut records: Records,
    slot: u32,
    record: Record<[u8; 4]>,
    is_over: &AtomicBool,
    ended: &AtomicU64,
) -> Result<()> {
    let idle = |state: FlowState, seconds| state.last_seen().wrapping_sub(ticks(seconds));
    let judged = FlowState::new(record.state.tag(), record.state.bits(), idle(record.state, 5));
    let other = FlowState::new(OTHER_TAG, FlowState::ALIVE | FlowState::SEEN_REPLY, idle(record.state, 0));
    let other = Record { state: other, client_port: OTHER_PORT, ..record };
    while !is_over.load(Ordering::Relaxed) {
        records.set(slot, Record { state: judged, ..record }, 0)?;
        records.set(slot, other, 0)?;
        // Longer than a program runs.
        let until = Instant::now() + TURN;
        while Instant::now() < until {
            hint::spin_loop();
        }
        let found = records.get(&slot, 0)?;
        if found.state.tag() == OTHER_TAG && !found.state.is_alive() && found.client_port == OTHER_PORT {
            ended.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
