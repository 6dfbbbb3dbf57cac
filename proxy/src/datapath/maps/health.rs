//! Passive health of backends, which the programs write. An entry with another generation is an earlier backend's, so the agent need
//! not clear any.

use std::path::Path;

use aya::maps::{MapData, PerCpuArray};
use proxy_ebpf::abi::{BackendHealth, BackendRef, flow_state::TICK_SHIFT, map};

use super::{
    mmap_array::{Access, MmapArray},
    open::{OpenError, mapped, per_cpu, refused, unmapped_array},
};
use crate::{
    datapath::kernel::now,
    model::{address::IpFamily, health::Suspicion},
    reconcile::MapError,
};

/// The health of one pin directory's backends.
pub struct Health {
    backends: MmapArray<BackendHealth>,
    suspicion: MmapArray<u64>,
    changes: PerCpuArray<MapData, u64>,
}

impl Health {
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let backends = mapped(dir, map::BACKEND_HEALTH, Access::Read)?;
        let suspicion = mapped(dir, map::SUSPICION, Access::Read)?;
        Ok(Self { backends, suspicion, changes: per_cpu(dir, map::HEALTH_CHANGES)? })
    }

    pub fn of_backend(&self, family: IpFamily, reference: BackendRef) -> Result<Option<Suspicion>, MapError> {
        let index = BackendHealth::index(u32::from(family == IpFamily::V6), reference.index);
        let found = self.backends.read(index).map_err(unmapped_array(map::BACKEND_HEALTH))?;
        Ok(Suspicion::of(&found.unwrap_or_default(), reference.generation, now()))
    }

    /// Whether some backend may be suspected now.
    pub fn is_current(&self) -> Result<bool, MapError> {
        let until = self.suspicion.read(0).map_err(unmapped_array(map::SUSPICION))?.unwrap_or_default();
        let tick = (now().as_nanos() >> TICK_SHIFT) as u32;
        Ok(until != 0 && (until as u32).wrapping_sub(tick).cast_signed() > 0)
    }

    /// The counter of a change, by its index in `HealthChange`.
    pub fn changes(&self, at: u32) -> Result<u64, MapError> {
        let values = self.changes.get(&at, 0).map_err(refused("read", map::HEALTH_CHANGES))?;
        Ok(values.iter().fold(0, |sum, cpu| sum.wrapping_add(*cpu)))
    }

    pub fn release(&mut self) {
        self.backends.release();
    }
}
