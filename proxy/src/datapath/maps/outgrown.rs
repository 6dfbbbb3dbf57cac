//! The content of maps that larger ones replace.
//!
//! Backends and service ports keep their indices: flows, affinity and sockets refer to them. They are copied before the
//! first pass, and only the new maps change from then on. Counters of connections are moved when all programs use the new
//! ones. Flows change as long as programs that know only the old tables are at a hook: their records are copied before these
//! leave, and once more after; then `adopt_flows` inserts the references to them.

use std::{cmp::Reverse, io, path::Path, time::Duration};

use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use proxy_ebpf::abi::{
    BackendV4, BackendV6, Flow, FlowCounters, FlowDirection, FlowState, MAPS, MASQUERADE_DONE, MapSpec,
    ServiceName, ServiceStats, flow_state, map,
};

use super::{
    connections::Connections,
    mmap_array::{Access, MmapArray},
    open::{OpenError, hash, mapped, per_cpu, refused, unmapped_array},
};
use crate::{
    datapath::{
        kernel::grace_period,
        pins::{PinError, Pins, pin_name},
        sizes::{MapGroup, group},
    },
    reconcile::MapError,
};

#[derive(Debug, thiserror::Error)]
pub enum OutgrownError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error("cannot wait for a grace period")]
    Grace(#[source] io::Error),
}

/// Copies backends, service ports and their counters, and forgets the maps of this group.
pub fn copy_outgrown(pins: &Pins) -> Result<(), OutgrownError> {
    let (from, to) = (pins.outgrown(), pins.maps());
    if is_there(&from, map::BACKENDS_V4) {
        copy_array::<BackendV4>(&from, &to, map::BACKENDS_V4)?;
    }
    if is_there(&from, map::BACKENDS_V6) {
        copy_array::<BackendV6>(&from, &to, map::BACKENDS_V6)?;
    }
    if is_there(&from, map::SERVICES) {
        copy_services(&from, &to)?;
    }
    let is_done = |spec: &&MapSpec| matches!(group(spec), Some(MapGroup::Derived | MapGroup::Health));
    for spec in MAPS.iter().filter(is_done) {
        pins.drop_outgrown(spec)?;
    }
    if are_connections_outgrown(&from) {
        let earlier = Connections::open(&from, Access::Read)?;
        Connections::open(&to, Access::Write)?.adopt_generations(&earlier)?;
    }
    Ok(())
}

fn are_connections_outgrown(from: &Path) -> bool {
    let names = [map::SERVICE_CONNECTIONS, map::BACKEND_CONNECTIONS_V4, map::BACKEND_CONNECTIONS_V6];
    names.into_iter().all(|name| is_there(from, name))
}

/// Moves the counters of connections to the larger ones that replace them, and forgets them. Call it when no program with the smaller
/// ones is attached any more: as a difference of counters, the number of open connections would stay wrong.
pub fn take_over_connections(pins: &Pins) -> Result<(), OutgrownError> {
    let (from, to) = (pins.outgrown(), pins.maps());
    if are_connections_outgrown(&from) {
        // A program that still runs adds to the smaller ones.
        grace_period().map_err(OutgrownError::Grace)?;
        let mut earlier = Connections::open(&from, Access::Write)?;
        Connections::open(&to, Access::Write)?.take_over(&mut earlier)?;
    }
    let mut specs = MAPS.iter().filter(|spec| group(spec) == Some(MapGroup::Connections));
    Ok(specs.try_for_each(|spec| pins.drop_outgrown(spec))?)
}

fn is_there(dir: &Path, name: &str) -> bool {
    MAPS.iter().any(|spec| spec.name == name && dir.join(pin_name(spec)).exists())
}

fn copy_array<T: Pod>(from: &Path, to: &Path, name: &'static str) -> Result<(), OutgrownError> {
    let old = mapped::<T>(from, name, Access::Read)?;
    let mut new = mapped::<T>(to, name, Access::Write)?;
    let copy = |index| match old.read(index)? {
        Some(value) => new.write(index, value),
        None => Ok(()),
    };
    Ok((0..old.capacity()).try_for_each(copy).map_err(unmapped_array(name))?)
}

