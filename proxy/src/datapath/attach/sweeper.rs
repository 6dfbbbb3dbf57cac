//! The timer that deletes expired flows. It lives in a pinned map, so it keeps running without an agent.

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use proxy_ebpf::abi::map;

use super::load::{LoadError, Programs};

#[derive(Debug, thiserror::Error)]
pub enum SweeperError {
    #[error(transparent)]
    Program(#[from] LoadError),
    #[error("cannot run the program that starts the flow timer")]
    Run(#[source] ProgramError),
    #[error("the kernel refuses the flow timer: error {0}")]
    Timer(i32),
}

/// Starts the timer, or lets the one of an earlier agent continue with these programs.
pub fn start_sweeper(programs: &mut Programs) -> Result<(), SweeperError> {
    // A test run needs a packet, of at least an Ethernet header.
    let packet = [0; 14];
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() };
    let outcome = programs.tc(map::START_SWEEPER)?.test_run(options).map_err(SweeperError::Run)?;
    match outcome.return_value.cast_signed() {
        0 => Ok(()),
        error => Err(SweeperError::Timer(error)),
    }
}
