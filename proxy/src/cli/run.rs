//! `run`: the agent.

use std::path::PathBuf;

use anyhow::Result;
use proxy_ebpf::abi::ABI_VERSION;

use super::policy_args::PolicyArgs;
use crate::{
    config::{Config, SocketLb},
    run,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory of YAML files to serve, watched
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// The cgroup v2 directory whose sockets are translated [default: the cgroup2 mount]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    pins: PinArgs,
    /// Whose connections are translated when they are made
    #[arg(long, value_enum, default_value = "all", value_name = "WHO")]
    socket_lb: SocketLb,
    /// Start beside a running agent: prepare, report ready, and continue where it ends
    #[arg(long)]
    takeover: bool,
    /// Pin the maps under another ABI version, to try an upgrade
    #[arg(long, hide = true, default_value_t = ABI_VERSION)]
    abi_version: u32,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// Where the data plane is kept.
#[derive(Debug, clap::Args)]
pub struct PinArgs {
    /// Where maps and links are pinned, on a bpffs; they outlive the agent
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/portreeve")]
    pub bpffs: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    let Args { manifests, cgroup, pins, socket_lb, takeover, abi_version, policy } = args;
    let policy = policy.policy()?;
    let config = Config { manifests, cgroup, bpffs: pins.bpffs, socket_lb, takeover, abi_version, policy };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run::run(config))
}
