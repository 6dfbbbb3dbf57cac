//! Settings of the node outside of the data plane: nf_conntrack sysctls and the agent's OOM score. Best effort: the agent
//! logs a setting that it may not change, and continues.

mod ports;
mod sysctls;

pub use ports::masquerade_ports;

use std::{fs, io, thread};

use tracing::{info, warn};

use crate::config::{ConntrackConfig, HostConfig};
use sysctls::{ROOT, Setting, SysctlError};

/// Applies the configured settings that differ. Returns `false` if one could not be set.
pub fn apply(config: &HostConfig) -> bool {
    let conntrack = config.conntrack.is_none_or(|conntrack| apply_conntrack(&conntrack));
    let oom_score = config.oom_score_adj.is_none_or(apply_oom_score);
    conntrack && oom_score
}

/// Enables the migration of TCP connections in an agent's accept queue to the next agent. Returns `false` on failure.
pub fn hand_over_connections() -> bool {
    apply_sysctl(&sysctls::MIGRATE_REQUESTS)
}

fn apply_conntrack(config: &ConntrackConfig) -> bool {
    let cpus =
        thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    // Collect first, so that a failure does not skip the others.
    let results: Vec<bool> = sysctls::desired(config, cpus).iter().map(apply_sysctl).collect();
    results.into_iter().all(|is_set| is_set)
}

/// Applies and logs a setting. A sysctl that does not exist counts as set.
fn apply_sysctl(setting: &Setting) -> bool {
    match setting.apply(ROOT.as_ref()) {
        Ok(false) => true,
        Ok(true) => {
            info!(sysctl = setting.name(), value = setting.value, "sysctl set");
            true
        }
        Err(SysctlError::Absent { .. }) => {
            info!(sysctl = setting.name(), "sysctl does not exist");
            true
        }
        Err(error) => {
            let remedy = "run with --init-only in a privileged container";
            warn!(error = %crate::error::chain(&error), remedy, "sysctl not set");
            false
        }
    }
}

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

fn apply_oom_score(score: i32) -> bool {
    match set_oom_score(score) {
        Ok(()) => true,
        // The container runtime or service manager has set a score already; lowering it needs CAP_SYS_RESOURCE.
        Err(error) => {
            info!(score, %error, "OOM score unchanged");
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