/// The counters follow their service ports, as far as both are there.
fn copy_services(from: &Path, to: &Path) -> Result<(), OutgrownError> {
    let old: HashMap<MapData, u32, ServiceName> = hash(from, map::SERVICES)?;
    let mut new: HashMap<MapData, u32, ServiceName> = hash(to, map::SERVICES)?;
    let has_counters = is_there(from, map::SERVICE_STATS);
    let old_stats = has_counters.then(|| per_cpu::<ServiceStats>(from, map::SERVICE_STATS)).transpose()?;
    let mut new_stats = per_cpu::<ServiceStats>(to, map::SERVICE_STATS)?;
    for entry in old.iter() {
        let (id, name) = entry.map_err(refused("read", map::SERVICES))?;
        new.insert(id, name, 0).map_err(refused("write", map::SERVICES))?;
        if let Some(stats) = &old_stats {
            let counters = stats.get(&id, 0).map_err(refused("read", map::SERVICE_STATS))?;
            new_stats.set(id, counters, 0).map_err(refused("write", map::SERVICE_STATS))?;
        }
    }
    Ok(())
}

/// The flow tables that programs still use while larger ones wait to replace them.
pub struct OutgrownFlows {
    v4: Tables<[u8; 4]>,
    v6: Tables<[u8; 16]>,
}

struct Tables<A>
where
    Flow<A>: Pod,
{
    old: MmapArray<Flow<A>>,
    new: MmapArray<Flow<A>>,
    /// Absent if an agent left the old tables that did not count packets.
    old_counters: Option<MmapArray<FlowCounters>>,
    new_counters: MmapArray<FlowCounters>,
    name: &'static str,
}

/// The flows to copy.
#[derive(Clone, Copy, Debug)]
pub enum FlowSelection {
    /// Those of which every packet could begin another one. A TCP connection is found by the programs that use the old tables.
    OfDatagrams,
    /// All but connections that were over before this tick of the programs' clock: their clients may open others from the same port.
    All { ended_before: u32 },
}

impl FlowSelection {
    /// Time after which nothing is sent again for a closed connection. Long enough for most; the client resets the rest.
    const LINGER: u32 = flow_state::ticks(2);

    pub fn all(now: Duration) -> Self {
        let now = (now.as_nanos() >> flow_state::TICK_SHIFT) as u32;
        Self::All { ended_before: now.wrapping_sub(Self::LINGER) }
    }

    fn includes(self, protocol: u8, state: FlowState) -> bool {
        let is_tcp = i32::from(protocol) == libc::IPPROTO_TCP;
        match self {
            Self::OfDatagrams => !is_tcp,
            // Ticks wrap around.
            Self::All { ended_before } => {
                !(is_tcp && state.is_closed())
                    || ended_before.wrapping_sub(state.last_seen()).cast_signed() <= 0
            }
        }
    }
}

/// The result of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopiedFlows {
    /// Flows alive in the old tables.
    pub alive: usize,
    /// Flows whose place in the new table another flow had taken.
    pub lost: usize,
}

impl OutgrownFlows {
    /// Returns `None` if no flow tables were set aside.
    pub fn open(pins: &Pins) -> Result<Option<Self>, OutgrownError> {
        let (from, to) = (pins.outgrown(), pins.maps());
        if ![map::FLOWS_V4, map::FLOWS_V6].into_iter().all(|name| is_there(&from, name)) {
            return Ok(None);
        }
        Ok(Some(Self {
            v4: Tables::open(&from, &to, map::FLOWS_V4, map::FLOW_COUNTERS_V4)?,
            v6: Tables::open(&from, &to, map::FLOWS_V6, map::FLOW_COUNTERS_V6)?,
        }))
    }

    /// Copies what the new tables lack, and what is newer in the old ones.
    pub fn copy(&mut self, which: FlowSelection) -> Result<CopiedFlows, MapError> {
        let (v4, v6) = (self.v4.copy(which)?, self.v6.copy(which)?);
        Ok(CopiedFlows { alive: v4.alive + v6.alive, lost: v4.lost + v6.lost })
    }

