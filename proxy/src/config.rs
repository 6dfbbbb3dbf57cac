//! The agent's configuration as plain values.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::model::policy::Policy;

mod devices;
mod dns;
mod objects;

pub use devices::{DeviceConfig, DeviceSelection, Forwarding, TcHooks, XdpMode};
pub use dns::DnsConfig;
pub use objects::{Environment, Objects};

/// The agent's configuration. The wiring destructures it in full, so that no field goes unused.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source of objects.
    pub objects: Objects,
    /// The cgroup whose sockets are translated; `None`: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// The pin directory.
    pub bpffs: PathBuf,
    pub socket_lb: SocketLb,
    pub reset_stale_connections: Switch,
    pub passive_health: PassiveHealth,
    pub devices: DeviceConfig,
    /// Prepare beside a running agent, and take over when it ends.
    pub takeover: bool,
    /// The ABI version of the maps; differs from our own only in tests of upgrades.
    pub abi_version: u32,
    pub policy: Policy,
    /// `None`: DNS is not served.
    pub dns: Option<DnsConfig>,
    pub host: HostConfig,
    pub shares: TableShares,
    pub sizes: TableSizes,
    /// A change of this file ends the agent.
    pub config_file: Option<WatchedFile>,
    pub serving: ServingConfig,
    pub pages: Pages,
    /// The directory of the control socket.
    pub run_dir: PathBuf,
}

/// The shares of each table of the data plane that one Service and one namespace may take, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableShares {
    pub service: u8,
    pub namespace: u8,
}

/// Entries of the tables of the data plane; `None`: as many as there are, or the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSizes {
    /// Per family.
    pub flows: Option<u32>,
    /// Of both families together.
    pub frontends: Option<u32>,
    /// Per family.
    pub backends: Option<u32>,
    pub slots: Option<u32>,
    pub service_ports: Option<u32>,
    /// Per family.
    pub source_ranges: Option<u32>,
}

/// The pages of the metrics server: the configuration as debugging pages show it, and the extent of the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// JSON.
    pub configz: String,
    pub arguments: Vec<String>,
    pub series: KernelSeries,
}

/// The kernel's counters in /metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelSeries {
    /// Those of the node alone.
    #[default]
    Node,
    /// Also those of each service port.
    Services,
    /// Also those of each backend.
    Backends,
}

/// A file with its content at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFile {
    pub path: PathBuf,
    pub text: String,
}

/// Settings of the node; `None`: left unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    pub conntrack: Option<ConntrackConfig>,
    /// Reserve a range of ports for masquerading if the node's own connections may have all.
    pub reserve_ports: bool,
    pub oom_score_adj: Option<i32>,
}

/// The sockets that are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SocketLb {
    /// Those of the node and of its pods
    All,
    /// Only those of the node's own network namespace; service meshes and virtual machines in pods want this
    HostOnly,
    /// None but those of the node that dial its own addresses, as their packets pass no device
    Off,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// The use of what connections find out about backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PassiveHealth {
    /// Backends that do not answer, refuse or reset get no new connections while others are sound, and a connection whose first
    /// packet is not answered goes on at another backend
    On,
    /// Backends are shown as suspected, and chosen all the same
    Observe,
    /// Nothing is recorded
    Off,
}

/// Whether the user wants output without colour, even on a terminal.
pub fn is_colour_refused() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

impl SocketLb {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::HostOnly => "host-only",
            Self::Off => "off",
        }
    }
}

/// Addresses of the health and metrics servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServingConfig {
    /// /healthz and /livez; `None`: not served.
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// End the agent if an address cannot be bound, instead of retrying.
    pub hard_fail: bool,
    /// The age from which a change that is not programmed is a fault.
    pub health_timeout: Duration,
}

/// Conntrack settings of kube-proxy's configuration; `None`: left unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConntrackConfig {
    /// Entries of the kernel's conntrack table per CPU; 0 leaves its size unchanged.
    pub max_per_core: u32,
    /// The minimum of entries, independent of the CPUs.
    pub min: u32,
    pub be_liberal: bool,
    pub tcp_established: Option<Duration>,
    pub tcp_close_wait: Option<Duration>,
    pub udp: Option<Duration>,
    pub udp_stream: Option<Duration>,
}

/// Idle timeouts of the packet plane's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackTimeouts {
    pub tcp_established: Duration,
    pub tcp_close_wait: Duration,
    /// No reply was seen.
    pub udp: Duration,
    pub udp_stream: Duration,
}

impl Default for ConntrackTimeouts {
    /// kube-proxy's defaults, and the kernel's where kube-proxy has none.
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(24 * 60 * 60),
            tcp_close_wait: Duration::from_secs(60 * 60),
            udp: Duration::from_secs(30),
            udp_stream: Duration::from_secs(120),
        }
    }
}

impl ConntrackConfig {
    /// kube-proxy's defaults.
    pub const MAX_PER_CORE: u32 = 32_768;
    pub const MIN: u32 = 131_072;

    /// The configured number of tracked flows. Returns `None` for kube-proxy's defaults, which are no wish: most flows
    /// are translated at sockets, and a table for those of all CPUs takes its memory at once.
    pub fn flows(&self, cpus: u32) -> Option<u32> {
        let is_default = (self.max_per_core, self.min) == (Self::MAX_PER_CORE, Self::MIN);
        self.table_size(cpus).filter(|_| !is_default)
    }

    /// The entries of the kernel's conntrack table, as kube-proxy computes them. Returns `None` if it is to stay as it
    /// is.
    pub fn table_size(&self, cpus: u32) -> Option<u32> {
        /// About 300 MB of kernel memory. More needs an explicit setting by the operator.
        const MAX_ENTRIES: u32 = 1_048_576;
        let scaled = self.max_per_core.saturating_mul(cpus);
        (self.max_per_core > 0).then(|| scaled.max(self.min).min(MAX_ENTRIES))
    }

    pub fn timeouts(&self) -> ConntrackTimeouts {
        let default = ConntrackTimeouts::default();
        ConntrackTimeouts {
            tcp_established: self.tcp_established.unwrap_or(default.tcp_established),
            tcp_close_wait: self.tcp_close_wait.unwrap_or(default.tcp_close_wait),
            udp: self.udp.unwrap_or(default.udp),
            udp_stream: self.udp_stream.unwrap_or(default.udp_stream),
        }
    }
}
