//! Everything the agent was told, as plain values.

use std::path::PathBuf;

use crate::model::policy::Policy;

/// Where the agent looks and what it may do. Whoever wires it takes it apart in full, so that nothing goes unused.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// The cgroup whose sockets are translated; none: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    pub socket_lb: SocketLb,
    /// Prepare beside a running agent, and continue when it ends.
    pub takeover: bool,
    /// Under which ABI version the maps are pinned; another than our own only in tests of upgrades.
    pub abi_version: u32,
    pub policy: Policy,
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
