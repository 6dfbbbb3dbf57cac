//! Validation of the fields and conversion to settings. All errors are reported together.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    time::Duration,
};

use ipnetwork::IpNetwork;

use super::{file::KubeProxyConfiguration, go_duration::GoDuration};
use crate::{
    config::{ConntrackConfig, ServingConfig},
    model::{
        address::{IpFamily, PerFamily, parse_ip, parse_network},
        policy::{DetectLocal, NodePortAddresses},
    },
};

/// The settings of the agent from kube-proxy's file.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub node_name: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    /// The node's primary address. Its family is the primary family.
    pub bind_address: Option<IpAddr>,
    pub nodeport_addresses: NodePortAddresses,
    /// `None` in modes without this field.
    pub localhost_nodeports: Option<bool>,
    pub cluster_cidrs: PerFamily<Option<IpNetwork>>,
    pub detect_local: DetectLocal,
    /// The bridge or interface name prefix of pods, if `detect_local` needs one.
    pub pod_interface: Option<String>,
    pub masquerade_all: bool,
    pub external_ips: bool,
    pub serving: ServingConfig,
    pub conntrack: ConntrackConfig,
    pub oom_score_adj: i32,
    pub logging: LoggingSettings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoggingSettings {
    pub is_json: bool,
    /// klog verbosity: 4 and above are debug messages.
    pub verbosity: u32,
}

/// A field with an invalid value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: &'static str,
    pub message: String,
}

/// kube-proxy's mode. Here it only selects the section of the file and the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Iptables,
    Ipvs,
    Nftables,
}

impl Mode {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "iptables" => Ok(Self::Iptables),
            "ipvs" => Ok(Self::Ipvs),
            "nftables" => Ok(Self::Nftables),
            other => Err(format!("`{other}` is not iptables, ipvs, nftables or empty")),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        }
    }

    /// The default of `nodePortAddresses`.
    pub fn default_nodeport_addresses(self) -> NodePortAddresses {
        match self {
            Self::Iptables | Self::Ipvs => NodePortAddresses::Cidrs(Vec::new()),
            Self::Nftables => NodePortAddresses::Primary,
        }
    }
}

/// The fields that depend on the mode, from its section.
struct Section {
    masquerade_all: bool,
    localhost_node_ports: Option<bool>,
    sync_period: GoDuration,
    min_sync_period: GoDuration,
    sync_field: &'static str,
    min_sync_field: &'static str,
}

impl Section {
    fn of(config: &KubeProxyConfiguration, mode: Mode) -> Self {
        match mode {
            Mode::Iptables => Self {
                masquerade_all: config.iptables.masquerade_all,
                localhost_node_ports: config.iptables.localhost_node_ports,
                sync_period: config.iptables.sync_period,
                min_sync_period: config.iptables.min_sync_period,
                sync_field: "iptables.syncPeriod",
                min_sync_field: "iptables.minSyncPeriod",
            },
            // In IPVS mode kube-proxy reads `iptables.masqueradeAll`.
            Mode::Ipvs => Self {
                masquerade_all: config.iptables.masquerade_all,
                localhost_node_ports: None,
                sync_period: config.ipvs.sync_period,
                min_sync_period: config.ipvs.min_sync_period,
                sync_field: "ipvs.syncPeriod",
                min_sync_field: "ipvs.minSyncPeriod",
            },
            Mode::Nftables => Self {
                masquerade_all: config.nftables.masquerade_all,
                localhost_node_ports: None,
                sync_period: config.nftables.sync_period,
                min_sync_period: config.nftables.min_sync_period,
                sync_field: "nftables.syncPeriod",
                min_sync_field: "nftables.minSyncPeriod",
            },
        }
    }
}

