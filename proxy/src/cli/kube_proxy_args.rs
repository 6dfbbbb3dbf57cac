//! kube-proxy's own flags, with the same meaning. They are converted to kube-proxy's file format and then handled as a
//! file is.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::{Result, anyhow};

use super::policy_args::PolicyArgs;
use crate::{
    kube_proxy_config::{self, GoDuration, Ipvs, KubeProxyConfiguration, Settings, join_errors},
    model::address::parse_ip,
};

#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Flags of kube-proxy")]
pub struct KubeProxyArgs {
    /// Address of /healthz and /livez; empty: off [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP[:PORT]")]
    healthz_bind_address: Option<String>,
    /// Address of /metrics; empty: off [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP[:PORT]")]
    metrics_bind_address: Option<String>,
    /// Exit if the agent cannot listen on one of these addresses, instead of retrying
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    bind_address_hard_fail: Option<bool>,
    /// The port of --healthz-bind-address; 0: off
    #[arg(long, value_name = "PORT", hide = true)]
    healthz_port: Option<u16>,
    /// The port of --metrics-bind-address; 0: off
    #[arg(long, value_name = "PORT", hide = true)]
    metrics_port: Option<u16>,
    /// Half of the age at which an unprogrammed change makes /healthz fail [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    iptables_sync_period: Option<GoDuration>,
    #[command(flatten)]
    conntrack: ConntrackArgs,
    /// The agent's oom_score_adj, -1000 to 1000; lower: the OOM killer spares it longer
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// Feature gates of kube-proxy; only AllowServiceExternalIPs=false has an effect
    #[arg(long, value_name = "NAME=BOOL,..", value_parser = feature_gates)]
    feature_gates: Option<BTreeMap<String, bool>>,
    /// Apply the settings that need full privileges (conntrack sysctls, ports reserved for masquerading) and exit
    #[arg(long)]
    pub init_only: bool,
    /// Write kube-proxy's default configuration to this file and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    #[command(flatten)]
    compatibility: CompatibilityArgs,
}

/// Settings of the kernel's connection tracking (nf_conntrack), applied if one of them or --config is given.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
struct ConntrackArgs {
    /// Maximum of nf_conntrack entries per CPU; 0: unchanged [default: 32768]
    #[arg(long, value_name = "N")]
    conntrack_max_per_core: Option<i32>,
    /// Lower bound of the maximum [default: 131072]
    #[arg(long, value_name = "N")]
    conntrack_min: Option<i32>,
    /// nf_conntrack timeout of established TCP flows; 0: unchanged [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    conntrack_tcp_timeout_established: Option<GoDuration>,
    /// nf_conntrack timeout of TCP flows in CLOSE_WAIT [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    conntrack_tcp_timeout_close_wait: Option<GoDuration>,
    /// Accept TCP packets outside of the window (nf_conntrack_tcp_be_liberal)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    conntrack_tcp_be_liberal: Option<bool>,
    /// nf_conntrack timeout of UDP flows without a reply; 0: unchanged
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    conntrack_udp_timeout: Option<GoDuration>,
    /// nf_conntrack timeout of UDP flows with a reply; 0: unchanged
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    conntrack_udp_timeout_stream: Option<GoDuration>,
}

/// Flags accepted for compatibility. Most have no effect; the agent logs the reason at start.
#[derive(Clone, Debug, Default, clap::Args)]
struct CompatibilityArgs {
    #[arg(long, hide = true)]
    kube_api_content_type: Option<String>,
    #[arg(long, hide = true)]
    kube_api_qps: Option<f32>,
    #[arg(long, hide = true)]
    kube_api_burst: Option<i32>,
    #[arg(long, hide = true, value_parser = duration)]
    config_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    profiling: Option<bool>,
    #[arg(long, hide = true)]
    show_hidden_metrics_for_version: Option<String>,
    #[arg(long, hide = true)]
    iptables_masquerade_bit: Option<i32>,
    #[arg(long, hide = true, value_parser = duration)]
    iptables_min_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, value_parser = duration)]
    ipvs_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, value_parser = duration)]
    ipvs_min_sync_period: Option<GoDuration>,
    #[arg(long, hide = true)]
    ipvs_scheduler: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    ipvs_exclude_cidrs: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ipvs_strict_arp: Option<bool>,
    #[arg(long, hide = true, value_parser = duration)]
    ipvs_tcp_timeout: Option<GoDuration>,
    #[arg(long, hide = true, value_parser = duration)]
    ipvs_tcpfin_timeout: Option<GoDuration>,
    #[arg(long, hide = true, value_parser = duration)]
    ipvs_udp_timeout: Option<GoDuration>,
    #[arg(long, hide = true)]
    vmodule: Option<String>,
    #[arg(long, hide = true, value_parser = duration)]
    log_flush_frequency: Option<GoDuration>,
}

