//! The type `kubeproxy.config.k8s.io/v1alpha1` with all fields and kube-proxy's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::go_duration::GoDuration;
use crate::model::address::parse_ip;

pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub const KIND: &str = "KubeProxyConfiguration";

const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyConfiguration {
    pub api_version: String,
    pub kind: String,
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: Logging,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
    pub winkernel: Winkernel,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Vec<String>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: GoDuration,
    pub port_range: String,
    pub windows_run_as_service: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    pub format: String,
    /// A duration or a number of nanoseconds.
    pub flush_frequency: Value,
    pub verbosity: u32,
    pub vmodule: Vec<Value>,
    pub options: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Iptables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipvs {
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Vec<String>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    pub tcp_timeout: GoDuration,
    pub tcp_fin_timeout: GoDuration,
    pub udp_timeout: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Nftables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Winkernel {
    pub network_name: String,
    pub source_vip: String,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    pub root_hns_endpoint_name: String,
    pub forward_health_check_vip: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: GoDuration,
    pub udp_stream_timeout: GoDuration,
}

impl KubeProxyConfiguration {
    /// kube-proxy's configuration without a file.
    pub fn upstream_default() -> Self {
        let mut config =
            Self { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), ..Self::default() };
        config.set_defaults();
        config
    }

    /// Sets kube-proxy's default for absent fields, and for zero values that mean the same.
    pub fn set_defaults(&mut self) {
        or_default(&mut self.bind_address, "0.0.0.0");
        let is_v6 = parse_ip(&self.bind_address).is_some_and(|address| address.is_ipv6());
        let (any, loopback) = if is_v6 { ("[::]", "[::1]") } else { ("0.0.0.0", "127.0.0.1") };
        self.healthz_bind_address = with_port(&self.healthz_bind_address, any, HEALTHZ_PORT);
        self.metrics_bind_address = with_port(&self.metrics_bind_address, loopback, METRICS_PORT);
        or_default(&mut self.detect_local_mode, "ClusterCIDR");
        self.oom_score_adj.get_or_insert(-999);
        or_default_period(&mut self.config_sync_period, 15 * 60);
        self.client_connection.set_defaults();
        self.iptables.set_defaults();
        self.nftables.set_defaults();
        or_default_period(&mut self.ipvs.sync_period, 30);
        self.conntrack.set_defaults();
        or_default(&mut self.logging.format, "text");
    }
}

impl ClientConnection {
    fn set_defaults(&mut self) {
        or_default(&mut self.content_type, "application/vnd.kubernetes.protobuf");
        if self.qps == 0.0 {
            self.qps = 5.0;
        }
        if self.burst == 0 {
            self.burst = 10;
        }
    }
}

impl Iptables {
    fn set_defaults(&mut self) {
        self.masquerade_bit.get_or_insert(14);
        self.localhost_node_ports.get_or_insert(true);
        or_default_period(&mut self.sync_period, 30);
        or_default_period(&mut self.min_sync_period, 1);
    }
}

impl Nftables {
    fn set_defaults(&mut self) {
        self.masquerade_bit.get_or_insert(14);
        or_default_period(&mut self.sync_period, 30);
        or_default_period(&mut self.min_sync_period, 1);
    }
}

impl Conntrack {
    fn set_defaults(&mut self) {
        self.max_per_core.get_or_insert(32 * 1024);
        self.min.get_or_insert(128 * 1024);
        self.tcp_established_timeout.get_or_insert(GoDuration::seconds(24 * 60 * 60));
        self.tcp_close_wait_timeout.get_or_insert(GoDuration::seconds(60 * 60));
    }
}

fn or_default(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn or_default_period(field: &mut GoDuration, seconds: i64) {
    if field.is_zero() {
        *field = GoDuration::seconds(seconds);
    }
}

/// Adds the default port to a bare address. An invalid address stays unchanged, for the validation to report.
fn with_port(text: &str, default: &str, port: u16) -> String {
    match parse_ip(text) {
        Some(address) if address.is_ipv6() => format!("[{text}]:{port}"),
        Some(_) => format!("{text}:{port}"),
        None if text.is_empty() => format!("{default}:{port}"),
        None => text.to_owned(),
    }
}