    /// Lets the programs that use the old tables ignore connections that are over: they would take the SYN of a new one from the
    /// same port to the same backend, translated by other programs, for that of a direct connection, and translate it again.
    pub fn disown_closed(&mut self) -> Result<(), MapError> {
        self.v4.disown_closed()?;
        self.v6.disown_closed()
    }

    /// Records of the new table of a family.
    pub fn slots(&self) -> u32 {
        self.v4.new.capacity().max(self.v6.new.capacity())
    }

    /// Forgets the old tables. Their memory is freed with the last program that uses them.
    pub fn forget(self, pins: &Pins) -> Result<(), PinError> {
        let mut specs: Vec<_> = MAPS.iter().filter(|spec| group(spec) == Some(MapGroup::Flows)).collect();
        // `open` needs all of them: after a failure the rest is not taken for the whole.
        specs.sort_by_key(|spec| Reverse(spec.name));
        specs.into_iter().try_for_each(|spec| pins.drop_outgrown(spec))
    }
}

impl<A: Copy> Tables<A>
where
    Flow<A>: Pod,
{
    fn open(
        from: &Path,
        to: &Path,
        name: &'static str,
        counters: &'static str,
    ) -> Result<Self, OutgrownError> {
        let has_counters = is_there(from, counters);
        Ok(Self {
            old: mapped(from, name, Access::Write)?,
            new: mapped(to, name, Access::Write)?,
            old_counters: has_counters.then(|| mapped(from, counters, Access::Read)).transpose()?,
            new_counters: mapped(to, counters, Access::Write)?,
            name,
        })
    }

    fn disown_closed(&mut self) -> Result<(), MapError> {
        for slot in 0..self.old.capacity() {
            self.disown_if_closed(slot).map_err(unmapped_array(self.name))?;
        }
        self.old.release();
        Ok(())
    }

    fn disown_if_closed(&mut self, slot: u32) -> io::Result<()> {
        let is_closed = |flow: &Flow<A>| flow.state.is_alive() && flow.state.is_closed();
        if let Some(flow) = self.old.read(slot)?.filter(is_closed) {
            // A failure is a packet's refresh: the connection is not quite over, and its client's port is in use.
            self.old.compare_exchange_state(slot, flow.state, flow.state.doubted())?;
        }
        Ok(())
    }

    fn copy(&mut self, which: FlowSelection) -> Result<CopiedFlows, MapError> {
        let mut copied = CopiedFlows::default();
        for slot in 0..self.old.capacity() {
            let is_placed = self.copy_record(slot, which).map_err(unmapped_array(self.name))?;
            copied.alive += usize::from(is_placed.is_some());
            copied.lost += usize::from(is_placed == Some(false));
        }
        self.new.release();
        self.new_counters.release();
        Ok(copied)
    }

    /// Copies a record to the same slot. Returns `None` if it is not to be copied, `false` if another flow has the slot.
    fn copy_record(&mut self, slot: u32, which: FlowSelection) -> io::Result<Option<bool>> {
        let is_wanted = |flow: &Flow<A>| flow.state.is_alive() && which.includes(flow.protocol, flow.state);
        let Some(old) = self.old.read(slot)?.filter(is_wanted) else { return Ok(None) };
        let Some(new) = self.new.read(slot)? else { return Ok(Some(false)) };
        let is_same = new.state.is_alive() && new.state.tag() == old.state.tag();
        let state = if is_same { merged(old.state, new.state) } else { old.state };
        if is_same
            && (old.masquerade_state == new.masquerade_state || old.masquerade_state != MASQUERADE_DONE)
        {
            // A failure is a packet's refresh, which is later.
            self.new.compare_exchange_state(slot, new.state, state)?;
            return Ok(Some(true));
        }
        if !is_same && (new.state.is_alive() || new.state.has(FlowState::DYING)) {
            return Ok(Some(false));
        }
        // As in the programs, the CPU that changed the state owns the record.
        let owned = state.dying();
        if !self.new.compare_exchange_state(slot, new.state, owned)? {
            return Ok(Some(is_same));
        }
        self.new.write(slot, Flow { state: owned, ..old })?;
        self.copy_counters(slot)?;
        self.new.compare_exchange_state(slot, owned, state).map(Some)
    }
}

