//! The effective kube-proxy configuration: from the file (`--config`), else from kube-proxy's flags.

use anyhow::Result;
use tracing::{info, warn};

use super::{kube_proxy_args::KubeProxyArgs, policy_args::PolicyArgs};
use crate::{
    config::{HostConfig, WatchedFile},
    kube_proxy_config::{ConfigFile, KubeProxyConfiguration, Settings, without_effect},
};

/// The effective configuration and its source.
pub struct EffectiveConfig {
    pub settings: Settings,
    /// The file, or the flags in its format.
    pub config: KubeProxyConfiguration,
    pub host: HostConfig,
    pub file: Option<WatchedFile>,
}

/// Returns the effective configuration. Logs the fields that have no effect.
pub fn effective_config(
    flags: &KubeProxyArgs,
    policy: &PolicyArgs,
    file: Option<ConfigFile>,
) -> Result<EffectiveConfig> {
    let effective = match file {
        Some(file) => of_file(flags, file),
        None => of_flags(flags, policy)?,
    };
    for (field, reason) in without_effect(&effective.config) {
        info!(field, reason, "not applicable");
    }
    Ok(effective)
}

fn of_file(flags: &KubeProxyArgs, file: ConfigFile) -> EffectiveConfig {
    warn_of_overridden(&flags.overridden());
    let ConfigFile { path, text, config, settings, warnings: _ } = file;
    let host = HostConfig {
        conntrack: Some(settings.conntrack),
        reserve_ports: true,
        oom_score_adj: Some(settings.oom_score_adj),
    };
    EffectiveConfig { settings, config, host, file: Some(WatchedFile { path, text }) }
}

/// Logs the warnings of a file, and the flags that it overrides.
pub fn warn_about(file: &ConfigFile, policy: &PolicyArgs) {
    for warning in &file.warnings {
        warn!(file = %file.path.display(), warning, "invalid part of the configuration ignored");
    }
    warn_of_overridden(&policy.overridden());
}

fn warn_of_overridden(flags: &[&str]) {
    if !flags.is_empty() {
        warn!(flags = flags.join(" "), "flags ignored: overridden by the configuration file");
    }
}

/// Without a file, host settings are changed only if a flag is given.
fn of_flags(flags: &KubeProxyArgs, policy: &PolicyArgs) -> Result<EffectiveConfig> {
    let config = flags.config(policy);
    let settings = flags.settings(&config)?;
    let host = HostConfig {
        conntrack: flags.has_conntrack().then_some(settings.conntrack),
        reserve_ports: flags.init_only,
        oom_score_adj: flags.has_oom_score_adj().then_some(settings.oom_score_adj),
    };
    Ok(EffectiveConfig { settings, config, host, file: None })
}
