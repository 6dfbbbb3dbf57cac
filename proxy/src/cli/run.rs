//! `run`: the agent.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use proxy_ebpf::abi::ABI_VERSION;

use super::{
    agents,
    device_args::DeviceArgs,
    dns_args::{DnsArgs, ServerRole},
    effective_config::{EffectiveConfig, effective_config},
    kube_proxy_args::KubeProxyArgs,
    name_server_args::NameServerArgs,
    policy_args::PolicyArgs,
    source_args::SourceArgs,
    table_args::TableArgs,
};
use crate::{
    config::{Config, KernelSeries, Pages, PassiveHealth, SocketLb, Switch},
    host,
    kube_proxy_config::{ConfigFile, KubeProxyConfiguration, default_file},
    memory,
    model::policy::Policy,
    run,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The cgroup v2 directory whose sockets the socket LB translates [default: the cgroup2 mount]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    pins: PinArgs,
    #[command(flatten)]
    run_dir: RunDirArgs,
    /// The sockets whose connections are translated at connect. Connections of the node to its own addresses always are
    #[arg(long, value_enum, default_value = "all", value_name = "WHO")]
    socket_lb: SocketLb,
    /// Whether connections of sockets through Services to pods that are gone for good are reset: their endpoint is in no slice any
    /// more and does not answer, or another pod has the address. Off: they hang until the kernel gives them up
    #[arg(long, value_enum, default_value = "on", value_name = "SWITCH")]
    reset_stale_connections: Switch,
    /// The use of what this node's TCP connections find out about backends
    #[arg(long, value_enum, default_value = "observe", value_name = "HOW")]
    passive_health: PassiveHealth,
    #[command(flatten)]
    devices: DeviceArgs,
    /// Run the cluster DNS server [default: if another DNS flag is given]
    #[arg(long, overrides_with = "no_dns")]
    dns: bool,
    /// Do not run the DNS server
    #[arg(long, overrides_with = "dns")]
    no_dns: bool,
    #[command(flatten)]
    names: DnsArgs,
    #[command(flatten)]
    name_server: NameServerArgs,
    #[command(flatten)]
    tables: TableArgs,
    /// Start beside a running agent: prepare, report ready, and take over when it ends
    #[arg(long)]
    takeover: bool,
    /// Pin the maps under another ABI version, to test an upgrade
    #[arg(long, hide = true, default_value_t = ABI_VERSION)]
    abi_version: u32,
    /// Serve the counters of each service port in /metrics: 26 series per port in use [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    service_metrics: Option<bool>,
    /// Serve the connections of each backend in /metrics, too: eleven series per backend in use
    #[arg(long)]
    metrics_per_backend: bool,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    kube_proxy: KubeProxyArgs,
}

/// The pin directory of the data plane.
#[derive(Debug, clap::Args)]
pub struct PinArgs {
    /// Directory on a bpffs where maps and links are pinned; they outlive the agent
    #[arg(long, value_name = "DIR", default_value = agents::BPFFS)]
    pub bpffs: PathBuf,
}

/// The directory of the agent's control socket.
#[derive(Debug, clap::Args)]
pub struct RunDirArgs {
    /// Directory of the agent's control socket, which `status` and `get` use
    #[arg(long, value_name = "DIR", default_value = agents::RUN_DIR)]
    pub run_dir: PathBuf,
}

pub fn run(args: Args, file: Option<ConfigFile>) -> Result<()> {
    if let Some(path) = &args.kube_proxy.write_config_to {
        return fs::write(path, default_file()?).with_context(|| format!("cannot write {}", path.display()));
    }
    let Args {
        source,
        cgroup,
        pins,
        run_dir,
        socket_lb,
        reset_stale_connections,
        passive_health,
        devices,
        dns,
        no_dns,
        names,
        name_server,
        tables,
        takeover,
        abi_version,
        service_metrics,
        metrics_per_backend,
        policy: policy_args,
        kube_proxy,
    } = args;
    let EffectiveConfig { settings, config: configz, host, file } =
        effective_config(&kube_proxy, &policy_args, file)?;
    let has_dns = dns || (names.are_given() || name_server.are_given()) && !no_dns;
    if kube_proxy.init_only {
        // Settings that this node does not allow must not hold up the agent, which works without them.
        host::apply(&host);
        if has_dns {
            host::hand_over_connections();
        }
        return Ok(());
    }
    memory::limit_allocator(!has_dns);
    let policy = policy_args.policy(file.is_some().then_some(&settings))?;
    let dns = has_dns.then(|| names.config(ServerRole::Agent)).transpose()?;
    // Its addresses are those of the node, which the agent follows.
    let name_server = dns.as_ref().map(|dns| name_server.name_server(Some(Vec::new()), dns.allow.clone()));
    // `external_ips` is a feature gate, which only `run` has as a flag.
    let policy = Policy { external_ips: settings.external_ips, name_server, ..policy };
    let config = Config {
        objects: source.objects(settings.kubeconfig.clone()),
        cgroup,
        bpffs: pins.bpffs,
        socket_lb,
        reset_stale_connections,
        passive_health,
        devices: devices.config(),
        takeover,
        abi_version,
        policy,
        dns,
        shares: tables.shares(),
        sizes: tables.sizes(host.conntrack.as_ref()),
        host,
        config_file: file,
        serving: settings.serving,
        pages: pages(&configz, series(service_metrics.unwrap_or(true), metrics_per_backend)),
        run_dir: run_dir.run_dir,
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run::run(config))
}

/// The pages /configz and /flagz. As in kube-proxy, /configz has the configuration below its API group.
fn pages(config: &KubeProxyConfiguration, series: KernelSeries) -> Pages {
    let configz = serde_json::json!({ "kubeproxy.config.k8s.io": config }).to_string();
    Pages { configz, arguments: env::args().skip(1).collect(), series }
}

fn series(has_services: bool, has_backends: bool) -> KernelSeries {
    match (has_services, has_backends) {
        (_, true) => KernelSeries::Backends,
        (true, false) => KernelSeries::Services,
        (false, false) => KernelSeries::Node,
    }
}
