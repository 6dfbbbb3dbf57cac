//! Everything the agent was told, as plain values.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::model::policy::Policy;

mod devices;
mod dns;
mod objects;

pub use devices::{DeviceConfig, DeviceSelection, Forwarding, TcHooks, XdpMode};
pub use dns::DnsConfig;
pub use objects::{Environment, Objects};

/// Where the agent looks and what it may do. Whoever wires it takes it apart in full, so that nothing goes unused.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where objects come from.
    pub objects: Objects,
    /// The cgroup whose sockets are translated; none: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    pub socket_lb: SocketLb,
    pub devices: DeviceConfig,
    /// Prepare beside a running agent, and continue when it ends.
    pub takeover: bool,
    /// Under which ABI version the maps are pinned; another than our own only in tests of upgrades.
    pub abi_version: u32,
    pub policy: Policy,
    /// None: names are not answered.
    pub dns: Option<DnsConfig>,
    pub host: HostConfig,
    /// The agent ends when it changes.
    pub config_file: Option<WatchedFile>,
    pub serving: ServingConfig,
    pub pages: Pages,
    /// Where `portreeve status` finds the agent.
    pub run_dir: PathBuf,
}

/// What pages for debugging show of how the agent was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// JSON.
    pub configz: String,
    pub arguments: Vec<String>,
}

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFile {
    pub path: PathBuf,
    pub text: String,
}

/// What is set on the node itself; nothing is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    pub conntrack: Option<ConntrackConfig>,
    pub oom_score_adj: Option<i32>,
}

/// Whose sockets are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SocketLb {
    /// Those of the node and of its pods
    All,
    /// Only those of the node's own network namespace; service meshes and virtual machines in pods want this
    HostOnly,
    /// None
    Off,
}

/// Where health and metrics are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServingConfig {
    /// /healthz and /livez; none: nowhere.
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// End instead of trying again when an address cannot be had.
    pub hard_fail: bool,
    /// A change that is older than this and not programmed yet is a fault.
    pub health_timeout: Duration,
}

/// Flow timeouts that kube-proxy's configuration asks for; nothing leaves them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConntrackConfig {
    /// Entries of the kernel's table per CPU; 0 leaves its size as it is.
    pub max_per_core: u32,
    /// Entries at least, however few the CPUs.
    pub min: u32,
    pub be_liberal: bool,
    pub tcp_established: Option<Duration>,
    pub tcp_close_wait: Option<Duration>,
    pub udp: Option<Duration>,
    pub udp_stream: Option<Duration>,
}

/// How long the packet plane remembers a flow without a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackTimeouts {
    pub tcp_established: Duration,
    pub tcp_close_wait: Duration,
    /// Only one side has spoken.
    pub udp: Duration,
    pub udp_stream: Duration,
}

impl Default for ConntrackTimeouts {
    /// kube-proxy's defaults, and the kernel's where kube-proxy leaves them alone.
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
