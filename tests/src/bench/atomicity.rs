//! Clients connect to one ClusterIP while its backends change: no connect fails, and none reaches a backend after
//! the switch away from it.
//!
//! Every backend exists once: a generation is an address of its own, ready from one switch until another. A
//! server answers with the address that it was reached at, so an answer names the generation. The reconciler is
//! driven directly. The clock is read when `apply` has returned: from then on no new connect may reach a removed
//! backend. The clock is also read before `apply`: until then no connect may have reached an added backend.

mod changer;
pub mod dialler;
mod fixture;
mod judge;

use std::{num::NonZeroU32, time::Duration};

use anyhow::{Context as _, Result};

use self::{changer::Changer, fixture::AtomicityFixture};
use super::process::{finish, start};

pub use judge::AtomicityReport;

/// Parameters of the measurement.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    pub connects: u64,
    pub changes_per_second: u32,
    /// Timeout of `ClientIP` affinity, if the Service has it.
    pub affinity: Option<NonZeroU32>,
    /// Seed of the choice of backends.
    pub seed: u64,
}

/// Clients per family.
const CLIENTS: u8 = 2;

pub async fn run(parameters: &Parameters) -> Result<AtomicityReport> {
    let fixture = AtomicityFixture::create().await?;
    let mut changer = Changer::new(&fixture, parameters.affinity, parameters.seed)?;
    changer.change()?;
    fixture.attach()?;
    let task = dialler::Task { vips: fixture::vips(), connects: parameters.connects, clients: CLIENTS };
    let (process, output) = start(&task, &fixture.netns, &fixture.cgroup)?;
    let records = std::thread::spawn(move || dialler::read(output));
    changer.change_until(Duration::from_secs(1) / parameters.changes_per_second, || records.is_finished())?;
    let records = records.join().ok().context("the thread that reads the records panicked")??;
    finish(process).await?;
    Ok(judge::judge(changer.history(), &records))
}