impl<A: Copy> Tables<A>
where
    Flow<A>: Pod,
{
    /// Copies the counters of a flow. What the old programs have not added to those of the service port yet, they may still add: here
    /// it counts as added.
    fn copy_counters(&mut self, slot: u32) -> io::Result<()> {
        for direction in [FlowDirection::Original, FlowDirection::Reply] {
            let at = |table: &MmapArray<Flow<A>>| FlowCounters::index(direction, slot, table.capacity());
            let old = match &self.old_counters {
                Some(counters) => counters.read(at(&self.old))?.unwrap_or_default(),
                None => FlowCounters::default(),
            };
            let added_packets = FlowCounters::added(old.generation(), old.packets);
            let copied = FlowCounters { added_bytes: old.bytes, added_packets, ..old };
            self.new_counters.write(at(&self.new), copied)?;
        }
        Ok(())
    }
}

/// The state of a flow that packets changed in both tables. The doubt in the old one is that of `disown_closed`.
fn merged(old: FlowState, new: FlowState) -> FlowState {
    let latest = if new.idle(old.last_seen()) > 0 { old } else { new };
    let unassured = old.bits() & new.bits() & FlowState::UNASSURED;
    let others = (old.bits() & !FlowState::IN_DOUBT | new.bits()) & !FlowState::UNASSURED;
    FlowState::new(new.tag(), others | unassured, latest.last_seen())
}

impl<A: Copy> MmapArray<Flow<A>>
where
    Flow<A>: Pod,
{
    /// Changes the state of a flow by compare-and-swap. Returns `false` if it was not `old`.
    fn compare_exchange_state(&self, slot: u32, old: FlowState, new: FlowState) -> io::Result<bool> {
        self.compare_exchange_u64(slot, std::mem::offset_of!(Flow<A>, state), old.0, new.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_first_and_no_connection_that_ended_long_ago() {
        let state = |bits, last_seen| FlowState::new(7, FlowState::ALIVE | bits, last_seen);
        const TCP: u8 = libc::IPPROTO_TCP as u8;
        const UDP: u8 = libc::IPPROTO_UDP as u8;
        const FINS: u8 = FlowState::ORIGINAL_FIN | FlowState::REPLY_FIN;
        let now = u32::MAX - 3;
        let all = FlowSelection::All { ended_before: now };
        for (protocol, bits, last_seen, is_first, is_copied) in [
            (UDP, 0, now - 90, true, true),
            (TCP, 0, now - 90, false, true),
            (TCP, FINS, now - 1, false, false),
            (TCP, FlowState::RESET, now - 1, false, false),
            (TCP, FINS, now, false, true),
            (TCP, FINS, now.wrapping_add(9), false, true),
        ] {
            let found = [FlowSelection::OfDatagrams, all]
                .map(|which| which.includes(protocol, state(bits, last_seen)));
            assert_eq!(found, [is_first, is_copied], "{protocol} {bits} {last_seen}");
        }
    }

    #[test]
    fn a_flow_seen_in_both_tables_keeps_what_either_saw() {
        const ALIVE: u8 = FlowState::ALIVE;
        let state = |bits, last_seen| FlowState::new(7, ALIVE | bits, last_seen);
        let (unassured, reply, fin) = (FlowState::UNASSURED, FlowState::SEEN_REPLY, FlowState::ORIGINAL_FIN);
        for (old, new, want) in [
            (state(unassured, 5), state(unassured, 5), state(unassured, 5)),
            (state(unassured | reply, 6), state(unassured, 5), state(unassured | reply, 6)),
            (state(reply, 6), state(unassured | reply, 9), state(reply, 9)),
            (state(reply | fin, 6), state(reply, 9), state(reply | fin, 9)),
            (state(reply | FlowState::IN_DOUBT, 6), state(reply, 9), state(reply, 9)),
            (state(reply, 6), state(reply | FlowState::IN_DOUBT, 9), state(reply | FlowState::IN_DOUBT, 9)),
        ] {
            assert_eq!(merged(old, new), want, "{old:?} {new:?}");
        }
    }
}
