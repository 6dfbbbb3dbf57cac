//! Settings of the node outside of the data plane: nf_conntrack sysctls and the agent's OOM score. Best effort: the agent
//! logs a setting that it may not change, and continues.

mod ports;
mod sysctls;

pub use ports::{EphemeralPorts, masquerade_ports};

use std::{fs, io, thread};

use tracing::{info, warn};

use crate::config::{ConntrackConfig, HostConfig};
use sysctls::{ROOT, Setting, SysctlError};

/// Applies the configured settings that differ, and logs those that cannot be set. The agent works without each of them.
pub fn apply(config: &HostConfig) {
    if let Some(conntrack) = &config.conntrack {
        apply_conntrack(conntrack);
    }
    if let Some(score) = config.oom_score_adj {
        apply_oom_score(score);
    }
}

/// Enables the migration of TCP connections in an agent's accept queue to the next agent.
pub fn hand_over_connections() {
    apply_sysctl(&sysctls::MIGRATE_REQUESTS);
}

fn apply_conntrack(config: &ConntrackConfig) {
    sysctls::desired(config, cpus()).iter().for_each(apply_sysctl);
}

/// The number of CPUs that kube-proxy's limits per core count.
pub fn cpus() -> u32 {
    thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
}

/// Applies and logs a setting.
fn apply_sysctl(setting: &Setting) {
    match setting.apply(ROOT.as_ref()) {
        Ok(false) => {}
        Ok(true) => info!(sysctl = setting.name(), value = setting.value, "sysctl set"),
        Err(SysctlError::Absent { .. }) => info!(sysctl = setting.name(), "sysctl does not exist"),
        Err(error) => {
            let remedy = "run with --init-only in a privileged container";
            warn!(error = %crate::error::chain(&error), remedy, "sysctl not set");
        }
    }
}

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

fn apply_oom_score(score: i32) {
    if let Err(error) = set_oom_score(score) {
        // The container runtime or service manager has set a score already; lowering it needs CAP_SYS_RESOURCE.
        info!(score, %error, "OOM score unchanged");
    }
}

fn set_oom_score(score: i32) -> io::Result<()> {
    let wanted = score.to_string();
    if fs::read_to_string(OOM_SCORE_ADJ)?.trim() == wanted {
        return Ok(());
    }
    fs::write(OOM_SCORE_ADJ, wanted)
}
