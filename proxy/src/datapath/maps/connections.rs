//! The counters of connections of sockets, which programs add to at any time.
//!
//! Every index has a generation: sockets outlive the service port or backend that they were opened to, and must not count for the
//! next one with its index.

use std::{mem::offset_of, path::Path};

use proxy_ebpf::abi::{BackendConnections, BackendRef, ServiceConnections, map};

use super::{
    mmap_array::{Access, MmapArray},
    open::{OpenError, mapped, unmapped_array},
};
use crate::{
    datapath::kernel::now,
    model::address::{IpFamily, PerFamily},
    reconcile::MapError,
};

/// The counters of one pin directory.
pub struct Connections {
    services: MmapArray<ServiceConnections>,
    backends: PerFamily<MmapArray<BackendConnections>>,
}

impl Connections {
    pub fn open(dir: &Path, access: Access) -> Result<Self, OpenError> {
        let of = |family| mapped(dir, name(family), access);
        Ok(Self {
            services: mapped(dir, map::SERVICE_CONNECTIONS, access)?,
            backends: PerFamily { v4: of(IpFamily::V4)?, v6: of(IpFamily::V6)? },
        })
    }

    pub fn of_service(&self, service: u32) -> Result<ServiceConnections, MapError> {
        let found = self.services.read(service).map_err(unmapped_array(map::SERVICE_CONNECTIONS))?;
        Ok(found.unwrap_or_default())
    }

    pub fn of_backend(
        &self,
        family: IpFamily,
        reference: BackendRef,
    ) -> Result<BackendConnections, MapError> {
        let found = self.backends.get(family).read(reference.index).map_err(unmapped_array(name(family)))?;
        Ok(found.filter(|found| found.generation == reference.generation).unwrap_or_default())
    }

    /// Clears the counters of service ports that get these indices.
    pub fn clear_services(&mut self, indices: &[u32]) -> Result<(), MapError> {
        // Unique until reboot, as the maps are: a reused index is written nanoseconds later at least.
        let generation = u64::try_from(now().as_nanos()).unwrap_or(u64::MAX);
        let cleared = ServiceConnections { generation, ..ServiceConnections::default() };
        let offset = offset_of!(ServiceConnections, generation);
        indices.iter().try_for_each(|index| {
            let failed = unmapped_array(map::SERVICE_CONNECTIONS);
            // The generation first, so that the sockets of an earlier service port add to none of the new counters.
            let written = self.services.store_u64(*index, offset, cleared.generation);
            written.and_then(|()| self.services.write(*index, cleared)).map_err(failed)
        })
    }

    /// Clears the counters of a backend that no program can reach.
    pub fn clear_backend(&mut self, family: IpFamily, index: u32, generation: u32) -> Result<(), MapError> {
        let cleared = BackendConnections { generation, ..BackendConnections::default() };
        self.backends.get_mut(family).write(index, cleared).map_err(unmapped_array(name(family)))
    }

    /// Clears the counters of a backend unless they are its own.
    pub fn adopt_backend(&mut self, family: IpFamily, index: u32, generation: u32) -> Result<(), MapError> {
        let known = self.backends.get(family).read(index).map_err(unmapped_array(name(family)))?;
        if known.is_some_and(|known| known.generation != generation) {
            self.clear_backend(family, index, generation)?;
        }
        Ok(())
    }

    pub fn raise_generation(
        &mut self,
        family: IpFamily,
        index: u32,
        generation: u32,
    ) -> Result<(), MapError> {
        let offset = offset_of!(BackendConnections, generation);
        let stored = self.backends.get_mut(family).store_u32(index, offset, generation);
        stored.map_err(unmapped_array(name(family)))
    }

    pub fn release(&mut self) {
        self.services.release();
        IpFamily::BOTH.into_iter().for_each(|family| self.backends.get_mut(family).release());
    }

    /// Gives the service ports the generations that their sockets know from smaller counters. Those of backends follow from the
    /// backends.
    pub fn adopt_generations(&mut self, earlier: &Self) -> Result<(), MapError> {
        for index in 0..earlier.services.capacity() {
            let generation = earlier.of_service(index)?.generation;
            // Not 0: an agent that died meanwhile has given the index to another service port.
            if generation != 0 && self.of_service(index)?.generation == 0 {
                let new = ServiceConnections { generation, ..ServiceConnections::default() };
                self.services.write(index, new).map_err(unmapped_array(map::SERVICE_CONNECTIONS))?;
            }
        }
        self.release();
        Ok(())
    }

