//! kube-proxy's file, or kube-proxy's flags in its place, and what is to be said about either.

use anyhow::Result;
use tracing::{info, warn};

use super::{kube_proxy_args::KubeProxyArgs, policy_args::PolicyArgs};
use crate::{
    config::{HostConfig, WatchedFile},
    kube_proxy_config::{ConfigFile, KubeProxyConfiguration, Settings, without_effect},
};

/// What was told, and by whom.
pub struct Told {
    pub settings: Settings,
    /// The file, or what the flags amount to as one.
    pub config: KubeProxyConfiguration,
    pub host: HostConfig,
    pub file: Option<WatchedFile>,
}

pub fn told(flags: &KubeProxyArgs, policy: &PolicyArgs, file: Option<ConfigFile>) -> Result<Told> {
    let told = match file {
        Some(file) => of_file(flags, file),
        None => of_flags(flags, policy)?,
    };
    for (field, reason) in without_effect(&told.config) {
        info!(field, reason, "not applicable");
    }
    Ok(told)
}

fn of_file(flags: &KubeProxyArgs, file: ConfigFile) -> Told {
    warn_of_overridden(&flags.given());
    let ConfigFile { path, text, config, settings, remarks: _ } = file;
    let host =
        HostConfig { conntrack: Some(settings.conntrack), oom_score_adj: Some(settings.oom_score_adj) };
    Told { settings, config, host, file: Some(WatchedFile { path, text }) }
}

/// What is to be said about a file whoever asked for it.
pub fn remark_on(file: &ConfigFile, policy: &PolicyArgs) {
    for remark in &file.remarks {
        warn!(file = %file.path.display(), remark, "configuration read leniently");
    }
    warn_of_overridden(&policy.overridden());
}

fn warn_of_overridden(flags: &[&str]) {
    if !flags.is_empty() {
        warn!(flags = flags.join(" "), "flags ignored: the configuration file counts");
    }
}

/// Without a file, the node's own settings are touched only when a flag asks for it.
fn of_flags(flags: &KubeProxyArgs, policy: &PolicyArgs) -> Result<Told> {
    let config = flags.config(policy);
    let settings = flags.settings(&config)?;
    let host = HostConfig {
        conntrack: flags.asks_for_conntrack().then_some(settings.conntrack),
        oom_score_adj: flags.asks_for_oom_score().then_some(settings.oom_score_adj),
    };
    Ok(Told { settings, config, host, file: None })
}
