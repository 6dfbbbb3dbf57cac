//! What the agent sets on the node itself, outside of its own data plane: connection tracking and how reluctantly it is
//! killed. Best effort: what may not be set is said, and the agent goes on.

mod ports;
mod sysctls;

pub use ports::ports_for_others;

use std::{fs, io, thread};

use tracing::{info, warn};

use crate::config::{ConntrackConfig, HostConfig};
use sysctls::{SYSTEM, Setting, SysctlError};

/// Sets what is configured and different; `true` when all of it holds now.
pub fn apply(config: &HostConfig) -> bool {
    let conntrack = config.conntrack.is_none_or(|conntrack| apply_conntrack(&conntrack));
    let oom_score = config.oom_score_adj.is_none_or(apply_oom_score);
    conntrack && oom_score
}

/// Lets TCP connections that nobody has accepted yet pass from one agent to the next.
pub fn hand_over_connections() -> bool {
    report(&sysctls::HAND_OVER)
}

fn apply_conntrack(config: &ConntrackConfig) -> bool {
    let cpus =
        thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    // All of them are tried, whatever becomes of the first.
    let held: Vec<bool> = sysctls::wanted(config, cpus).iter().map(report).collect();
    held.into_iter().all(|holds| holds)
}

fn report(setting: &Setting) -> bool {
    match setting.apply(SYSTEM.as_ref()) {
        Ok(false) => true,
        Ok(true) => {
            info!(sysctl = setting.name(), value = setting.value, "sysctl set");
            true
        }
        Err(SysctlError::Absent { .. }) => {
            info!(sysctl = setting.name(), "sysctl does not exist here");
            true
        }
        Err(error) => {
            let remedy = "run with --init-only where that is permitted";
            warn!(error = %crate::error::chain(&error), remedy, "sysctl not set");
            false
        }
    }
}

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

fn apply_oom_score(score: i32) -> bool {
    match set_oom_score(score) {
        Ok(()) => true,
        // Whoever started the agent has chosen one already; only a privileged process may lower it.
        Err(error) => {
            info!(score, %error, "OOM score kept as it was");
            false
        }
    }
}

fn set_oom_score(score: i32) -> io::Result<()> {
    let wanted = score.to_string();
    if fs::read_to_string(OOM_SCORE_ADJ)?.trim() == wanted {
        return Ok(());
    }
    fs::write(OOM_SCORE_ADJ, wanted)
}