/// Validates a configuration with defaults.
pub fn settings(config: &KubeProxyConfiguration) -> Result<Settings, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    let mode = errors.value("mode", Mode::parse(&config.mode));
    let section = Section::of(config, mode);
    let (detect_local, pod_interface) = errors.detect_local(config);
    let settings = Settings {
        node_name: not_empty(&config.hostname_override),
        kubeconfig: not_empty(&config.client_connection.kubeconfig).map(PathBuf::from),
        bind_address: errors.value("bindAddress", specified_address(&config.bind_address)),
        nodeport_addresses: errors.nodeport_addresses(&config.node_port_addresses, mode),
        localhost_nodeports: section.localhost_node_ports,
        cluster_cidrs: errors.value("clusterCIDR", cluster_cidrs(&config.cluster_cidr)),
        detect_local,
        pod_interface,
        masquerade_all: section.masquerade_all,
        external_ips: config.feature_gates.get("AllowServiceExternalIPs").copied().unwrap_or(true),
        serving: ServingConfig {
            healthz: errors.value("healthzBindAddress", bind_address(&config.healthz_bind_address)),
            metrics: errors.value("metricsBindAddress", bind_address(&config.metrics_bind_address)),
            hard_fail: config.bind_address_hard_fail,
            health_timeout: 2 * section.sync_period.to_std(),
        },
        conntrack: errors.conntrack(config),
        oom_score_adj: config.oom_score_adj.unwrap_or_default(),
        logging: LoggingSettings {
            is_json: errors.value("logging.format", is_json(&config.logging.format)),
            verbosity: config.logging.verbosity,
        },
    };
    errors.ranges(config, &section);
    if errors.errors.is_empty() { Ok(settings) } else { Err(errors.errors) }
}

#[derive(Default)]
struct FieldErrors {
    errors: Vec<FieldError>,
}

impl FieldErrors {
    fn add(&mut self, field: &'static str, message: impl Into<String>) {
        self.errors.push(FieldError { field, message: message.into() });
    }

    fn require(&mut self, holds: bool, field: &'static str, message: &str) {
        if !holds {
            self.add(field, message);
        }
    }

    /// Returns a valid value, or records the error. The default returned with an error is never used: one error makes the
    /// whole file invalid.
    fn value<T: Default>(&mut self, field: &'static str, value: Result<T, String>) -> T {
        value.unwrap_or_else(|message| {
            self.add(field, message);
            T::default()
        })
    }

    fn detect_local(&mut self, config: &KubeProxyConfiguration) -> (DetectLocal, Option<String>) {
        let bridge = not_empty(&config.detect_local.bridge_interface);
        let prefix = not_empty(&config.detect_local.interface_name_prefix);
        match config.detect_local_mode.as_str() {
            "ClusterCIDR" => (DetectLocal::ClusterCidr, None),
            "NodeCIDR" => (DetectLocal::NodeCidr, None),
            "BridgeInterface" => {
                self.require(
                    bridge.is_some(),
                    "detectLocal.bridgeInterface",
                    "required by detectLocalMode BridgeInterface",
                );
                (DetectLocal::BridgeInterface, bridge)
            }
            "InterfaceNamePrefix" => {
                self.require(
                    prefix.is_some(),
                    "detectLocal.interfaceNamePrefix",
                    "required by detectLocalMode InterfaceNamePrefix",
                );
                (DetectLocal::InterfaceNamePrefix, prefix)
            }
            other => {
                let known = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
                self.add("detectLocalMode", format!("`{other}` is not {known}"));
                (DetectLocal::ClusterCidr, None)
            }
        }
    }

    fn nodeport_addresses(&mut self, listed: &[String], mode: Mode) -> NodePortAddresses {
        match listed {
            [] => mode.default_nodeport_addresses(),
            _ => {
                let parsed = NodePortAddresses::parse(listed.iter().map(String::as_str));
                parsed.unwrap_or_else(|message| {
                    self.add("nodePortAddresses", message);
                    NodePortAddresses::Primary
                })
            }
        }
    }