    /// Moves the counts of smaller counters here, if they have the same generation and no program adds to them any more. An agent
    /// that dies in between leaves the rest to its successor.
    pub fn take_over(&mut self, earlier: &mut Self) -> Result<(), MapError> {
        for index in 0..earlier.services.capacity() {
            let counts = earlier.of_service(index)?;
            if !counts.is_unused() {
                earlier.clear_services(&[index])?;
                self.add_service(index, &counts)?;
            }
        }
        for family in IpFamily::BOTH {
            let (earlier, present) = (earlier.backends.get_mut(family), self.backends.get(family));
            for index in 0..earlier.capacity() {
                take_over_backend(present, index, earlier).map_err(unmapped_array(name(family)))?;
            }
        }
        self.release();
        Ok(())
    }

    fn add_service(&self, index: u32, earlier: &ServiceConnections) -> Result<(), MapError> {
        let ServiceConnections {
            generation,
            closed,
            failures,
            sent,
            received,
            retransmissions,
            round_trips,
            round_trip_samples,
            connect_time,
            connect_times,
            forwarded,
        } = *earlier;
        if self.of_service(index)?.generation != generation {
            return Ok(());
        }
        let array = |start: usize, counts: &[u64]| {
            let offsets = (0..).map(move |at| start + at * size_of::<u64>());
            offsets.zip(counts.to_vec()).collect::<Vec<_>>()
        };
        let counters = [
            (offset_of!(ServiceConnections, closed), closed),
            (offset_of!(ServiceConnections, sent), sent),
            (offset_of!(ServiceConnections, received), received),
            (offset_of!(ServiceConnections, retransmissions), retransmissions),
            (offset_of!(ServiceConnections, round_trips), round_trips),
            (offset_of!(ServiceConnections, round_trip_samples), round_trip_samples),
            (offset_of!(ServiceConnections, connect_time), connect_time),
        ];
        let failures = array(offset_of!(ServiceConnections, failures), &failures);
        let connect_times = array(offset_of!(ServiceConnections, connect_times), &connect_times);
        let forwarded = forwarded.map(|traffic| [traffic.packets, traffic.bytes]);
        let forwarded = array(offset_of!(ServiceConnections, forwarded), forwarded.as_flattened());
        let mut all = counters.into_iter().chain(failures).chain(connect_times).chain(forwarded);
        all.try_for_each(|(offset, count)| self.services.add_u64(index, offset, count))
            .map_err(unmapped_array(map::SERVICE_CONNECTIONS))
    }
}

fn take_over_backend(
    present: &MmapArray<BackendConnections>,
    index: u32,
    earlier: &mut MmapArray<BackendConnections>,
) -> std::io::Result<()> {
    let Some(counts) = earlier.read(index)? else { return Ok(()) };
    let cleared = BackendConnections { generation: counts.generation, ..BackendConnections::default() };
    if counts == cleared {
        return Ok(());
    }
    earlier.write(index, cleared)?;
    if present.read(index)?.is_none_or(|known| known.generation != counts.generation) {
        return Ok(());
    }
    let BackendConnections { opened, closed, sent, received, failures, retransmissions, round_trip, .. } =
        counts;
    let words = [
        (offset_of!(BackendConnections, opened), opened),
        (offset_of!(BackendConnections, closed), closed),
        (offset_of!(BackendConnections, sent), sent),
        (offset_of!(BackendConnections, received), received),
    ];
    words.into_iter().try_for_each(|(offset, count)| present.add_u64(index, offset, count))?;
    for (at, count) in failures.into_iter().enumerate() {
        present.add_u32(index, offset_of!(BackendConnections, failures) + at * size_of::<u32>(), count)?;
    }
    present.add_u32(index, offset_of!(BackendConnections, retransmissions), retransmissions)?;
    // An average: the next connection that closes corrects what two of them were added up to.
    let offset = offset_of!(BackendConnections, round_trip);
    if present.read(index)?.is_some_and(|known| known.round_trip == 0) {
        present.add_u32(index, offset, round_trip)?;
    }
    Ok(())
}

/// The name of the array of a family.
fn name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => map::BACKEND_CONNECTIONS_V4,
        IpFamily::V6 => map::BACKEND_CONNECTIONS_V6,
    }
}