impl KubeProxyArgs {
    /// The flags in kube-proxy's file format.
    pub fn config(&self, policy: &PolicyArgs) -> KubeProxyConfiguration {
        let mut config = KubeProxyConfiguration::default();
        policy.overlay(&mut config);
        set(&mut config.healthz_bind_address, self.healthz_bind_address.clone());
        set(&mut config.metrics_bind_address, self.metrics_bind_address.clone());
        set(&mut config.bind_address_hard_fail, self.bind_address_hard_fail);
        set(&mut config.iptables.sync_period, self.iptables_sync_period);
        config.oom_score_adj = self.oom_score_adj;
        set(&mut config.feature_gates, self.feature_gates.clone());
        self.conntrack.overlay(&mut config);
        self.compatibility.overlay(&mut config);
        config.set_defaults();
        config
    }

    /// The settings of the flags, validated as those of a file.
    pub fn settings(&self, config: &KubeProxyConfiguration) -> Result<Settings> {
        let mut settings =
            kube_proxy_config::settings(config).map_err(|errors| anyhow!(join_errors(&errors)))?;
        let serving = &mut settings.serving;
        serving.healthz =
            server_address(serving.healthz, self.healthz_bind_address.as_deref(), self.healthz_port);
        serving.metrics =
            server_address(serving.metrics, self.metrics_bind_address.as_deref(), self.metrics_port);
        Ok(settings)
    }

    pub fn has_conntrack(&self) -> bool {
        self.conntrack != ConntrackArgs::default()
    }

    /// The given flags that a file overrides.
    pub fn overridden(&self) -> Vec<&'static str> {
        let flags = [
            ("--healthz-bind-address", self.healthz_bind_address.is_some()),
            ("--metrics-bind-address", self.metrics_bind_address.is_some()),
            ("--healthz-port", self.healthz_port.is_some()),
            ("--metrics-port", self.metrics_port.is_some()),
            ("--bind-address-hard-fail", self.bind_address_hard_fail.is_some()),
            ("--iptables-sync-period", self.iptables_sync_period.is_some()),
            ("--conntrack-*", self.has_conntrack()),
            ("--oom-score-adj", self.has_oom_score_adj()),
            ("--feature-gates", self.feature_gates.is_some()),
        ];
        flags.into_iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| flag).collect()
    }

    pub fn has_oom_score_adj(&self) -> bool {
        self.oom_score_adj.is_some()
    }
}

impl ConntrackArgs {
    fn overlay(&self, config: &mut KubeProxyConfiguration) {
        let conntrack = &mut config.conntrack;
        conntrack.max_per_core = self.conntrack_max_per_core;
        conntrack.min = self.conntrack_min;
        conntrack.tcp_established_timeout = self.conntrack_tcp_timeout_established;
        conntrack.tcp_close_wait_timeout = self.conntrack_tcp_timeout_close_wait;
        set(&mut conntrack.tcp_be_liberal, self.conntrack_tcp_be_liberal);
        set(&mut conntrack.udp_timeout, self.conntrack_udp_timeout);
        set(&mut conntrack.udp_stream_timeout, self.conntrack_udp_timeout_stream);
    }
}

impl CompatibilityArgs {
    fn overlay(&self, config: &mut KubeProxyConfiguration) {
        let client = &mut config.client_connection;
        set(&mut client.content_type, self.kube_api_content_type.clone());
        set(&mut client.qps, self.kube_api_qps);
        set(&mut client.burst, self.kube_api_burst);
        set(&mut config.config_sync_period, self.config_sync_period);
        set(&mut config.enable_profiling, self.profiling);
        set(&mut config.show_hidden_metrics_for_version, self.show_hidden_metrics_for_version.clone());
        config.iptables.masquerade_bit = self.iptables_masquerade_bit;
        set(&mut config.iptables.min_sync_period, self.iptables_min_sync_period);
        set(
            &mut config.logging.flush_frequency,
            self.log_flush_frequency.map(|every| every.to_string().into()),
        );
        set(&mut config.logging.vmodule, self.vmodule.clone().map(|pattern| vec![pattern.into()]));
        self.overlay_ipvs(&mut config.ipvs);
    }

    fn overlay_ipvs(&self, ipvs: &mut Ipvs) {
        set(&mut ipvs.sync_period, self.ipvs_sync_period);
        set(&mut ipvs.min_sync_period, self.ipvs_min_sync_period);
        set(&mut ipvs.scheduler, self.ipvs_scheduler.clone());
        ipvs.exclude_cidrs.clone_from(&self.ipvs_exclude_cidrs);
        set(&mut ipvs.strict_arp, self.ipvs_strict_arp);
        set(&mut ipvs.tcp_timeout, self.ipvs_tcp_timeout);
        set(&mut ipvs.tcp_fin_timeout, self.ipvs_tcpfin_timeout);
        set(&mut ipvs.udp_timeout, self.ipvs_udp_timeout);
    }
}

fn set<T>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}

