//! Settings of the node outside of the data plane: nf_conntrack sysctls, reserved ports and the agent's OOM score. Best
//! effort: the agent logs a setting that it may not change, and continues.

mod ports;
mod sysctls;

pub use ports::{EphemeralPorts, masquerade_ports};

use std::{fs, io, thread};

use tracing::{info, warn};

use crate::{
    config::{ConntrackConfig, HostConfig},
    error::chain,
};
use sysctls::{ROOT, Setting, SysctlError};

/// The remedy where this process may not write sysctls.
const PRIVILEGED: &str = "run with --init-only in a privileged container";

/// Applies the configured settings that differ, and logs those that cannot be set. The agent works without each of them.
/// Returns those that this node does not permit, each in a sentence.
pub fn apply(config: &HostConfig) -> Vec<String> {
    let mut impossible: Vec<String> = config.conntrack.iter().flat_map(apply_conntrack).collect();
    if config.reserve_ports {
        impossible.extend(reserve_ports());
    }
    impossible.extend(config.oom_score_adj.and_then(apply_oom_score));
    impossible
}

/// Enables the migration of TCP connections in an agent's accept queue to the next agent. Returns the reason if the node
/// does not permit that.
pub fn hand_over_connections() -> Option<String> {
    apply_sysctl(&sysctls::MIGRATE_REQUESTS)
}

/// Reserves a range of ports for masquerading where the node's own connections may have all. Returns the reason if the
/// node does not permit that.
fn reserve_ports() -> Option<String> {
    const SYSCTL: &str = "net.ipv4.ip_local_reserved_ports";
    match ports::reserve(ROOT.as_ref()) {
        Ok(None) => None,
        Ok(Some(value)) => {
            info!(sysctl = SYSCTL, value, "sysctl set");
            None
        }
        Err(error) => {
            warn!(sysctl = SYSCTL, %error, remedy = PRIVILEGED, "no ports reserved for masquerading");
            Some(format!("no ports are reserved for masquerading in sysctl {SYSCTL}: {error}; {PRIVILEGED}"))
        }
    }
}

fn apply_conntrack(config: &ConntrackConfig) -> Vec<String> {
    sysctls::desired(config, cpus()).iter().filter_map(apply_sysctl).collect()
}

/// The number of CPUs that kube-proxy's limits per core count.
pub fn cpus() -> u32 {
    thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
}

/// Applies and logs a setting. Returns the reason if the node does not permit it.
fn apply_sysctl(setting: &Setting) -> Option<String> {
    let (name, value) = (setting.name(), setting.value);
    match setting.apply(ROOT.as_ref()) {
        Ok(false) => None,
        Ok(true) => {
            info!(sysctl = name, value, "sysctl set");
            None
        }
        Err(SysctlError::Absent { .. }) => {
            info!(sysctl = name, "sysctl does not exist");
            Some(format!("sysctl {name} is not {value}: it does not exist here"))
        }
        Err(error) => {
            let error = chain(&error);
            warn!(error, remedy = PRIVILEGED, "sysctl not set");
            Some(format!("sysctl {name} is not {value}: {error}; {PRIVILEGED}"))
        }
    }
}

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

fn apply_oom_score(score: i32) -> Option<String> {
    let error = set_oom_score(score).err()?;
    // The container runtime or service manager has set a score already.
    info!(score, %error, "OOM score unchanged");
    Some(format!("the OOM score is not {score}: {error}; lowering it needs CAP_SYS_RESOURCE"))
}

fn set_oom_score(score: i32) -> io::Result<()> {
    let wanted = score.to_string();
    if fs::read_to_string(OOM_SCORE_ADJ)?.trim() == wanted {
        return Ok(());
    }
    fs::write(OOM_SCORE_ADJ, wanted)
}
