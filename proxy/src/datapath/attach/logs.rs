//! Forwards the programs' debug lines to the agent's log.
//!
//! They cost nothing when switched off: the level is a constant of the loaded programs, and the verifier
//! removes dead code.

use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

use super::load::{LOGS_OFF, Programs, log_level};

/// Forwards the lines until the runtime ends.
pub fn forward_logs(programs: &mut Programs) {
    if log_level() == LOGS_OFF {
        return;
    }
    match EbpfLogger::init(programs.ebpf_mut()) {
        Ok(logger) => drop(tokio::spawn(follow(logger))),
        Err(error) => warn!(error = %crate::error::chain(&error), "debug lines of the programs are lost"),
    }
}

async fn follow<T: log::Log>(logger: EbpfLogger<T>) {
    // SAFETY: the logger owns its ring buffer's descriptor for its whole life, and always returns that one.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let Ok(mut logger) = registered else { return };
    while let Ok(mut ready) = logger.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
