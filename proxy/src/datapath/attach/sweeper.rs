//! The timer that ends expired flows. It lives in a pinned map, so it goes on without an agent.

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use proxy_ebpf::abi::map;

use super::load::{LoadError, Programs};

#[derive(Debug, thiserror::Error)]
pub enum SweeperError {
    #[error(transparent)]
    Program(#[from] LoadError),
    #[error("cannot run the program that starts the timer of flows")]
    Run(#[source] ProgramError),
    #[error("the kernel refuses the timer of flows: error {0}")]
    Timer(i32),
}

/// Starts the timer, or lets the one that an earlier agent started go on with these programs.
pub fn start_sweeper(programs: &mut Programs) -> Result<(), SweeperError> {
    // The kernel runs such a program only on a packet; an Ethernet header is the shortest.
    let packet = [0; 14];
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() };
    let outcome = programs.tc(map::START_SWEEPER)?.test_run(options).map_err(SweeperError::Run)?;
    match outcome.return_value.cast_signed() {
        0 => Ok(()),
        error => Err(SweeperError::Timer(error)),
    }
}
