//! What the fields mean to us, as narrow values. Everything that is wrong is named at once, not one per attempt.

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

/// What kube-proxy's file asks of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub node_name: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    /// The node's primary address of its family, and its family the primary one.
    pub bind_address: Option<IpAddr>,
    pub nodeport_addresses: NodePortAddresses,
    /// Modes without the switch say nothing.
    pub localhost_nodeports: Option<bool>,
    pub cluster_cidrs: PerFamily<Option<IpNetwork>>,
    pub detect_local: DetectLocal,
    /// The bridge, or the prefix, by which the mode tells pods.
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
    /// klog's: 4 and more are for debugging.
    pub verbosity: u32,
}

/// A field whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub field: &'static str,
    pub what: String,
}

/// How upstream would program the rules. Here it only chooses the section that counts, and what is the default.
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

    /// Where NodePorts are served when nothing says so.
    pub fn default_nodeport_addresses(self) -> NodePortAddresses {
        match self {
            Self::Iptables | Self::Ipvs => NodePortAddresses::Cidrs(Vec::new()),
            Self::Nftables => NodePortAddresses::Primary,
        }
    }
}

/// What only the section of the active mode says.
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
            // Upstream keeps this mode's switch in the other section.
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

/// Takes a filled-in file apart.
pub fn settings(config: &KubeProxyConfiguration) -> Result<Settings, Vec<Problem>> {
    let mut problems = Problems::default();
    let mode = problems.value("mode", Mode::parse(&config.mode));
    let section = Section::of(config, mode);
    let (detect_local, pod_interface) = problems.detect_local(config);
    let settings = Settings {
        node_name: not_empty(&config.hostname_override),
        kubeconfig: not_empty(&config.client_connection.kubeconfig).map(PathBuf::from),
        bind_address: problems.value("bindAddress", specific_address(&config.bind_address)),
        nodeport_addresses: problems.nodeport_addresses(&config.node_port_addresses, mode),
        localhost_nodeports: section.localhost_node_ports,
        cluster_cidrs: problems.value("clusterCIDR", cluster_cidrs(&config.cluster_cidr)),
        detect_local,
        pod_interface,
        masquerade_all: section.masquerade_all,
        external_ips: config.feature_gates.get("AllowServiceExternalIPs").copied().unwrap_or(true),
        serving: ServingConfig {
            healthz: problems.value("healthzBindAddress", bind_address(&config.healthz_bind_address)),
            metrics: problems.value("metricsBindAddress", bind_address(&config.metrics_bind_address)),
            hard_fail: config.bind_address_hard_fail,
            health_timeout: 2 * section.sync_period.to_std(),
        },
        conntrack: problems.conntrack(config),
        oom_score_adj: config.oom_score_adj.unwrap_or_default(),
        logging: LoggingSettings {
            is_json: problems.value("logging.format", is_json(&config.logging.format)),
            verbosity: config.logging.verbosity,
        },
    };
    problems.ranges(config, &section);
    if problems.found.is_empty() { Ok(settings) } else { Err(problems.found) }
}

#[derive(Default)]
struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    fn add(&mut self, field: &'static str, what: impl Into<String>) {
        self.found.push(Problem { field, what: what.into() });
    }

    fn require(&mut self, holds: bool, field: &'static str, what: &str) {
        if !holds {
            self.add(field, what);
        }
    }

    /// A value that is wrong is named; what stands in for it is never used, as a problem refuses the whole file.
    fn value<T: Default>(&mut self, field: &'static str, value: Result<T, String>) -> T {
        value.unwrap_or_else(|what| {
            self.add(field, what);
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
                self.require(bridge.is_some(), "detectLocal.bridgeInterface", "the mode needs its name");
                (DetectLocal::BridgeInterface, bridge)
            }
            "InterfaceNamePrefix" => {
                self.require(prefix.is_some(), "detectLocal.interfaceNamePrefix", "the mode needs one");
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
            [only] if only == "primary" => NodePortAddresses::Primary,
            _ => {
                let networks = listed.iter().map(|text| network(text)).collect();
                NodePortAddresses::Cidrs(self.value("nodePortAddresses", networks))
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

    /// Zero leaves things as they are.
    fn timeout(&mut self, field: &'static str, value: GoDuration) -> Option<Duration> {
        self.require(!value.is_negative(), field, &negative());
        (!value.is_zero()).then(|| value.to_std())
    }

    fn ranges(&mut self, config: &KubeProxyConfiguration, section: &Section) {
        let is_bit = |bit: Option<i32>| bit.is_none_or(|bit| (0..=31).contains(&bit));
        let bit = "it is not within 0 and 31";
        self.require(is_bit(config.iptables.masquerade_bit), "iptables.masqueradeBit", bit);
        self.require(is_bit(config.nftables.masquerade_bit), "nftables.masqueradeBit", bit);
        let is_score = config.oom_score_adj.is_none_or(|score| (-1000..=1000).contains(&score));
        self.require(is_score, "oomScoreAdj", "it is not within -1000 and 1000");
        let positive = "it must be more than 0";
        self.require(config.config_sync_period > GoDuration::ZERO, "configSyncPeriod", positive);
        self.require(section.sync_period > GoDuration::ZERO, section.sync_field, positive);
        let gap = GoDuration::ZERO..=section.sync_period;
        let is_gap = gap.contains(&section.min_sync_period);
        self.require(is_gap, section.min_sync_field, "it is not within 0 and syncPeriod");
        self.require(config.client_connection.burst >= 0, "clientConnection.burst", &negative());
    }
}

fn negative() -> String {
    "it must not be negative".to_owned()
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The wildcards mean "no particular one".
fn specific_address(text: &str) -> Result<Option<IpAddr>, String> {
    let address = parse_ip(text).ok_or_else(|| format!("`{text}` is not an IP address"))?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

/// `IP:port`. A file has no way to say "nowhere": what is empty was filled in.
fn bind_address(text: &str) -> Result<Option<SocketAddr>, String> {
    let wanted = || format!("`{text}` is not IP:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':')).ok_or_else(wanted)?,
        None if host.contains(':') => return Err(wanted()),
        None => host,
    };
    let address = parse_ip(host).ok_or_else(wanted)?;
    let port: NonZeroU16 = port.parse().map_err(|_| format!("`{port}` is not a port within 1 and 65535"))?;
    Ok(Some(SocketAddr::new(address, port.get())))
}

fn network(text: &str) -> Result<IpNetwork, String> {
    parse_network(text)
        .ok_or_else(|| format!("`{text}` is not a network in CIDR notation, nor alone `primary`"))
}

/// One network, or one of each family.
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
