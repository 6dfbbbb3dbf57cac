//! A slot that is given to another flow while a packet of its former flow is being decided about.

use std::{
    hint,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use proxy_ebpf::abi::{
    Direction, Flow as Record, FlowRef, FlowState, TupleKind, TupleV4, flow_state::ticks, map,
};

use super::{
    connection::{ConnectionNode, ENDPOINTS, Place},
    fixture::EXTERNAL_INGRESS,
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
    let mut entries: HashMap<_, TupleV4, FlowRef> =
        Map::HashMap(node.fixture.map(map::CONNTRACK_V4)?).try_into()?;
    let tuple = TupleV4 {
        source: record.client,
        destination: record.destination,
        source_port: record.client_port,
        destination_port: record.destination_port,
        protocol: record.protocol,
        direction: Direction::Ingress as u8,
        zero: [0; 2],
    };
    let reference = FlowRef::new(slot, record.state.tag(), TupleKind::Original);
    let records: Records = node.fixture.array(map::FLOWS_V4)?;
    let (is_over, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let turns = scope.spawn(|| take_turns(records, slot, record, &is_over, &ended));
        let sent = (0..RUNS).try_for_each(|_| {
            entries.insert(tuple, reference, 0)?;
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
