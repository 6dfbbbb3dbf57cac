//! Flows of earlier tables: their records were copied, and the programs insert the references by which they find them.

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use proxy_ebpf::abi::map;

use super::load::{LoadError, Programs};

#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(transparent)]
    Program(#[from] LoadError),
    #[error("cannot run the program that adopts flows")]
    Run(#[source] ProgramError),
    #[error("the program that adopts flows fails: error {0}")]
    Failed(i32),
}

/// Inserts the references to the live flows among the first `slots` records of each family, as far as they are missing. Packets of
/// other flows pass meanwhile.
pub fn adopt_flows(programs: &mut Programs, slots: u32) -> Result<(), AdoptError> {
    (0..slots).step_by(map::ADOPTED_PER_RUN as usize).try_for_each(|first| adopt_from(programs, first))
}

/// A bounded part, as a run occupies its processor.
fn adopt_from(programs: &mut Programs, first: u32) -> Result<(), AdoptError> {
    // A test run needs a packet, of at least an Ethernet header.
    let mut packet = [0; 14];
    packet[..size_of::<u32>()].copy_from_slice(&first.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() };
    let outcome = programs.tc(map::ADOPT_FLOWS)?.test_run(options).map_err(AdoptError::Run)?;
    match outcome.return_value.cast_signed() {
        0 => Ok(()),
        error => Err(AdoptError::Failed(error)),
    }
}