/// The address of a server, or `None` for an empty address or port 0. The port flag counts if the address has no port.
fn server_address(
    default: Option<SocketAddr>,
    address: Option<&str>,
    port: Option<u16>,
) -> Option<SocketAddr> {
    if address == Some("") || port == Some(0) {
        return None;
    }
    let has_port = address.is_some_and(|address| parse_ip(address).is_none());
    match port {
        Some(port) if !has_port => default.map(|address| SocketAddr::new(address.ip(), port)),
        Some(_) | None => default,
    }
}

fn duration(text: &str) -> Result<GoDuration, String> {
    GoDuration::parse(text).ok_or_else(|| format!("`{text}` is not a duration such as 30s or 1h30m"))
}

fn feature_gates(text: &str) -> Result<BTreeMap<String, bool>, String> {
    let gate = |part: &str| {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not NAME=BOOL"))?;
        let value = value.trim().parse().map_err(|_| format!("`{value}` is not true or false"))?;
        Ok((name.trim().to_owned(), value))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(gate).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        kube_proxy: KubeProxyArgs,
        #[command(flatten)]
        policy: PolicyArgs,
    }

    fn settings(flags: &str) -> Result<Settings> {
        let words = std::iter::once("x").chain(flags.split_whitespace());
        let Flags { kube_proxy, policy } = Flags::try_parse_from(words)?;
        kube_proxy.settings(&kube_proxy.config(&policy))
    }

    #[test]
    fn servers_have_the_addresses_of_the_flags() {
        let cases = [
            ("", "0.0.0.0:10256", "127.0.0.1:10249"),
            ("--bind-address fd00::1", "[::]:10256", "[::1]:10249"),
            ("--healthz-bind-address 10.0.0.1", "10.0.0.1:10256", "127.0.0.1:10249"),
            ("--healthz-bind-address= --metrics-port=0", "off", "off"),
            ("--healthz-port 1 --metrics-port 2", "0.0.0.0:1", "127.0.0.1:2"),
            ("--metrics-bind-address [::]:7 --metrics-port 2", "0.0.0.0:10256", "[::]:7"),
            ("--metrics-bind-address :: --metrics-port 2", "0.0.0.0:10256", "[::]:2"),
        ];
        for (flags, healthz, metrics) in cases {
            let serving = settings(flags).unwrap().serving;
            let text =
                |address: Option<SocketAddr>| address.map_or("off".into(), |address| address.to_string());
            assert_eq!(
                (text(serving.healthz), text(serving.metrics)),
                (healthz.into(), metrics.into()),
                "{flags}"
            );
        }
    }

    #[test]
    fn values_that_kube_proxy_refuses_are_refused() {
        for flags in [
            "--healthz-bind-address 10.0.0.1:x",
            "--iptables-sync-period -1s",
            "--iptables-sync-period=-1s",
            "--conntrack-min=-1",
            "--oom-score-adj 1001",
            "--feature-gates X=maybe",
            "--detect-local-mode BridgeInterface",
            "--proxy-mode userspace",
            "--config-sync-period 30",
        ] {
            assert!(settings(flags).is_err(), "{flags}");
        }
    }

    #[test]
    fn every_flag_of_kube_proxy_is_accepted() {
        let flags = "--hostname-override=n --cluster-cidr=10.0.0.0/8,fd00::/48 --proxy-mode=nftables --profiling \
            --nodeport-addresses=10.0.0.0/8,fd00::/48 --bind-address=0.0.0.0 --masquerade-all \
            --detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=cali --pod-bridge-interface=cbr0 \
            --iptables-min-sync-period=1s --iptables-sync-period=30s --iptables-localhost-nodeports=false \
            --iptables-masquerade-bit=14 --conntrack-max-per-core=1 --conntrack-min=2 \
            --conntrack-tcp-timeout-established=24h --conntrack-tcp-timeout-close-wait=1h \
            --conntrack-tcp-be-liberal --conntrack-udp-timeout=30s --conntrack-udp-timeout-stream=2m \
            --config-sync-period=15m --oom-score-adj=-998 --feature-gates=A=true,B=false --ipvs-scheduler=rr \
            --ipvs-exclude-cidrs=10.0.0.0/8 --ipvs-strict-arp --ipvs-tcp-timeout=0s --ipvs-tcpfin-timeout=0s \
            --ipvs-udp-timeout=0s --ipvs-sync-period=30s --ipvs-min-sync-period=0s --kube-api-qps=5 \
            --kube-api-burst=10 --kube-api-content-type=x --show-hidden-metrics-for-version=1.35 \
            --bind-address-hard-fail --vmodule=a=1 --log-flush-frequency=5s";
        let settings = settings(flags).unwrap();
        assert_eq!(settings.oom_score_adj, -998);
        assert_eq!(settings.pod_interface.as_deref(), Some("cali"));
        assert!(settings.serving.hard_fail);
        assert_eq!(settings.conntrack.udp_stream, Some(std::time::Duration::from_secs(120)));
        assert!(settings.conntrack.be_liberal);
    }
}