    fn conntrack(&mut self, config: &KubeProxyConfiguration) -> ConntrackConfig {
        let conntrack = &config.conntrack;
        let limit = |value: Option<i32>| u32::try_from(value.unwrap_or_default()).map_err(|_| negative());
        ConntrackConfig {
            max_per_core: self.value("conntrack.maxPerCore", limit(conntrack.max_per_core)),
            min: self.value("conntrack.min", limit(conntrack.min)),
            be_liberal: conntrack.tcp_be_liberal,
            tcp_established: self.timeout(
                "conntrack.tcpEstablishedTimeout",
                conntrack.tcp_established_timeout.unwrap_or_default(),
            ),
            tcp_close_wait: self.timeout(
                "conntrack.tcpCloseWaitTimeout",
                conntrack.tcp_close_wait_timeout.unwrap_or_default(),
            ),
            udp: self.timeout("conntrack.udpTimeout", conntrack.udp_timeout),
            udp_stream: self.timeout("conntrack.udpStreamTimeout", conntrack.udp_stream_timeout),
        }
    }

    /// A timeout. Zero leaves the sysctl unchanged.
    fn timeout(&mut self, field: &'static str, value: GoDuration) -> Option<Duration> {
        self.require(!value.is_negative(), field, &negative());
        (!value.is_zero()).then(|| value.to_std())
    }

    fn ranges(&mut self, config: &KubeProxyConfiguration, section: &Section) {
        let is_bit = |bit: Option<i32>| bit.is_none_or(|bit| (0..=31).contains(&bit));
        let bit = "must be within 0 and 31";
        self.require(is_bit(config.iptables.masquerade_bit), "iptables.masqueradeBit", bit);
        self.require(is_bit(config.nftables.masquerade_bit), "nftables.masqueradeBit", bit);
        let is_score = config.oom_score_adj.is_none_or(|score| (-1000..=1000).contains(&score));
        self.require(is_score, "oomScoreAdj", "must be within -1000 and 1000");
        let positive = "must be greater than 0";
        self.require(config.config_sync_period > GoDuration::ZERO, "configSyncPeriod", positive);
        self.require(section.sync_period > GoDuration::ZERO, section.sync_field, positive);
        let gap = GoDuration::ZERO..=section.sync_period;
        let is_gap = gap.contains(&section.min_sync_period);
        self.require(is_gap, section.min_sync_field, "must be within 0 and syncPeriod");
        self.require(config.client_connection.burst >= 0, "clientConnection.burst", &negative());
    }
}

fn negative() -> String {
    "must not be negative".to_owned()
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The address, or `None` for an unspecified one (`0.0.0.0`, `::`).
fn specified_address(text: &str) -> Result<Option<IpAddr>, String> {
    let address = parse_ip(text).ok_or_else(|| format!("`{text}` is not an IP address"))?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

/// Parses `IP:port`. Never `None`: a file cannot turn a server off, since empty fields got defaults.
fn bind_address(text: &str) -> Result<Option<SocketAddr>, String> {
    let invalid = || format!("`{text}` is not IP:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':')).ok_or_else(invalid)?,
        None if host.contains(':') => return Err(invalid()),
        None => host,
    };
    let address = parse_ip(host).ok_or_else(invalid)?;
    let port: NonZeroU16 = port.parse().map_err(|_| format!("`{port}` is not a port within 1 and 65535"))?;
    Ok(Some(SocketAddr::new(address, port.get())))
}

/// Parses one network, or one of each family.
fn cluster_cidrs(text: &str) -> Result<PerFamily<Option<IpNetwork>>, String> {
    let mut networks = PerFamily::<Option<IpNetwork>>::default();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let network =
            parse_network(part).ok_or_else(|| format!("`{part}` is not a network in CIDR notation"))?;
        let family = IpFamily::of(network.ip());
        if networks.get_mut(family).replace(network).is_some() {
            return Err(format!("`{text}` has more than one {family} network"));
        }
    }
    Ok(networks)
}

fn is_json(format: &str) -> Result<bool, String> {
    match format {
        "json" => Ok(true),
        "text" => Ok(false),
        other => Err(format!("`{other}` is not text or json")),
    }
}
